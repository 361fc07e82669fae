"""Optuna samplers that give the same trial again whenever the study before it is the same.

`random` and `qmc` are functions of the seed and the trial's number alone, so a sweep of them is the same
whatever runs at once and whatever ends first. `tpe`, `nsgaii` and `gp` look at the trials before; each draw
has a generator of its own, from the seed, the trial's number and the parameter. Optuna's own samplers carry
one generator along instead, which a process that is killed takes with it.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch.quasirandom import SobolEngine

from sweeps.spaces import Choices, Interval, Parameter

SamplerName = Literal["tpe", "nsgaii", "gp", "random", "qmc"]

ADAPTIVE: tuple[SamplerName, ...] = ("tpe", "nsgaii", "gp")
"""Samplers that look at the trials before."""


def num_startup(num_trials: int) -> int:
    """Trials drawn at random before `tpe` and `gp` begin to model: a third of a short sweep, at most ten.

    >>> num_startup(6), num_startup(30), num_startup(200)
    (2, 10, 10)
    """
    return max(2, min(10, num_trials // 3))


def population_size(num_trials: int) -> int:
    """Networks of a generation of `nsgaii`: about five generations, each of 4 to 20.

    Optuna's 50 is a random search for as many trials.

    >>> population_size(6), population_size(50), population_size(500)
    (4, 10, 20)
    """
    return max(4, min(20, num_trials // 5))


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as Optuna knows it."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.values)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def make_sampler(
    name: SamplerName, *, seed: int, parameters: Sequence[str], startup: int, population: int
) -> BaseSampler:
    """The sampler of a study.

    Args:
        name: which.
        seed: of all its draws.
        parameters: names of the space, in their order.
        startup: see `num_startup`.
        population: see `population_size`.
    """
    if name == "random":
        return PointwiseSampler(seed, parameters, _uniform)
    if name == "qmc":
        return PointwiseSampler(seed, parameters, _sobol)

    def made(draw_seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            # Of parts that Optuna calls experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if name == "tpe":
                return optuna.samplers.TPESampler(n_startup_trials=startup, seed=draw_seed)
            if name == "nsgaii":
                return optuna.samplers.NSGAIISampler(population_size=population, seed=draw_seed)
            return optuna.samplers.GPSampler(n_startup_trials=startup, seed=draw_seed)

    return RepeatableSampler(seed, made)


class PointwiseSampler(BaseSampler):
    """Takes the parameters of trial n from point n of a sequence in the unit cube."""

    def __init__(
        self,
        seed: int,
        parameters: Sequence[str],
        sequence: Callable[[int, int, int], Sequence[float]],
    ) -> None:
        """Prepare; `sequence` gives point `number` of a seed in so many dimensions, each in [0, 1)."""
        self._seed = seed
        self._axes = {name: axis for axis, name in enumerate(parameters)}
        self._sequence = sequence

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Optuna's question for what is sampled together: nothing has to be."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Optuna's question for parameters that are sampled together."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The coordinate of the trial's point, scaled to the parameter's range."""
        share = self._sequence(self._seed, trial.number, len(self._axes))[self._axes[param_name]]
        if isinstance(param_distribution, CategoricalDistribution):
            return Choices(tuple(param_distribution.choices)).at(share)  # type: ignore[arg-type]
        if isinstance(param_distribution, FloatDistribution):
            bounds = param_distribution
            return Interval(bounds.low, bounds.high, bounds.log).at(share)
        raise TypeError(f"no parameter of a space is sampled from a {type(param_distribution).__name__}")


def _uniform(seed: int, number: int, dimensions: int) -> list[float]:
    """Independent uniform numbers."""
    return [_draw_seed(seed, number, str(axis)) / 2**32 for axis in range(dimensions)]


def _sobol(seed: int, number: int, dimensions: int) -> list[float]:
    """Point `number` of a scrambled Sobol sequence, which covers the cube evenly."""
    engine = SobolEngine(dimensions, scramble=True, seed=seed)
    # The first point of float32 draws may be 1 when it is rounded.
    return [min(float(share), 1 - 2**-24) for share in engine.fast_forward(number).draw(1)[0]]


class RepeatableSampler(BaseSampler):
    """Asks a new sampler of Optuna's for each draw, whose seed says which draw it is."""

    def __init__(self, seed: int, made: Callable[[int], BaseSampler]) -> None:
        """Prepare; `made` makes Optuna's sampler with a seed."""
        self._seed = seed
        self._made = made
        self._together: tuple[int, BaseSampler] | None = None

    def _of_trial(self, trial: FrozenTrial) -> BaseSampler:
        """What samples the parameters of a trial that are sampled together."""
        if self._together is None or self._together[0] != trial.number:
            self._together = trial.number, self._made(_draw_seed(self._seed, trial.number, ""))
        return self._together[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Optuna's question for what is sampled together."""
        return self._of_trial(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Optuna's question for parameters that are sampled together."""
        return self._of_trial(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Optuna's question for a parameter by itself."""
        sampler = self._made(_draw_seed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Optuna's call before a trial."""
        self._together = None  # whatever was known of a trial of this number in another study
        self._of_trial(trial).before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Optuna's call after a trial."""
        self._of_trial(trial).after_trial(study, trial, state, values)


def _draw_seed(seed: int, number: int, name: str) -> int:
    """32 bits that stand for a draw."""
    text = json.dumps([seed, number, name])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

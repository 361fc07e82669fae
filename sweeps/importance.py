"""Which settings of the trials their results went with: Optuna's importances, beside what chance gives.

Shares of importance always sum to one, however little the settings explain. So each is set beside those of
the same trials with their results shuffled: what does not exceed these is not told apart from chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import Study, create_study
from optuna.trial import create_trial

from sweeps.mlflow_store import quiet
from sweeps.summary import counted

FEWEST_TRIALS = 10
"""With fewer trials no importance is given."""

SHUFFLES = 39
"""How often results are shuffled: by chance a share exceeds the largest of so many in one of forty."""

_TREES = 32
_FEW_VALUES = 8
"""A parameter with at most so many values counts as a choice among them."""

_NOT_SETTINGS = ("architecture.", "architecture_id", "data.", "profile.", "layer_latencies")
"""Beginnings of parameters that are no settings of a trial, or are derived by it."""
_SAME = ("retrain.seed", "search.seed", "search.tradeoff")
"""Settings that repeat `seed` and `tradeoff`."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of one result's variation a setting explains."""

    name: str
    """Of the setting."""
    share: float
    """Its share, 0 to 1; with those of the other settings 1."""
    chance: float
    """The largest share that it had when the results were shuffled."""

    @property
    def above_chance(self) -> bool:
        """Whether the share is told apart from chance, at one in forty."""
        return self.share > self.chance


@dataclass(frozen=True, slots=True)
class Importances:
    """What the settings explain of one result, or why nothing can be said."""

    found: list[Importance]
    """Largest first; empty where nothing can be said."""
    silence: str
    """Why nothing can be said, a sentence; empty otherwise."""


def importances(params: Sequence[Mapping[str, str]], values: Sequence[float]) -> Importances:
    """What the settings that differ between trials explain of a result.

    Args:
        params: of each trial, as MLflow has them.
        values: the result of each trial; finite.
    """
    varying = varying_params(params)
    if not varying:
        return Importances([], "All trials had the same settings, so no setting can explain anything.")
    if len(params) < FEWEST_TRIALS:
        return Importances(
            [],
            f"{counted(len(params), 'finished trial')} are too few to say which settings matter; "
            f"it takes {FEWEST_TRIALS}.",
        )
    if len(varying) == 1:
        return Importances(
            [],
            f"Only {next(iter(varying))} differs between the trials: there is nothing to weigh it against.",
        )
    if np.ptp(values) == 0:
        return Importances([], "All trials had the same result, so there is nothing to explain.")
    distributions = {name: _distribution(column) for name, column in varying.items()}
    results = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(0)
    with quiet("optuna"):
        shares = _shares(varying, distributions, results)
        shuffled = [_shares(varying, distributions, generator.permutation(results)) for _ in range(SHUFFLES)]
    found = [Importance(name, share, max(own[name] for own in shuffled)) for name, share in shares.items()]
    return Importances(sorted(found, key=lambda importance: -importance.share), "")


def varying_params(params: Sequence[Mapping[str, str]]) -> dict[str, list[float | str]]:
    """The settings that differ between trials, each with its value in every trial; numbers as numbers.

    >>> varying_params([{"seed": "0", "lr": "0.1"}, {"seed": "0", "lr": "0.2"}])
    {'lr': [0.1, 0.2]}
    """
    names = sorted({name for own in params for name in own})
    found: dict[str, list[float | str]] = {}
    for name in names:
        if name.startswith(_NOT_SETTINGS) or name.endswith("_used") or name in _SAME:
            continue
        column = [own.get(name) for own in params]
        if None in column or len(set(column)) == 1:  # a setting that some trials do not have is none of all
            continue
        texts = [str(value) for value in column]
        numbers = [_number(text) for text in texts]
        are_numbers = not any(math.isnan(number) for number in numbers)
        found[name] = [*numbers] if are_numbers else [*texts]
    return found


def _number(text: str) -> float:
    """A finite number, or NaN for any other text."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _distribution(column: Sequence[float | str]) -> BaseDistribution:
    distinct = sorted(set(column), key=lambda value: (isinstance(value, str), value))
    numbers = [value for value in distinct if isinstance(value, float)]
    if len(distinct) <= _FEW_VALUES or len(numbers) < len(distinct):
        return CategoricalDistribution(distinct)
    # Within a decade a logarithm would change little.
    log = numbers[0] > 0 and numbers[-1] > 10 * numbers[0]
    return FloatDistribution(numbers[0], numbers[-1], log=log)


def _shares(
    varying: Mapping[str, Sequence[float | str]],
    distributions: dict[str, BaseDistribution],
    values: npt.NDArray[np.float64],
) -> dict[str, float]:
    """By setting its share of the variance that fANOVA's forest attributes to single settings."""
    study = _study(varying, distributions, values)
    raw = FanovaImportanceEvaluator(n_trees=_TREES, seed=0).evaluate(study)
    total = sum(raw.values())
    return {name: float(value / total) if total > 0 else 0.0 for name, value in raw.items()}


def _study(
    varying: Mapping[str, Sequence[float | str]],
    distributions: dict[str, BaseDistribution],
    values: npt.NDArray[np.float64],
) -> Study:
    """A study in memory that holds the trials as if Optuna had run them."""
    study = create_study()
    study.add_trials(
        [
            create_trial(
                params={name: varying[name][row] for name in varying},
                distributions=distributions,
                value=float(value),
            )
            for row, value in enumerate(values)
        ]
    )
    return study

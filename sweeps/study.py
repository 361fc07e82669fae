"""An Optuna study that survives its process: where it is kept, and its trials asked and told in batches.

Trials are asked for in batches and told in the order of their numbers when a whole batch has been trained. So
what a sampler knows when it is asked does not depend on which trial ended first, and a study that was resumed
is the one that an undisturbed process would have made. A searcher inside Ray Tune's loop, which tells each
trial as it ends, would keep more processors busy and could promise neither.

A trial that was asked for is RUNNING until it is told. One that a dead process left so is taken up as the
same trial: its parameters are in the study, and what it has computed is in the sweep's store.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from easrec.errors import InputError
from sweeps.addresses import masked, without_credentials
from sweeps.samplers import distribution
from sweeps.spaces import Parameter, Point

JOURNAL = "study.journal"
"""What a sweep's directory calls the file of its study."""

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize",
    "flops": "minimize",
    "latency": "minimize",
}
"""Objective -> where it should go."""

_SETTINGS = "easrec.settings"
_FACTS = "easrec.facts"
_ORIGIN = "easrec.origin"

_FIRST_GENERATION = {optuna.samplers.NSGAIISampler._get_generation_key(): 0}
"""What makes a trial that NSGA-II did not ask for one of its first generation: it knows no others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial."""

    values: tuple[float, ...] | None
    """One number for each objective; None where the trial has none."""
    constraints: Mapping[str, float]
    """How far the trial is beyond each budget; at most 0 keeps it."""
    attributes: Mapping[str, Any]
    """What else the study keeps of it, as JSON values."""
    pruned: bool = False
    """Whether it has no values because it would be beyond a budget, or was stopped early; otherwise it
    failed."""


def study_name(sweep_id: str) -> str:
    """The name of a sweep's study: no two sweeps share one."""
    return f"easrec-{sweep_id}"


def open_storage(address: str | None, directory: Path, *, ours: bool = True) -> BaseStorage:
    """Where studies are kept: a database, or a journal in a sweep's directory.

    Args:
        address: of the database; None: the journal.
        directory: of the sweep.
        ours: whether no other process can be writing into the journal just now.

    Raises:
        InputError: the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if address is None:
        journal = directory / JOURNAL
        if ours:
            _cut_unfinished_line(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        return RDBStorage(address)
    except Exception as error:  # whatever SQLAlchemy and the database's driver came up with
        reason = " ".join(without_credentials(str(error), address).split())[:300]
        raise InputError(
            f"no study can be kept at --study {masked(address)} ({reason}); check the address and that its "
            "driver is installed"
        ) from error


def _cut_unfinished_line(journal: Path) -> None:
    """Take away the last line of a journal if a full disk cut it short: Optuna would refuse the file."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


class SweepStudy:
    """The study of one sweep."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        objectives: Sequence[str],
        parameters: Mapping[str, Parameter],
        settings: Mapping[str, int],
        facts: Mapping[str, Any],
        sampler: Callable[[Mapping[str, int]], BaseSampler],
    ) -> None:
        """Open the study, making it if it is missing.

        Args:
            storage: see `open_storage`.
            name: see `study_name`.
            objectives: names of `DIRECTIONS`, in the order of a trial's values.
            parameters: what is searched.
            settings: numbers that stay what they were when the study was made: `batch`, and the sampler's.
            facts: what its values depend on, for those who start from it later.
            sampler: makes the sampler from the settings.
        """
        self.name = name
        self.objectives = tuple(objectives)
        self._distributions = {key: distribution(value) for key, value in parameters.items()}
        directions = [DIRECTIONS[objective] for objective in objectives]
        self.study: Study = optuna.create_study(
            study_name=name, storage=storage, directions=directions, load_if_exists=True
        )
        if _SETTINGS not in self.study.user_attrs:
            with warnings.catch_warnings():
                # Optuna calls it experimental; the dashboard shows the names.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(objectives))
            self.study.set_user_attr(_FACTS, dict(facts))
            self.study.set_user_attr(_SETTINGS, dict(settings))
        self.settings: dict[str, int] = dict(self.study.user_attrs[_SETTINGS])
        self.study.sampler = sampler(self.settings)

    @property
    def batch(self) -> int:
        """Trials that are asked for and told together."""
        return self.settings["batch"]

    def own_trials(self) -> list[FrozenTrial]:
        """The trials of this sweep, by number; not those that it started from."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if _ORIGIN not in trial.user_attrs]

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, by number, those that the sweep started from too."""
        return self.study.get_trials(deepcopy=False, states=states)

    def ask(self, num_trials: int) -> list[FrozenTrial]:
        """The next batch, in the order of their numbers; empty when `num_trials` have been told.

        What a dead process has asked for and not told comes again, with the same numbers and parameters.
        """
        own = self.own_trials()
        begun = [trial for trial in own if trial.state == TrialState.RUNNING]
        first = own.index(begun[0]) if begun else len(own)
        # Batches have fixed ends, so one that was cut short is filled up to its own.
        end = min((first // self.batch + 1) * self.batch, num_trials)
        for trial in begun:
            # Its process may have died before it had all its parameters.
            self._suggest(Trial(self.study, trial._trial_id))
        for _ in range(len(own), end):
            self._suggest(self.study.ask())
        return [trial for trial in self.own_trials() if trial.state == TrialState.RUNNING]

    def _suggest(self, trial: Trial) -> None:
        for name, known in self._distributions.items():
            _suggest(trial, name, known)

    def tell(self, trial: FrozenTrial, outcome: Outcome) -> None:
        """Tell what became of a trial that was asked for.

        A value that is not finite counts as a failure: Optuna would leave such a trial RUNNING for ever.
        """
        attributes = dict(outcome.attributes)
        values = outcome.values
        if values is not None and not all(math.isfinite(value) for value in values):
            bad = next(
                f"{name} is {value}"
                for name, value in zip(self.objectives, values, strict=True)
                if not math.isfinite(value)
            )
            attributes["error"], values = bad, None
        running = Trial(self.study, trial._trial_id)
        for name, value in attributes.items():
            running.set_user_attr(name, value)
        for name, beyond in outcome.constraints.items():
            # Optuna warns of one that is there already, as it is where a process died before the next line.
            if name not in trial.constraints:
                running.set_constraint(name, beyond)
        if values is not None:
            self.study.tell(trial.number, list(values))
        else:
            # What is refused or stopped teaches some samplers; what failed teaches nothing.
            self.study.tell(trial.number, state=TrialState.PRUNED if outcome.pruned else TrialState.FAIL)

    def start_from(
        self, earlier: Study, constraints: Callable[[Mapping[str, Any]], dict[str, float] | None]
    ) -> tuple[int, int]:
        """Take the finished trials of a comparable study in; those that are there already stay as they are.

        Args:
            earlier: see `check_comparable`.
            constraints: how far a trial with these attributes is beyond the budgets of this sweep, or None if
                that is not known.

        Returns:
            How many are in, and how many were left out because this study has no such point or budget.

        Raises:
            InputError: it is this study.
        """
        if earlier.study_name == self.name:
            raise InputError("--start-from names the study of this sweep itself; --resume goes on with it")
        finished = earlier.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        fitting = [
            (trial, beyond)
            for trial in finished
            if self._has_point(trial.params) and (beyond := constraints(trial.user_attrs)) is not None
        ]
        there = {
            tuple(trial.user_attrs[_ORIGIN])
            for trial in self.study.get_trials(deepcopy=False)
            if _ORIGIN in trial.user_attrs
        }
        for trial, beyond in fitting:
            origin = (earlier.study_name, trial.number)
            if origin in there:
                continue
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    params={name: trial.params[name] for name in self._distributions},
                    distributions=self._distributions,
                    values=trial.values,
                    user_attrs={**trial.user_attrs, _ORIGIN: list(origin)},
                    system_attrs=dict(_FIRST_GENERATION),  # Optuna writes constraints into it
                    constraints=beyond or None,
                )
            )
        return len(fitting), len(finished) - len(fitting)

    def _has_point(self, params: Mapping[str, Any]) -> bool:
        return params.keys() == self._distributions.keys() and all(
            _contains(known, params[name]) for name, known in self._distributions.items()
        )


def _suggest(trial: Trial, name: str, known: BaseDistribution) -> None:
    """Have a trial take a value of a parameter, unless it has one."""
    if isinstance(known, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(name, known.choices)
    elif isinstance(known, optuna.distributions.FloatDistribution):
        trial.suggest_float(name, known.low, known.high, log=known.log)
    else:
        raise TypeError(f"{name} is sampled from a {type(known).__name__}, which no space has")


def _contains(known: BaseDistribution, value: Any) -> bool:
    if isinstance(known, optuna.distributions.CategoricalDistribution):
        return value in known.choices
    return known._contains(value)


def point_of(trial: FrozenTrial) -> Point:
    """What a trial is to try."""
    return dict(trial.params)


def load_study(name: str, storage: BaseStorage) -> Study:
    """A study that is there; `InputError` if it is not."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(sorted(study.study_name for study in storage.get_all_studies())) or "none"
        raise InputError(f"there is no study {name!r} there; known: {known}") from None


def check_comparable(earlier: Study, facts: Mapping[str, Any]) -> None:
    """Refuse to start from a study whose values do not compare with those of a sweep.

    Raises:
        InputError: names the first of the facts that differs.
    """
    there = earlier.user_attrs.get(_FACTS)
    if there is None:
        raise InputError(f"--start-from: the study {earlier.study_name} was made by no sweep of easrec")
    for name in sorted(facts.keys() | there.keys()):
        if facts.get(name) != there.get(name):
            raise InputError(
                f"--start-from: the trials of {earlier.study_name} do not compare with those of this sweep: "
                f"the {name} was {there.get(name)!r} and is now {facts.get(name)!r}"
            )

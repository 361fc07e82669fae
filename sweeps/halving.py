"""Successive halving for several objectives at once: trials that cannot reach the front stop early.

Asynchronous halving, as ASHA does it for one metric (Li et al., 2020), with the non-dominated rank in place
of the metric (MOASHA; Schmucker et al., 2021): at each rung a trial is compared with all that have come so
far, in what it has reached by then and in what its network costs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import moocore
import numpy as np
import numpy.typing as npt
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

Mode = Literal["max", "min"]


@dataclass(slots=True)
class Rung:
    """What trials had reached when they came to a number of epochs."""

    epochs: int
    values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By subject, the objectives, all to be small."""

    def goes_on(self, subject: str, values: tuple[float, ...], share: float) -> bool:
        """Enter a subject and say whether it is worth going on with.

        It is if no other beats it here, or if it is among the best `share` by non-dominated rank; within a
        rank those in emptier parts of the front come first. A subject that comes again is judged anew.
        """
        self.values[subject] = values
        points = np.array(list(self.values.values()))
        ranks = np.asarray(moocore.pareto_rank(points))
        own = list(self.values).index(subject)
        if ranks[own] == ranks.min():
            return True
        order = np.lexsort((-crowding_distances(points, ranks), ranks))
        kept = math.ceil(share * len(points))
        return own in order[:kept]


def crowding_distances(points: npt.NDArray[Any], ranks: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How far each point is from its neighbours of the same rank (NSGA-II); infinite at the ends of an axis.

    >>> crowding_distances(np.array([[0., 3.], [1., 1.], [3., 0.]]), np.zeros(3)).tolist()
    [inf, 2.0, inf]
    """
    distances = np.zeros(len(points))
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        for axis in range(points.shape[1]):
            order = members[np.argsort(points[members, axis], kind="stable")]
            width = points[order[-1], axis] - points[order[0], axis]
            distances[order[[0, -1]]] = math.inf
            if width > 0:
                gaps = points[order[2:], axis] - points[order[:-2], axis]
                distances[order[1:-1]] += gaps / width
    return distances


class MultiObjectiveHalving(FIFOScheduler):  # type: ignore[misc]
    """A scheduler of Ray Tune that stops what is beaten at a rung.

    Trials report `time` (epochs) and all objectives again and again; reports without `time` are let through.
    Rungs are at `first`, `first * factor`, `first * factor^2`, ... epochs. Results without a finite value for
    every objective never stop a trial and are compared with nothing.

    Args:
        objectives: names of what is reported -> whether it is to be large or small.
        time: name of the number of epochs in reports.
        subject: name of what is judged in reports: trials of one subject (one architecture and seed) do not
            compete with each other.
        first: epochs of the first rung.
        factor: between rungs; of the trials at a rung 1 / factor go on, besides those that nobody beats.
        on_stop: called with a trial's `config` and last report when it is stopped.
    """

    def __init__(
        self,
        objectives: Mapping[str, Mode],
        *,
        time: str = "epoch",
        subject: str = "subject",
        first: int = 4,
        factor: int = 3,
        on_stop: Callable[[Mapping[str, Any], Mapping[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("halving needs at least one objective")
        if first < 1 or factor < 2:
            raise ValueError(f"first must be at least 1 and factor at least 2, got {first=}, {factor=}")
        self._objectives = dict(objectives)
        self._time = time
        self._subject = subject
        self._first = first
        self._factor = factor
        self._on_stop = on_stop
        self.rungs: list[Rung] = []
        """Those that a trial has come to, the first first."""
        self._passed: dict[str, int] = {}  # trial id -> rungs that it has been judged at

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles schedulers to restore them elsewhere, which is never done here."""
        return {}

    def judge(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a trial that reports this goes on."""
        if self._time not in result:
            return True
        values = self._values(result)
        goes_on = True
        while goes_on and result[self._time] >= self._epochs_of(passed := self._passed.get(trial_id, 0)):
            self._passed[trial_id] = passed + 1
            if passed == len(self.rungs):
                self.rungs.append(Rung(self._epochs_of(passed)))
            if values is not None:
                subject = str(result.get(self._subject, trial_id))
                goes_on = self.rungs[passed].goes_on(subject, values, 1 / self._factor)
        return goes_on

    def _epochs_of(self, rung: int) -> int:
        return self._first * int(self._factor**rung)

    def _values(self, result: Mapping[str, Any]) -> tuple[float, ...] | None:
        values = tuple(
            (-1.0 if mode == "max" else 1.0) * float(result.get(name, math.nan))
            for name, mode in self._objectives.items()
        )
        return values if all(map(math.isfinite, values)) else None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's call for each report."""
        if self.judge(trial.trial_id, result):
            return str(TrialScheduler.CONTINUE)
        if self._on_stop is not None:
            self._on_stop(trial.config, result)
        return str(TrialScheduler.STOP)

    def debug_string(self) -> str:
        """What Ray shows of the scheduler."""
        return f"halving at {[rung.epochs for rung in self.rungs]} epochs"

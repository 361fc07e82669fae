"""Successive halving for several objectives at once: which retrainings cannot reach the front.

Asynchronous halving, as ASHA does it for one metric (Li et al., 2020), with the non-dominated rank in place
of the metric (MOASHA; Schmucker et al., 2021): at each rung a retraining is compared with all that have come
so far, in what it has reached by then and in what its network costs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from easrec.errors import InputError
from easrec.files import read_json, write_json

HALVING = "halving.json"
"""What a sweep's directory calls the file of its rungs."""

FACTOR = 3
"""Between rungs, where the user names none."""

_COSTS = {"flops": "{:,.0f} FLOPs", "latency_ms": "{:.3f} ms of its layers"}
"""Cost -> how people are told of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What a retraining has reached after an epoch."""

    subject: str
    """Key of the retraining: trials that share it are one."""
    architecture: str
    """Id of the network that is retrained."""
    seed: int
    epoch: int
    """Counted from 1."""
    accuracy: float
    """The best validation NDCG@10 so far."""
    costs: dict[str, float]
    """`flops` of the network, and `latency_ms` of its layers where that was measured before."""
    last: bool = False
    """Whether the retraining ends with this epoch in any case."""

    @property
    def values(self) -> tuple[float, ...]:
        """All objectives, all to be low."""
        return (-self.accuracy, *self.costs.values())

    def to_dict(self) -> dict[str, Any]:
        """The fields as one level of JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "costs"}
        return {**values, **self.costs}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reached":
        """What `to_dict` gave; other keys are passed over."""
        costs = {name: float(values[name]) for name in _COSTS if name in values}
        names = [name for name in cls.__dataclass_fields__ if name != "costs"]
        return cls(costs=costs, **{name: values[name] for name in names})

    def text(self) -> str:
        """Accuracy and costs as people read them."""
        costs = " and ".join(_COSTS[name].format(value) for name, value in self.costs.items())
        return f"{self.accuracy:.4f} at {costs}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """That a retraining shall stop, and why."""

    reached: Reached
    """What it has reached."""
    rival: Reached
    """One that beats it at this rung."""
    at_ms: int
    """When that was found, in ms since 1970."""

    def sentence(self) -> str:
        """After which epoch it was stopped, and against what."""
        return (
            f"after epoch {self.reached.epoch} of its retraining {self.reached.architecture} had reached "
            f"{self.reached.text()}, where {self.rival.architecture} had {self.rival.text()}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return {"reached": self.reached.to_dict(), "rival": self.rival.to_dict(), "at_ms": self.at_ms}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Verdict":
        """What `to_dict` gave."""
        return cls(Reached.from_dict(values["reached"]), Reached.from_dict(values["rival"]), values["at_ms"])


@dataclass(slots=True)
class Rungs:
    """Rungs at `first`, `first * factor`, `first * factor^2`, ... epochs, and who came to them.

    A retraining is compared with those of its own seed and of other architectures alone. Otherwise the
    luckiest of several seeds would stop the others, and means over seeds would be those of the lucky.
    """

    first: int
    """Epochs of the first rung."""
    factor: int = FACTOR
    """Between rungs; of those at a rung 1 / factor go on, besides those that nobody beats."""
    file: Path | None = None
    """Where all that follows is kept, whole after each change; None: nowhere."""
    rungs: dict[int, dict[str, Reached]] = field(default_factory=dict)
    """Epochs of a rung -> who came to it, by subject, in the order of coming."""
    ended: dict[str, Reached] = field(default_factory=dict)
    """What those that came to their own end had reached: they count at later rungs with it."""
    stopped: dict[str, Verdict] = field(default_factory=dict)
    """Subject -> why it was stopped."""

    def __post_init__(self) -> None:
        if self.first < 1 or self.factor < 2:
            raise ValueError(
                f"first must be at least 1 and factor at least 2, got {self.first=}, {self.factor=}"
            )

    @classmethod
    def open(cls, file: Path, *, first: int, factor: int) -> "Rungs":
        """The rungs that an earlier run of a sweep left in a file, or new ones.

        Raises:
            InputError: the file cannot be read.
        """
        opened = cls(first, factor, file)
        if not file.exists():
            return opened
        try:
            stored = read_json(file)
        except InputError as error:
            raise InputError(
                f"{error}; without it the sweep cannot go on: choose another --output"
            ) from error
        for rung in stored["rungs"]:
            opened.rungs[rung["epochs"]] = _by_subject(rung["reached"])
        opened.ended = _by_subject(stored["ended"])
        verdicts = map(Verdict.from_dict, stored["stopped"])
        opened.stopped = {verdict.reached.subject: verdict for verdict in verdicts}
        return opened

    def judge(self, reached: Reached, now_ms: int) -> Verdict | None:
        """Enter what a retraining has reached, and say whether it shall stop.

        It is judged once at each rung, and goes on if no other beats it there, or if it is among the best
        1 / factor by non-dominated rank; within a rank those in emptier parts of the front come first. One
        that ends in any case is not stopped. What is not finite stops nobody and is compared with nothing.

        Args:
            reached: after an epoch; one that skips rungs is entered at the last of them alone, since it would
                beat those that came there with fewer epochs.
            now_ms: the time in ms since 1970.
        """
        if reached.subject in self.stopped or not all(map(math.isfinite, reached.values)):
            return None
        if reached.last:
            self.ended[reached.subject] = reached
        epochs = self._rung_of(reached.epoch)
        rung = {} if epochs is None else self.rungs.setdefault(epochs, {})
        verdict = None
        if epochs is not None and reached.subject not in rung:
            rung[reached.subject] = reached
            if not reached.last:
                verdict = self._verdict(reached, self._rivals(reached, epochs), now_ms)
        elif not reached.last:
            return None
        if verdict is not None:
            self.stopped[reached.subject] = verdict
        self._save()
        return verdict

    def _rung_of(self, epoch: int) -> int | None:
        if epoch < self.first:
            return None
        rung = self.first
        while rung * self.factor <= epoch:
            rung *= self.factor
        return rung

    def _rivals(self, reached: Reached, epochs: int) -> list[Reached]:
        there = self.rungs[epochs]
        before = [one for one in self.ended.values() if one.epoch < epochs and one.subject not in there]
        return [
            one
            for one in (*there.values(), *before)
            if one.seed == reached.seed and one.architecture != reached.architecture
        ]

    def _verdict(self, own: Reached, rivals: Sequence[Reached], now_ms: int) -> Verdict | None:
        beaten_by = [rival for rival in rivals if _beats(rival.values, own.values)]
        if not beaten_by:
            return None
        points = np.array([own.values, *(rival.values for rival in rivals)])
        ranks = np.asarray(moocore.pareto_rank(points))
        order = np.lexsort((-crowding_distances(points, ranks), ranks))
        if 0 in order[: math.ceil(len(points) / self.factor)]:
            return None
        return Verdict(own, max(beaten_by, key=lambda rival: rival.accuracy), now_ms)

    def _save(self) -> None:
        if self.file is None:
            return
        write_json(
            self.file,
            {
                "rungs": [
                    {"epochs": epochs, "reached": [one.to_dict() for one in self.rungs[epochs].values()]}
                    for epochs in sorted(self.rungs)
                ],
                "ended": [one.to_dict() for one in self.ended.values()],
                "stopped": [verdict.to_dict() for verdict in self.stopped.values()],
            },
        )


def _by_subject(stored: Iterable[Mapping[str, Any]]) -> dict[str, Reached]:
    return {one.subject: one for one in map(Reached.from_dict, stored)}


def _beats(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the first is nowhere higher and somewhere lower."""
    pairs = list(zip(values, others, strict=True))
    return all(one <= other for one, other in pairs) and any(one < other for one, other in pairs)


def crowding_distances(points: npt.NDArray[Any], ranks: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How far each point is from its neighbours of the same rank (NSGA-II); infinite at the ends of an axis.

    On an axis where all of a rank are equal there are no ends and no distances.

    >>> crowding_distances(np.array([[0., 3.], [1., 1.], [3., 0.]]), np.zeros(3)).tolist()
    [inf, 2.0, inf]
    """
    distances = np.zeros(len(points))
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        for axis in range(points.shape[1]):
            order = members[np.argsort(points[members, axis], kind="stable")]
            width = points[order[-1], axis] - points[order[0], axis]
            if width > 0:
                distances[order[[0, -1]]] = math.inf
                gaps = points[order[2:], axis] - points[order[:-2], axis]
                distances[order[1:-1]] += gaps / width
    return distances

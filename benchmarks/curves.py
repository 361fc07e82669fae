"""Training curves: when one reaches a value, and what trainings of several seeds say together."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """The end of an epoch."""

    seconds: float
    """Since the training began."""
    ndcg: dict[str, float]
    """NDCG@10 by protocol."""


Curve = Sequence[Point]


def best_epoch(curve: Curve, protocol: str) -> int:
    """The epoch of the largest value, the first of equals, counted from 1.

    Raises:
        ValueError: there is no epoch.
    """
    return max(range(len(curve)), key=lambda index: curve[index].ndcg[protocol]) + 1


def without_gain(curve: Curve, protocol: str) -> int:
    """Epochs since the largest value; 0 where the last epoch brought it, or where there is none yet."""
    return len(curve) - best_epoch(curve, protocol) if curve else 0


def seconds_to_reach(curve: Curve, protocol: str, value: float) -> float:
    """When the curve first stood at `value` or above, in seconds; infinity where it never did."""
    return next((point.seconds for point in curve if point.ndcg[protocol] >= value), math.inf)


@dataclass(frozen=True, slots=True)
class Reached:
    """When trainings of several seeds reached a value."""

    seconds: list[float]
    """By training, infinity where it did not."""

    @property
    def median(self) -> float:
        """Over all trainings: infinity where half of them or more never reached the value."""
        return statistics.median_high(self.seconds)

    @property
    def count(self) -> int:
        """Trainings that reached it."""
        return sum(math.isfinite(value) for value in self.seconds)

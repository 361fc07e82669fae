"""How long places for work had nothing to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A computation of a trial, in seconds since 1970."""

    start_s: float
    end_s: float


def idle_s_per_trial(intervals: list[Interval], slots: int, trials: int) -> float:
    """Seconds of a slot per trial in which nothing is computed, from the first start to the last one.

    After the last start slots are idle because there is nothing left to do.

    >>> idle_s_per_trial([Interval(0, 4), Interval(5, 9), Interval(9.5, 20)], slots=1, trials=3)
    0.5
    """
    first, last = min(one.start_s for one in intervals), max(one.start_s for one in intervals)
    busy = sum(min(one.end_s, last) - one.start_s for one in intervals)
    return (slots * (last - first) - busy) / trials

"""Fronts of accuracy and several costs at once, and how they grew.

Legend: P points, C costs.
"""

from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd

from sweeps.pareto import ACCURACY, configurations


def front(frame: pd.DataFrame, costs: Sequence[str], *, accuracy: str = ACCURACY) -> list[str]:
    """The configurations that none beats in mean accuracy and all mean costs, cheapest first.

    One that lacks a cost is never on the front and beats nobody; equal points are all on it or all off it.

    Args:
        frame: results, one row per trial, see `configurations`.
        costs: names of metrics to be low.
        accuracy: name of the metric to be high.
    """
    means = _complete(frame, costs, accuracy)
    if means.empty:
        return []
    flags = moocore.is_nondominated(
        means.to_numpy(), maximise=[True] + [False] * len(costs), keep_weakly=True
    )
    return [str(name) for name in means[flags].sort_values([*costs, accuracy]).index]


def hypervolume_steps(
    frame: pd.DataFrame, costs: Sequence[str], *, accuracy: str = ACCURACY
) -> "pd.Series[float]":
    """The share of the final hypervolume that had been reached as each trial ended.

    The reference point is a tenth of the range beyond the worst mean in each objective, costs on a log scale:
    fixed for all steps, so that shares compare. Means are over the seeds that had finished by then, so that
    a step may go down, when a later seed is worse than an earlier one.

    Args:
        frame: as for `front`, with `end_ms`, when each trial ended.
        costs: names of metrics to be low, above 0.
        accuracy: name of the metric to be high.

    Returns:
        One value per trial that has all objectives, in the order in which they ended; index: that of `frame`.
        Empty where the final hypervolume is 0: all points are equal.
    """
    complete = frame.dropna(subset=[accuracy, *(cost for cost in costs if cost in frame)])
    if complete.empty or any(cost not in frame for cost in costs):
        return pd.Series(dtype=float)
    ordered = complete.sort_values("end_ms", kind="stable")
    # Accuracies of single trials bound those of all means on the way.
    points = _points(ordered[[accuracy, *costs]])
    worst, best = points.max(axis=0), points.min(axis=0)
    reference = worst + 0.1 * (worst - best)
    volumes = [
        float(moocore.hypervolume(_points(_complete(ordered.iloc[:number], costs, accuracy)), ref=reference))
        for number in range(1, len(ordered) + 1)
    ]
    if volumes[-1] == 0:
        return pd.Series(dtype=float)
    return pd.Series(np.array(volumes) / volumes[-1], index=ordered.index)


def _complete(frame: pd.DataFrame, costs: Sequence[str], accuracy: str) -> pd.DataFrame:
    return configurations(frame, costs, accuracy=accuracy).dropna()


def _points(means: pd.DataFrame) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Accuracy and costs as numbers that are all to be low, (P, 1 + C)."""
    values = means.to_numpy(dtype=np.float64)
    return np.column_stack([-values[:, 0], np.log10(values[:, 1:])])

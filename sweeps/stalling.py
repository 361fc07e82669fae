"""When an exploration no longer finds anything: its hypervolume has not grown for some finished trials."""

from collections.abc import Sequence

import moocore
import numpy as np

_ROOM = 1.1
"""The reference lies this much beyond the worst cost that was seen, so that the worst counts a little too."""


def has_stalled(values: Sequence[Sequence[float]], objectives: Sequence[str], num_trials: int) -> bool:
    """Whether the last `num_trials` trials added nothing to the hypervolume of those before.

    Both are measured from the same point: no accuracy, and the worst cost that was seen so far.

    Args:
        values: of the finished trials within the budget, by number: one value for each objective.
        objectives: their names; accuracy is to be high, all else low.
        num_trials: how many may add nothing.

    >>> has_stalled([(0.1, 5.0), (0.2, 5.0), (0.1, 6.0)], ("accuracy", "flops"), 1)
    True
    >>> has_stalled([(0.1, 5.0), (0.2, 5.0), (0.1, 4.0)], ("accuracy", "flops"), 1)
    False
    """
    if len(values) <= num_trials:
        return False
    points = np.array(values, dtype=float)
    maximise = [objective == "accuracy" for objective in objectives]
    reference = np.where(maximise, 0.0, points.max(axis=0) * _ROOM)

    def volume(some: np.ndarray) -> float:
        return float(moocore.hypervolume(some, ref=reference, maximise=maximise))

    return volume(points) <= volume(points[:-num_trials])

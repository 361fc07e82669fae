"""The best items of each user, ties in a fixed order.

Shapes: B users, V items; item ids are 1..V, 0 is padding.
"""

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

Best = tuple[list[int], list[float]]
"""Item ids, best first, and their scores."""


def best_items(scores: Tensor, k: int) -> list[Best]:
    """The k items of the highest scores, best first; of equal scores the lower id comes first.

    Args:
        scores: float32 (B, V + 1); what may not be recommended is -inf.
        k: how many, at least 1.

    Returns:
        For each user item ids and scores: fewer than k where fewer are above -inf.
    """
    # One more than asked for shows whether the last one shares its score with an item that is left out.
    values, items = scores.topk(min(k + 1, scores.shape[1]))
    ranked = []
    # Python's lists: for the few values of a single user they take half of numpy's time.
    for user, (found_values, found_items) in enumerate(zip(values.tolist(), items.tolist(), strict=True)):
        finite = [value for value in found_values if value > -math.inf]
        count = min(len(finite), k)
        if len(set(finite)) < len(finite):
            row = scores[user].cpu().numpy()
            ids = _in_fixed_order(row, np.float32(finite[count - 1]))[:count]
            ranked.append((ids.tolist(), row[ids].tolist()))
        else:
            ranked.append((found_items[:count], finite[:count]))
    return ranked


def _in_fixed_order(row: npt.NDArray[np.float32], least: np.float32) -> npt.NDArray[np.int64]:
    """All items of at least a score, by falling score and rising id."""
    ids = np.flatnonzero(row >= least)
    return ids[np.argsort(-row[ids], kind="stable")]

"""The best items of each user, ties in a fixed order.

Shapes: B users, V items; item ids are 1..V, 0 is padding.
"""

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
    found_values, found_items = values.cpu().numpy(), items.cpu().numpy()
    counts = np.minimum(np.count_nonzero(found_values > -np.inf, axis=1), k)
    equal = (found_values[:, 1:] == found_values[:, :-1]) & (found_values[:, 1:] > -np.inf)
    tied = set(np.flatnonzero(equal.any(axis=1)).tolist())
    ranked = []
    for user, count in enumerate(counts.tolist()):
        if user in tied:
            row = scores[user].cpu().numpy()
            ids = _in_fixed_order(row, found_values[user, count - 1])[:count]
            ranked.append((ids.tolist(), row[ids].tolist()))
        else:
            ranked.append((found_items[user, :count].tolist(), found_values[user, :count].tolist()))
    return ranked


def _in_fixed_order(row: npt.NDArray[np.float32], least: np.float32) -> npt.NDArray[np.int64]:
    """All items of at least a score, by falling score and rising id."""
    ids = np.flatnonzero(row >= least)
    return ids[np.argsort(-row[ids], kind="stable")]

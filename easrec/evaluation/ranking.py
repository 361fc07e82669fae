"""Where a target stands among the items it competes with, and what that is worth.

Legend: B questions of a batch, Q questions of a split, V items (ids 1..V; 0 is padding), M ids to exclude,
K candidates.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class NonFiniteScoresError(ValueError):
    """A score is NaN or +inf: it has no place among the others."""


def ranks(scores: Tensor, targets: Tensor, *, excluded: Tensor | None = None) -> Tensor:
    """Rank each target among all items.

    A tie counts against the target: its rank is that of the last of its equals, so a network that gives
    every item the same score ranks last instead of first. The padding never competes.

    >>> ranks(torch.tensor([[0.0, 0.3, 0.9, 0.3]]), torch.tensor([1]))
    tensor([3])

    Args:
        scores: (B, V + 1), on any device; column 0 is padding.
        targets: item ids, int64 (B,).
        excluded: what does not compete: a bool mask (B, V + 1), or item ids (B, M) padded with 0. The
            target competes even where it is among them.

    Returns:
        int64 (B,), from 1, on the device of `scores`.

    Raises:
        NonFiniteScoresError: a score is NaN or +inf.
        ValueError: a target or an excluded id is no item, or shapes disagree.
    """
    target_scores = _target_scores(scores, targets)
    ahead = scores >= target_scores
    if excluded is not None:
        excluded = excluded.to(scores.device)
        if excluded.dtype == torch.bool:
            if excluded.shape != scores.shape:
                raise ValueError(
                    f"a mask of excluded items must have the shape of scores, {tuple(scores.shape)}, "
                    f"got {tuple(excluded.shape)}"
                )
            ahead &= ~excluded
        else:
            _check_ids("excluded", excluded, scores, lowest=0)
            ahead.scatter_(1, excluded.long(), False)
    ahead[:, 0] = False
    ahead.scatter_(1, targets.to(scores.device)[:, None], False)
    return 1 + ahead.sum(dim=1)


def sampled_ranks(scores: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Rank each target among a few candidates, ties against the target.

    Args:
        scores: (B, V + 1), on any device; column 0 is padding.
        targets: item ids, int64 (B,).
        negatives: the other candidates, int64 (B, K) padded with 0; one that comes twice counts twice. They
            must not hold the target.

    Returns:
        int64 (B,), from 1 to K + 1, on the device of `scores`.

    Raises:
        NonFiniteScoresError, ValueError: as `ranks`.
    """
    target_scores = _target_scores(scores, targets)
    negatives = negatives.to(scores.device)
    _check_ids("negatives", negatives, scores, lowest=0)
    ahead = (scores.gather(1, negatives) >= target_scores) & (negatives > 0)
    return 1 + ahead.sum(dim=1)


def ranking_metrics(ranks: Tensor | npt.NDArray[np.integer[Any]], k: int = 10) -> dict[str, float]:
    """Mean metrics of questions with one relevant item each.

    Recall@k is 1 where rank <= k; MRR@k is 1 / rank there; NDCG@k is 1 / log2(rank + 1) there; all are 0
    beyond k.

    Args:
        ranks: from 1, int64 (Q,).
        k: the cut-off.

    Returns:
        `recall_at_{k}`, `mrr_at_{k}` and `ndcg_at_{k}`.

    Raises:
        ValueError: there are no ranks, one is under 1, or k is.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    values = ranks.cpu().numpy() if isinstance(ranks, Tensor) else np.asarray(ranks)
    if values.size == 0:
        raise ValueError("metrics are means over ranks, and there are none")
    if values.min() < 1:
        raise ValueError(f"ranks count from 1, got {values.min()}")
    inside = values[values <= k].astype(np.float64)
    return {
        f"recall_at_{k}": len(inside) / values.size,
        f"mrr_at_{k}": float((1 / inside).sum() / values.size),
        f"ndcg_at_{k}": float((1 / np.log2(inside + 1)).sum() / values.size),
    }


def _target_scores(scores: Tensor, targets: Tensor) -> Tensor:
    """The scores of the targets, (B, 1), once both arguments are found valid."""
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            "scores must be (B, V + 1) and targets (B,), got "
            f"{tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    _check_ids("targets", targets, scores, lowest=1)
    # The maximum of anything with a NaN is NaN: one pass finds both kinds, and memory stays as it is.
    if scores.numel() and not (largest := scores.max().item()) < math.inf:
        raise NonFiniteScoresError(f"scores must be below infinity and not NaN, got {largest}")
    return scores.gather(1, targets.to(scores.device)[:, None])


def _check_ids(name: str, ids: Tensor, scores: Tensor, *, lowest: int) -> None:
    if len(ids) != len(scores):
        raise ValueError(f"{name} must have one row per question, got {len(ids)} for {len(scores)}")
    outside = ids[(ids < lowest) | (ids >= scores.shape[1])]
    if outside.numel():
        raise ValueError(f"{name} must lie in {lowest}..{scores.shape[1] - 1}, got {outside[0].item()}")

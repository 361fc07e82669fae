"""What a network recommends to the test users: how much of the catalogue, and how many popular items.

A small network may reach a good NDCG by recommending what everybody buys; these two figures show it.

Legend: B questions of a batch, V items (ids 1..V; 0 is padding).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from easrec.data.sequences import SplitData
from easrec.evaluation.protocols import Scorer, selection_protocol

POPULAR_SHARE = 0.1
"""Popular are the items of the catalogue with the most training interactions, this share of all."""

COVERAGE, POPULAR = "test/coverage_at_10", "test/popular_share_at_10"
"""Share of the catalogue that somebody is recommended; share of popular items among recommendations."""

_BATCH_SIZE = 256


def popular_items(data: SplitData) -> npt.NDArray[np.bool_]:
    """Which items are popular, bool (V + 1,); of equal counts the smaller id."""
    counts = data.training_counts()[1:]
    popular = np.zeros(data.num_items + 1, dtype=np.bool_)
    popular[1 + np.argsort(-counts, kind="stable")[: math.ceil(POPULAR_SHARE * data.num_items)]] = True
    return popular


def popular_targets(data: SplitData) -> float:
    """Share of popular items among the test targets: what a recommender that is always right would have."""
    return float(popular_items(data)[data.target_items("test")].mean())


def recommended(
    scorer: Scorer, data: SplitData, *, max_length: int, k: int = 10, device: str = "cpu"
) -> dict[str, float]:
    """`COVERAGE` and `POPULAR` of the k best items for each test question.

    As under the data set's selection protocol: what a user has met already is not recommended, unless
    histories repeat items.

    Args:
        scorer: see `easrec.evaluation.protocols.protocol_ranks`.
        data: the split data.
        max_length: N, the most recent items that the scorer is given.
        k: recommendations to each question; with fewer items in the catalogue as many as there are.
        device: where the scorer wants its arguments.
    """
    seen_again = selection_protocol(data) == "full"
    questions = data.targets("test")
    times = np.zeros(data.num_items + 1, dtype=np.int64)
    for start in range(0, len(questions.rows), _BATCH_SIZE):
        index = np.arange(start, min(start + _BATCH_SIZE, len(questions.rows)))
        item_ids, lengths = data.histories("test", index, max_length)
        with torch.inference_mode():
            scores = scorer(torch.from_numpy(item_ids).to(device), torch.from_numpy(lengths).to(device))
            scores[:, 0] = -torch.inf
            if not seen_again:
                longest = int((questions.positions[index] - data.starts[questions.rows[index]]).max())
                met, _ = data.histories("test", index, max(longest, 1))
                scores.scatter_(1, torch.from_numpy(met).to(device, torch.int64), -torch.inf)
            values, best = scores.topk(min(k, data.num_items), dim=1)
        # Of a user who has met nearly everything fewer than k are left.
        times += np.bincount(best[values > -torch.inf].cpu().numpy(), minlength=data.num_items + 1)
    shares: dict[str, Any] = {
        COVERAGE: float((times[1:] > 0).mean()),
        POPULAR: float(times[popular_items(data)].sum() / times.sum()),
    }
    return shares

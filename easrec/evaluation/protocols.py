"""The four protocols: among which items a target is ranked.

`full` ranks it among all items, `unseen` among those not in the history, `uni100` and `pop100` among 100
negatives drawn uniformly or by popularity in training.

Legend: B questions of a batch, Q questions of a split, N positions, V items (ids 1..V; 0 is padding).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from easrec.data.sequences import Int64s, Split, SplitData
from easrec.errors import InputError
from easrec.evaluation.negatives import Distribution, sample_negatives
from easrec.evaluation.ranking import ranking_metrics, ranks, sampled_ranks

__all__ = [
    "PROTOCOLS",
    "Scorer",
    "evaluate",
    "protocol_ranks",
    "sample_negatives",
    "selection_protocol",
    "usable_protocols",
]

PROTOCOLS = ("full", "unseen", "uni100", "pop100")

NUM_NEGATIVES = 100
SAMPLED: dict[str, Distribution] = {"uni100": "uniform", "pop100": "popularity"}

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Item ids, int64 (B, N), left-aligned, and real lengths, int64 (B,) -> scores (B, V + 1)."""


def selection_protocol(data: SplitData) -> str:
    """The protocol by which a data set's networks are chosen: `unseen`, or `full` with repeats."""
    return "full" if data.has_repeats else "unseen"


def usable_protocols(data: SplitData, splits: Sequence[Split] = ("valid", "test")) -> tuple[str, ...]:
    """The protocols that a data set allows in some splits.

    `unseen` is none where histories repeat items; `uni100` and `pop100` are none where a user has met all
    items that could be drawn.
    """
    return tuple(
        name
        for name in PROTOCOLS
        if not (name == "unseen" and data.has_repeats)
        and (name not in SAMPLED or _has_negatives(data, splits, SAMPLED[name]))
    )


def _has_negatives(data: SplitData, splits: Sequence[Split], distribution: Distribution) -> bool:
    try:
        for split in splits:
            sample_negatives(data, split, distribution=distribution, num_negatives=1)
    except InputError:
        return False
    return True


def evaluate(
    scorer: Scorer,
    data: SplitData,
    split: Split,
    *,
    max_length: int,
    protocols: Sequence[str] | None = None,
    cutoffs: Sequence[int] = (10,),
    batch_size: int = 256,
    negatives_seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Mean metrics of a split by full name, such as `unseen/ndcg_at_10`; arguments as `protocol_ranks`."""
    found = protocol_ranks(
        scorer,
        data,
        split,
        max_length=max_length,
        protocols=protocols,
        batch_size=batch_size,
        negatives_seed=negatives_seed,
        device=device,
    )
    return {
        f"{protocol}/{name}": value
        for protocol, values in found.items()
        for k in cutoffs
        for name, value in ranking_metrics(values, k).items()
    }


def protocol_ranks(
    scorer: Scorer,
    data: SplitData,
    split: Split,
    *,
    max_length: int,
    protocols: Sequence[str] | None = None,
    batch_size: int = 256,
    negatives_seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Int64s]:
    """Rank the target of every question of a split; one pass of the scorer serves all protocols.

    Args:
        scorer: called under `torch.inference_mode`; a network must be in evaluation mode.
        data: the split data.
        split: "valid" or "test".
        max_length: N, the most recent items that the scorer is given. What `unseen` masks and what negatives
            avoid is the whole history.
        protocols: some of `PROTOCOLS`; by default all that the data set allows.
        batch_size: B. It bounds memory and changes no rank.
        negatives_seed: seed of `sample_negatives`.
        device: where the scorer wants its arguments.

    Returns:
        For each protocol the ranks from 1, int64 (Q,), in the order of the questions.

    Raises:
        InputError: `unseen` is asked of a data set with repeats, or a user leaves no negatives.
        ValueError: no such protocol, or the scores are not finite or have another shape than (B, V + 1).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    protocols = _check_protocols(data, split, protocols)
    negatives = {
        protocol: sample_negatives(
            data,
            split,
            distribution=SAMPLED[protocol],
            num_negatives=NUM_NEGATIVES,
            seed=negatives_seed,
        )
        for protocol in protocols
        if protocol in SAMPLED
    }
    target_items = data.target_items(split)
    found = {protocol: np.zeros(len(target_items), dtype=np.int64) for protocol in protocols}
    for index, scores in _scored(scorer, data, split, max_length, batch_size, device):
        targets = torch.from_numpy(target_items[index])
        for protocol in protocols:
            if protocol in negatives:
                values = sampled_ranks(scores, targets, torch.from_numpy(negatives[protocol][index]))
            else:
                excluded = _whole_histories(data, split, index) if protocol == "unseen" else None
                values = ranks(scores, targets, excluded=excluded)
            found[protocol][index] = values.cpu().numpy()
    return found


def _check_protocols(data: SplitData, split: Split, protocols: Sequence[str] | None) -> tuple[str, ...]:
    if protocols is None:
        return usable_protocols(data, (split,))
    if isinstance(protocols, str) or (unknown := sorted(set(protocols) - set(PROTOCOLS))):
        named = protocols if isinstance(protocols, str) else unknown[0]
        raise ValueError(f"protocols must be a sequence of names out of {PROTOCOLS}, got {named!r}")
    if "unseen" in protocols and data.has_repeats:
        raise InputError(
            f"protocol 'unseen' does not fit data set {data.name!r}: "
            f"{data.statistics['repeat_share']:.1%} of its validation targets are already in their history, "
            "which 'unseen' takes for answered; use 'full'"
        )
    return tuple(protocols)


def _scored(
    scorer: Scorer,
    data: SplitData,
    split: Split,
    max_length: int,
    batch_size: int,
    device: str | torch.device,
) -> Iterator[tuple[Int64s, Tensor]]:
    """Batches of question numbers (B,) with the scores of all items, (B, V + 1)."""
    num_questions = len(data.targets(split).rows)
    for start in range(0, num_questions, batch_size):
        index = np.arange(start, min(start + batch_size, num_questions))
        item_ids, lengths = data.histories(split, index, max_length)
        with torch.inference_mode():
            scores = scorer(torch.from_numpy(item_ids).to(device), torch.from_numpy(lengths).to(device))
        expected = (len(index), data.num_items + 1)
        if tuple(scores.shape) != expected:
            raise ValueError(f"the scorer must give scores of shape {expected}, got {tuple(scores.shape)}")
        yield index, scores


def _whole_histories(data: SplitData, split: Split, index: Int64s) -> Tensor:
    """All items before each target, int64 (B, M), padded with 0."""
    questions = data.targets(split)
    longest = int((questions.positions[index] - data.starts[questions.rows[index]]).max())
    item_ids, _ = data.histories(split, index, max(longest, 1))
    return torch.from_numpy(item_ids)

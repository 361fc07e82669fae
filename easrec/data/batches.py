"""Training windows and the batches made of them.

Legend: B sequences in a batch, W windows, N positions (`max_length`). A target stands at the
position of the item it follows; 0 means that nothing is asked there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from easrec.data.sequences import Int32s, Int64s, SplitData, gather_spans

Form = Literal["windows", "prefixes"]

# What a random stream is for, so that streams of one (seed, epoch) are independent.
_CUTS, _TRAINING_ORDER, _VALIDATION_ORDER = range(3)


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences with their targets."""

    item_ids: torch.Tensor
    """Item ids, int64 (B, N), left-aligned, 0 is padding."""
    targets: torch.Tensor
    """targets[i, t] is the item to predict after item_ids[i, t], int64 (B, N); 0 asks nothing."""
    last_only: bool = False
    """Whether each sequence has one target, at its last item: no other output is then needed."""


def training_windows(data: SplitData, max_length: int, *, seed: int, epoch: int) -> tuple[Int32s, Int32s]:
    """Cut each training history from its end into windows that overlap by one item.

    A window has at most N + 1 items, hence N targets. Every interaction but a user's first is a
    target exactly once. A history with at most N targets is one window; a longer one is cut so that
    its last window has N - s targets, s drawn from [0, N) for each user and epoch, or the same items
    would always be seen without their context.

    Returns:
        Item ids and targets, int32 (W, N) both, in the order of rows, the newest window first.
    """
    _check_sizes(max_length, 1)
    begins, ends = _window_spans(data, max_length, seed=seed, epoch=epoch)
    return _windows(data, begins, ends, max_length)


def training_batches(
    data: SplitData,
    max_length: int,
    batch_size: int,
    *,
    form: Form,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    """One epoch over the training histories, shuffled by (seed, epoch) alone.

    Args:
        form: "windows": the sequences are `training_windows`. "prefixes": every prefix of every
            history (its last N items) is a sequence with one target, at its last item.
    """
    _check_sizes(max_length, batch_size)
    order = _generator(seed, epoch, _TRAINING_ORDER)
    if _check_form(form) == "windows":
        begins, ends = _window_spans(data, max_length, seed=seed, epoch=epoch)
        for chosen in _chunks(order.permutation(len(begins)), batch_size):
            item_ids, targets = _windows(data, begins[chosen], ends[chosen], max_length)
            yield Batch(_tensor(item_ids), _tensor(targets))
    else:
        positions = _prefix_targets(data)
        for chosen in _chunks(order.permutation(len(positions)), batch_size):
            ends = positions[chosen]
            rows = np.searchsorted(data.starts, ends, side="right") - 1
            yield _questions(data, rows, ends, max_length)


def num_training_batches(
    data: SplitData, max_length: int, batch_size: int, *, form: Form, seed: int, epoch: int
) -> int:
    """How many batches `training_batches` gives with the same arguments."""
    _check_sizes(max_length, batch_size)
    if _check_form(form) == "windows":
        targets, shifts = _shifts(data, max_length, seed=seed, epoch=epoch)
        sequences = int(_num_windows(targets, shifts, max_length).sum())
    else:
        sequences = int(_num_targets(data).sum())
    return -(-sequences // batch_size)


def validation_batches(
    data: SplitData, max_length: int, batch_size: int, *, seed: int, epoch: int
) -> Iterator[Batch]:
    """The validation questions once, shuffled by (seed, epoch) alone: what controllers learn from.

    A sequence is the last N items of a question's history, its target stands at the last of them.
    A question without any history cannot be put this way and is left out.
    """
    _check_sizes(max_length, batch_size)
    rows, ends = data.valid.rows, data.valid.positions
    with_history = np.flatnonzero(ends > data.starts[rows])
    order = _generator(seed, epoch, _VALIDATION_ORDER).permutation(with_history)
    for chosen in _chunks(order, batch_size):
        yield _questions(data, rows[chosen], ends[chosen], max_length)


def _num_targets(data: SplitData) -> Int64s:
    """Targets in each row's training history, (U,)."""
    counts: Int64s = np.maximum(data.train_ends - data.starts - 1, 0)
    return counts


def _shifts(data: SplitData, max_length: int, *, seed: int, epoch: int) -> tuple[Int64s, Int64s]:
    """The targets of each row and the shift s of its cut points, (U,) both."""
    targets = _num_targets(data)
    drawn = _generator(seed, epoch, _CUTS).integers(0, max_length, size=len(targets))
    return targets, np.where(targets > max_length, drawn, 0)


def _num_windows(targets: Int64s, shifts: Int64s, max_length: int) -> Int64s:
    return (targets + shifts + max_length - 1) // max_length


def _window_spans(data: SplitData, max_length: int, *, seed: int, epoch: int) -> tuple[Int64s, Int64s]:
    """Where the inputs of each window begin and end in `data.items`, (W,) both."""
    targets, shifts = _shifts(data, max_length, seed=seed, epoch=epoch)
    counts = _num_windows(targets, shifts, max_length)
    rows = np.repeat(np.arange(len(counts)), counts)
    nth_from_end = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The history is imagined s targets longer, cut every N from there, then clipped to what it is.
    ends = targets[rows] + shifts[rows] - nth_from_end * max_length
    begins = np.maximum(ends - max_length, 0)
    return data.starts[rows] + begins, data.starts[rows] + np.minimum(ends, targets[rows])


def _windows(data: SplitData, begins: Int64s, ends: Int64s, max_length: int) -> tuple[Int32s, Int32s]:
    """Item ids and targets of some windows, int32 (B, N) both."""
    item_ids = gather_spans(data.items, begins, ends, max_length)
    return item_ids, gather_spans(data.items, begins + 1, ends + 1, max_length)


def _prefix_targets(data: SplitData) -> Int64s:
    """Positions in `data.items` of all training targets."""
    counts = _num_targets(data)
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    positions: Int64s = np.repeat(data.starts + 1, counts) + steps
    return positions


def _questions(data: SplitData, rows: Int64s, ends: Int64s, max_length: int) -> Batch:
    """One target per sequence: the item at `ends`, after the last N items before it."""
    begins = np.maximum(data.starts[rows], ends - max_length)
    targets = np.zeros((len(ends), max_length), dtype=np.int32)
    targets[np.arange(len(ends)), ends - begins - 1] = data.items[ends]
    item_ids = gather_spans(data.items, begins, ends, max_length)
    return Batch(_tensor(item_ids), _tensor(targets), last_only=True)


def _chunks(order: Int64s, size: int) -> Iterator[Int64s]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _tensor(ids: Int32s) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, stream)))


def _check_form(form: Form) -> Form:
    if form not in ("windows", "prefixes"):
        raise ValueError(f"form must be 'windows' or 'prefixes', got {form!r}")
    return form


def _check_sizes(max_length: int, batch_size: int) -> None:
    if max_length < 1 or batch_size < 1:
        raise ValueError(f"max_length and batch_size must be at least 1, got {max_length=}, {batch_size=}")

"""Only real positions are computed: sequences of different lengths as one run of rows.

Shapes: B sequences, N positions, T rows: the real positions of all sequences and, after them, a few fillers.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_WORTH_GROUPS = 2048
"""Padded positions from which on grouping saves more than it costs in calls."""
_SHORTER_GROUPS = 3
"""Groups of the sequences that are shorter than the longest."""
_MOST_FILLED = 32
"""At most one row in so many is a filler."""


class Packing:
    """Where the real positions of a batch lie among its B x N.

    A padded position costs a dense layer as much as a real one, and a batch of windows is padded by a
    quarter or more. All but attention works position by position, so it is given the real ones alone, the
    longest sequences first; attention is computed in groups of similar lengths (`by_sequence`).

    Each batch would have a number of real positions of its own, and some libraries make a kernel for each new
    shape. Some padding is kept, up to one row in 32, so that T is one of few numbers. What is computed at
    these fillers goes nowhere: `unpack` and `by_sequence` leave them out, and padding has no targets.

    Args:
        mask: bool (B, N), True at real positions, which come first.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        lengths = mask.sum(dim=1)
        counts: list[int] = lengths.tolist()
        self._num_real = sum(counts)
        self._num_fillers = 0
        if self.full:
            self._last_rows = lengths.cumsum_(dim=0) - 1
            self._groups = [_Group(mask, 0, self._num_real, full=True)]
            return
        ordered, order = lengths.sort(descending=True, stable=True)
        sorted_mask = mask.index_select(0, order)
        rows = sorted_mask.reshape(-1).nonzero().squeeze(1)
        width = mask.shape[1]
        self._rows = order[rows // width] * width + rows % width
        self._num_fillers = num_fillers(self._num_real)
        # The last position of the shortest sequence is padding, since the batch is not full.
        filler = order[-1:] * width + width - 1
        self._packed = torch.cat([self._rows, filler.expand(self._num_fillers)])
        self._last_rows = torch.empty_like(lengths).scatter_(0, order, ordered.cumsum(dim=0) - 1)
        self._groups = list(_groups(sorted_mask, sorted(counts, reverse=True)))

    @property
    def full(self) -> bool:
        """Whether there is no padding at all."""
        return self._num_real == self.mask.numel()

    @property
    def last_rows(self) -> Tensor:
        """Among the T rows, the last real position of each sequence, int64 (B,); none is empty."""
        return self._last_rows

    def pack(self, padded: Tensor) -> Tensor:
        """(B, N, ...) -> (T, ...), sequence after sequence, the longest first."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self._packed)

    def unpack(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (B, N, ...), zeros at padding."""
        if not self.full:
            zeros = packed.new_zeros(self.mask.numel(), *packed.shape[1:])
            packed = zeros.index_copy(0, self._rows, packed[: self._num_real])
        return packed.view(*self.mask.shape, *packed.shape[1:])

    def by_sequence(self, function: Callable[[Tensor], Tensor], packed: Tensor) -> Tensor:
        """Apply to packed rows what looks at whole sequences.

        Args:
            function: from (B', N', ...), zeros at padding, to (B', N', ...); called for one group of
                sequences of similar lengths after the other. What it gives at padding plays no part.
            packed: (T, ...).

        Returns:
            (T, ...), zeros at the fillers.
        """
        parts = [group.pack(function(group.unpack(packed))) for group in self._groups]
        if self._num_fillers:
            parts.append(parts[0].new_zeros(self._num_fillers, *parts[0].shape[1:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def num_fillers(num_real: int) -> int:
    """How many rows, at most 1 / 32, make a number of real positions a multiple of a power of two."""
    unit = 1 << max((num_real // _MOST_FILLED).bit_length() - 1, 0)
    return -num_real % unit


class _Group:
    """Sequences whose packed rows are those from `begin` to `end`."""

    def __init__(self, mask: Tensor, begin: int, end: int, *, full: bool) -> None:
        self._shape = mask.shape
        self._begin, self._end = begin, end
        self._rows = None if full else mask.reshape(-1).nonzero().squeeze(1)

    def unpack(self, packed: Tensor) -> Tensor:
        rows = packed[self._begin : self._end]
        if self._rows is not None:
            zeros = packed.new_zeros(self._shape[0] * self._shape[1], *packed.shape[1:])
            rows = zeros.index_copy(0, self._rows, rows)
        return rows.view(*self._shape, *packed.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        flat = padded.flatten(0, 1)
        return flat if self._rows is None else flat.index_select(0, self._rows)


def _groups(mask: Tensor, lengths: list[int]) -> Iterator[_Group]:
    """Groups of sequences, longest first: those of the greatest length, then the others in equal parts.

    Args:
        mask: bool (B, N), of sequences sorted by length, the longest first.
        lengths: theirs.
    """
    cuts = [0, len(lengths)]
    if len(lengths) * lengths[0] - sum(lengths) >= _WORTH_GROUPS:
        longest = lengths.count(lengths[0])
        others = len(lengths) - longest
        cuts = [0, *(longest + others * part // _SHORTER_GROUPS for part in range(_SHORTER_GROUPS + 1))]
    begin = 0
    for first, last in itertools.pairwise(cuts):
        if first == last:
            continue
        end = begin + sum(lengths[first:last])
        width = lengths[first]
        yield _Group(mask[first:last, :width], begin, end, full=end - begin == (last - first) * width)
        begin = end

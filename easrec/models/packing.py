"""Only real positions are computed: sequences of different lengths as one run of rows.

Shapes: B sequences, N positions, T real positions in all.
"""

from torch import Tensor


class Packing:
    """Where the T real positions of a batch lie among its B x N.

    A padded position costs a dense layer as much as a real one, and a batch of windows is padded by a
    quarter or more. Everything but attention works position by position, so it is given the real ones alone.

    Args:
        mask: bool (B, N), True at real positions.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._rows = mask.reshape(-1).nonzero().squeeze(1)

    @property
    def full(self) -> bool:
        """Whether there is no padding at all."""
        return len(self._rows) == self.mask.numel()

    @property
    def last_rows(self) -> Tensor:
        """Among the T packed rows, the last real position of each sequence, int64 (B,); none is empty."""
        return self.mask.sum(dim=1).cumsum_(dim=0) - 1

    def pack(self, padded: Tensor) -> Tensor:
        """(B, N, ...) -> (T, ...), sequence after sequence."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self._rows)

    def unpack(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (B, N, ...), zeros at padding."""
        if not self.full:
            zeros = packed.new_zeros(self.mask.numel(), *packed.shape[1:])
            packed = zeros.index_copy(0, self._rows, packed)
        return packed.view(*self.mask.shape, *packed.shape[1:])

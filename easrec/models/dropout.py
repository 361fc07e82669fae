"""Dropout that draws its noise 16 bits at a time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a random `share` of values and scale the others so that the mean stays.

    On a CPU torch spends more time drawing one random number per value than on the layer's residual sum and
    norm together. One 64-bit number serves four values here, so that `share` is rounded to a multiple of
    2^-16; the scale is that of the rounded share. Elsewhere this is torch's own dropout.

    Args:
        x: any shape.
        share: in [0, 1).
        training: otherwise `x` itself is returned.
    """
    if not training or share == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = round(share * _LEVELS)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = levels >= dropped - _LEVELS // 2
    return x * (kept.to(x.dtype) * (_LEVELS / (_LEVELS - dropped)))

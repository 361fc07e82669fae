"""Attention on queries, keys and values: linear (causal or bidirectional) and softmax.

Shapes: B sequences, H heads, N positions, D dimensions of a head. Queries, keys and values are raw: what a
feature map or a norm does to them happens here.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from easrec.models.architecture import KeyNorm
from easrec.models.autograd import refuse_second_derivative
from easrec.models.dropout import dropout as drop

# Squared norms are clamped, so that a feature or a position of zeros gives zeros and not NaN.
_SMALLEST_SQUARE = 1e-12


def _norms(x: Tensor, dim: int) -> Tensor:
    """L2 norms over `dim`, which stays with size 1."""
    # Over any but the last dimension torch's own norm takes three times as long on a CPU.
    return x.square().sum(dim, keepdim=True).clamp_min(_SMALLEST_SQUARE).sqrt()


def _normalise_rows(x_BHND: Tensor) -> Tensor:
    """Divide each position by its L2 norm over features."""
    squares = x_BHND.square().sum(-1, keepdim=True)
    return x_BHND * squares.clamp_min(_SMALLEST_SQUARE).rsqrt()


def _key_features(k_BHND: Tensor, key_norm: KeyNorm) -> Tensor:
    """rho_2(elu(K)) over all positions; zeros stay zeros."""
    features = F.elu(k_BHND)
    if key_norm == "row":
        return _normalise_rows(features)
    squares = features.square().sum(dim=2, keepdim=True)
    return features * squares.clamp_min(_SMALLEST_SQUARE).rsqrt()


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    key_norm: KeyNorm = "column",
    causal: bool = True,
    chunk_size: int = 64,
) -> Tensor:
    """rho_1(elu(Q)) (rho_2(elu(K))^T V) / sqrt(D): attention whose cost grows as N (paper Eq. 5).

    rho_1 divides each position of elu(Q) by its L2 norm. rho_2 divides each feature of elu(K) by its L2
    norm over positions (`key_norm="column"`), or each position by its norm over features (`"row"`). The
    causal form takes, at position t, sums and norms over the positions up to t; its value at the last
    position of a prefix is that of the bidirectional form applied to the prefix.

    Args:
        q: queries, (B, H, N, D).
        k: keys, (B, H, N, D).
        v: values, (B, H, N, D).
        mask: bool (B, N), True at real positions; None means that all are real. Positions that are not
            real add nothing to keys, values or norms, and their outputs are zeros.
        key_norm: `"column"` or `"row"`.
        causal: whether a position sees only itself and those before it.
        chunk_size: positions that the causal form computes at once (quadratic inside a chunk, a state
            between chunks); it changes the speed, not the result.

    Returns:
        (B, H, N, D), in the dtype of `v`. Feature maps, norms and sums are taken in at least float32,
        also under autocast.

    Raises:
        ValueError: `key_norm` or `chunk_size` is not one of the above.
    """
    if key_norm not in ("column", "row"):
        raise ValueError(f"key_norm must be 'column' or 'row', got {key_norm!r}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    dtype = v.dtype
    with torch.autocast(device_type=q.device.type, enabled=False):
        precise = torch.promote_types(dtype, torch.float32)
        q, k, v = q.to(precise), k.to(precise), v.to(precise)
        if mask is not None:
            # Filled, not multiplied: padding may hold NaN or infinity, which 0 would not silence. All that
            # follows maps 0 to 0, so this one mask is enough for keys, values, norms and outputs.
            padding = ~mask[:, None, :, None]
            q, k, v = (x.masked_fill(padding, 0.0) for x in (q, k, v))
        if causal and key_norm == "column":
            features_q, features_k = _CausalColumnFeatures.apply(q, k)  # type: ignore[no-untyped-call]
        else:
            features_q, features_k = _normalise_rows(F.elu(q)), _key_features(k, key_norm)
        v = v / math.sqrt(q.shape[-1])
        if causal:
            out = _causal_product(features_q, features_k, v, chunk_size)
        else:
            out = features_q @ (features_k.transpose(-1, -2) @ v)
    return out.to(dtype)


def linear_attention_at_last(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, key_norm: KeyNorm = "column"
) -> Tensor:
    """What `linear_attention` gives at the last real position of each sequence, causal or not.

    Args:
        q: queries of those positions alone, (B, H, 1, D).
        k: keys, (B, H, N, D).
        v: values, (B, H, N, D).
        mask: bool (B, N), True at real positions, which come first; None means that all are real.
        key_norm: `"column"` or `"row"`.

    Returns:
        (B, H, 1, D), in the dtype of `v`.
    """
    dtype = v.dtype
    with torch.autocast(device_type=q.device.type, enabled=False):
        precise = torch.promote_types(dtype, torch.float32)
        q, k, v = q.to(precise), k.to(precise), v.to(precise)
        if mask is not None:
            padding = ~mask[:, None, :, None]
            k, v = k.masked_fill(padding, 0.0), v.masked_fill(padding, 0.0)
        q, k = F.elu(q), F.elu(k)
        # What scales features is applied to the one query, not to all keys.
        divisor = _norms(q, dim=-1) * math.sqrt(q.shape[-1])
        if key_norm == "column":
            divisor = divisor * _norms(k, dim=2)
        weights = (q / divisor) @ k.transpose(-1, -2)
        if key_norm == "row":
            weights = weights / _norms(k, dim=-1).transpose(-1, -2)
        out = weights @ v
    return out.to(dtype)


class _CausalColumnFeatures(torch.autograd.Function):
    """Queries and keys (B, H, N, D) -> rho_1(elu(q_t)) / n_t and elu(k_t), n_t the norm of keys up to t.

    Written by hand because autograd's own way through these element-wise steps takes as long as the matrix
    products that follow: it keeps every intermediate, and its elu computes the exponential again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        elu_q, elu_k = F.elu(q), F.elu(k)
        row_squares = elu_q.square().sum(-1, keepdim=True)
        inverse_row = row_squares.clamp_min(_SMALLEST_SQUARE).rsqrt_()
        column_squares = elu_k.square().cumsum(dim=2)
        inverse_column = column_squares.clamp_min(_SMALLEST_SQUARE).rsqrt_()
        ctx.save_for_backward(elu_q, elu_k, inverse_row, inverse_column, row_squares, column_squares)
        return (elu_q * inverse_row).mul_(inverse_column), elu_k

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        refuse_second_derivative()
        grad_q_out, grad_k_out = grad_outputs
        elu_q, elu_k, inverse_row, inverse_column, row_squares, column_squares = ctx.saved_tensors
        # d(x^-1/2) = -x^-3/2 / 2 dx, and nothing where x was clamped.
        grad_squares = (grad_q_out * elu_q).mul_(inverse_row).mul_(inverse_column.pow(3)).mul_(-0.5)
        grad_squares.masked_fill_(column_squares < _SMALLEST_SQUARE, 0.0)
        # Each key enters the norms of its own and all later positions.
        later = grad_squares.flip(2).cumsum_(dim=2).flip(2)
        grad_k = torch.addcmul(grad_k_out, later, elu_k, value=2)
        grad_q = grad_q_out * inverse_column
        along = (grad_q * elu_q).sum(-1, keepdim=True).mul_(inverse_row.square())
        along.masked_fill_(row_squares < _SMALLEST_SQUARE, 0.0)
        grad_q = torch.addcmul(grad_q, elu_q, along, value=-1).mul_(inverse_row)
        # elu'(x) is 1 above 0 and elu(x) + 1 below.
        return (
            grad_q.mul_(elu_q.clamp_max(0).add_(1)),
            grad_k.mul_(elu_k.clamp_max(0).add_(1)),
        )


_WIDE = 16
"""Features of a head from which on products with them as columns are fast on a CPU: a register's floats."""


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """q k^T: (..., N, D) twice to (..., N, N)."""
    if _narrow(q) and torch.is_grad_enabled():
        scores: Tensor = _NarrowScores.apply(q, k)  # type: ignore[no-untyped-call]
        return scores
    return q @ k.transpose(-1, -2)


def _weighted_sum(weights: Tensor, v: Tensor) -> Tensor:
    """w v: (..., N, N) and (..., N, D) to (..., N, D).

    Where heads are narrow it is taken as (v^T w^T)^T, whose columns are positions: up to four times faster,
    as are both of its gradients.
    """
    if _narrow(v):
        return (v.transpose(-1, -2) @ weights.transpose(-1, -2)).transpose(-1, -2)
    return weights @ v


def _narrow(x: Tensor) -> bool:
    # Compilers choose products by themselves, and cannot change the result of an operator of ours in place.
    return x.device.type == "cpu" and x.shape[-1] < _WIDE and not torch.compiler.is_compiling()


class _NarrowScores(torch.autograd.Function):
    """q k^T, whose gradients by torch's own formula would be products with few columns."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(q, k)
        return q @ k.transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        q, k = ctx.saved_tensors
        (grad,) = grad_outputs
        return _weighted_sum(grad, k), _weighted_sum(grad.transpose(-1, -2), q)


def _causal_product(q: Tensor, k: Tensor, v: Tensor, chunk_size: int) -> Tensor:
    """out_t = q_t . sum_{s <= t} k_s v_s^T, in chunks; (B, H, N, D) each."""
    size = min(chunk_size, q.shape[2])
    # A product, since tril itself is several times slower on a CPU.
    earlier = torch.ones(size, size, dtype=q.dtype, device=q.device).tril()
    if q.shape[2] == size:
        return _causal_chunk(q, k, v, earlier)
    outputs: list[Tensor] = []
    state = None  # (B, H, D, D): the sum of k_s v_s^T over the chunks before this one
    # Split, not sliced one by one: the gradient of each slice would be as long as the whole sequence, all of
    # them together growing as N^2.
    chunks = list(zip(*(x.split(size, dim=2) for x in (q, k, v)), strict=True))
    for q_c, k_c, v_c in chunks:
        out = _causal_chunk(q_c, k_c, v_c, earlier[: q_c.shape[2], : q_c.shape[2]])
        if state is not None:
            out = out + q_c @ state
        outputs.append(out)
        if len(outputs) < len(chunks):
            update = k_c.transpose(-1, -2) @ v_c
            state = update if state is None else state + update
    return torch.cat(outputs, dim=2)


def _causal_chunk(q: Tensor, k: Tensor, v: Tensor, earlier: Tensor) -> Tensor:
    """q_t . sum_{s <= t} k_s v_s^T within a chunk, by way of its (B, H, C, C) scores; `earlier`: (C, C)."""
    return _weighted_sum(_scores(q, k).mul_(earlier), v)


_UNFUSED_POSITIONS = 80
"""Up to so many positions two batched products are faster on a CPU than torch's fused attention, whose work
is cut into few pieces: by a third on two threads at 50 positions, and slower at 200."""


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal scaled dot-product attention, softmax(Q K^T / sqrt(D)) V, as in SASRec.

    Args:
        q: queries, (B, H, N, D).
        k: keys, (B, H, N, D).
        v: values, (B, H, N, D).
        mask: bool (B, N), True at real positions; None means that all are real.
        dropout: share of the attention weights that are dropped.

    Returns:
        (B, H, N, D); zeros at positions that are not real.
    """
    num_positions = q.shape[2]
    if mask is None and q.device.type == "cpu" and num_positions <= _UNFUSED_POSITIONS:
        return _unfused_attention(q, k, v, dropout)
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    earlier = torch.ones(num_positions, num_positions, dtype=torch.bool, device=q.device).tril()
    # Every position may see itself, or a row of padding would be all -inf and its softmax NaN.
    itself = torch.eye(num_positions, dtype=torch.bool, device=q.device)
    visible = (earlier & mask[:, None, None, :]) | itself
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
    return torch.where(mask[:, None, :, None], out, 0.0)


def _unfused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """`softmax_attention` without a mask by way of its (B H, N, N) weights, which are held until backward."""
    num_positions = q.shape[2]
    later = torch.full((num_positions, num_positions), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    logits = torch.baddbmm(
        later, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=1 / math.sqrt(q.shape[3])
    )
    weights = drop(logits.softmax(dim=-1), dropout, training=True)
    return _weighted_sum(weights, v.flatten(0, 1)).view(v.shape)


def softmax_attention_at_last(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """What `softmax_attention` gives at the last real position; arguments as `linear_attention_at_last`."""
    visible = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)

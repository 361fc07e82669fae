"""From a network's outputs to scores and to the training loss (paper Eq. 12-14).

Shapes: B sequences, N positions, D hidden size, V items; item ids are 1..V, 0 is padding.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from easrec.models.autograd import refuse_second_derivative
from easrec.models.products import product, sum_of_outer_products


def check_lengths(item_ids: Tensor, lengths: Tensor) -> None:
    """Refuse histories whose lengths are not those of their real items.

    Args:
        item_ids: int64 (B, N), left-aligned, 0 is padding.
        lengths: int64 (B,).

    Raises:
        ValueError: a length is not in 1..N (an empty history has no last position), or differs from the
            number of items before the padding.
    """
    num_positions = item_ids.shape[1]
    real = torch.arange(num_positions, device=item_ids.device) < lengths[:, None]
    # A length of 0 or less has no real position, one beyond N all of them: their number differs from it.
    fits = torch.equal(item_ids > 0, real) and bool((real.sum(dim=1) == lengths).all())
    if fits and bool(real[:, :1].all()):
        return
    outside = lengths[(lengths < 1) | (lengths > num_positions)]
    if len(outside):
        raise ValueError(f"every length must lie in 1..{num_positions}, got {outside[0].item()}")
    wrong = ((item_ids > 0) != real).any(dim=1)
    row = int(wrong.nonzero()[0])
    raise ValueError(
        f"history {row} must have its {lengths[row].item()} items first and zeros after them, got "
        f"{item_ids[row].tolist()}"
    )


def item_scores(outputs: Tensor, item_embedding: Tensor) -> Tensor:
    """Outputs (B, D) and embeddings (V + 1, D) -> float32 scores (B, V + 1); padding's column is -inf.

    Also under autocast: scores of half precision would tie, and a tie counts against the target.
    """
    with torch.autocast(device_type=outputs.device.type, enabled=False):
        scores = product(outputs.float(), item_embedding.float())
    scores[:, 0] = -math.inf
    return scores


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T` in chunks of rows, gradients made on the way forward.

    The (targets x items) matrix would be the largest of a training step, written and read several times.
    A chunk of it stays in the cache, and since the loss is a scalar its gradient is known, up to the
    factor that backward brings, as soon as the chunk's softmax is: nothing is kept or computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int, with_gradient: bool
    ) -> Tensor:
        loss = torch.zeros((), dtype=hidden.dtype, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if with_gradient else None
        grad_weight = torch.zeros_like(weight) if with_gradient else None
        for start in range(0, len(hidden), chunk_rows):
            rows = slice(start, start + chunk_rows)
            # Each batch has a last chunk of a size of its own.
            recurs = rows.stop <= len(hidden)
            target = targets[rows].unsqueeze(1)
            logits = product(hidden[rows], weight, recurs=recurs)
            probabilities = logits.softmax(dim=1)
            # log sum exp, by the greatest probability; the target's may be too small for a logarithm.
            total = logits.amax(dim=1) - probabilities.amax(dim=1).log()
            loss += (total - logits.gather(1, target).squeeze(1)).sum()
            if grad_hidden is not None and grad_weight is not None:
                # Softmax less one at the target; the mean's factor comes with backward.
                gradient = probabilities.scatter_add_(1, target, torch.full_like(total, -1).unsqueeze(1))
                grad_hidden[rows] = product(gradient, weight.T, recurs=recurs)
                grad_weight += sum_of_outer_products(gradient, hidden[rows], recurs=recurs)
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return loss / len(hidden) if len(hidden) else loss * math.nan

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0] / max(len(grad_hidden), 1)
        return grad_hidden * scale, grad_weight * scale, None, None, None


def sampled_item_loss(
    hidden: Tensor, targets: Tensor, negatives: Tensor, item_embedding: Tensor, *, sparse: bool = False
) -> Tensor:
    """Mean cross-entropy with the partition sum estimated from some items (sampled softmax, logQ correction).

    Each target competes with itself and with the drawn items, whose scores are raised by -log q, q = S / V
    the probability that an item is among the S drawn. The sum that stands for all items is unbiased, so the
    bias of the loss, its logarithm's, falls as 1 / S; with every item drawn the loss is the exact one. A
    drawn item that is a row's target is left out of that row, where it is counted already.

    Args:
        hidden: outputs, (..., D).
        targets: item ids, int64 (...); 0 where there is no target.
        negatives: distinct item ids, drawn uniformly, int64 (S,).
        item_embedding: (V + 1, D), row 0 is padding.
        sparse: whether the gradient of `item_embedding` holds the rows that are used alone.

    Returns:
        A scalar, as of `next_item_loss`. The (targets x negatives) matrix is computed in chunks, once more in
        the backward pass, and never held.
    """
    present = targets > 0
    rows, asked = hidden[present], targets[present]
    precise = torch.promote_types(rows.dtype, torch.float32)
    correction = math.log((len(item_embedding) - 1) / len(negatives))
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        rows = rows.to(precise)
        own = (rows * F.embedding(asked, item_embedding, sparse=sparse).to(precise)).sum(dim=1)
        others = F.embedding(negatives, item_embedding, sparse=sparse).to(precise)

        def chunk_loss(rows: Tensor, own: Tensor, asked: Tensor) -> Tensor:
            scores = (rows @ others.T + correction).masked_fill(negatives == asked[:, None], -math.inf)
            # The target stands first; with it no row is all -inf.
            return F.cross_entropy(
                torch.cat([own[:, None], scores], dim=1), torch.zeros_like(asked), reduction="sum"
            )

        chunk_rows = max(2 * rows.shape[1], CHUNK_ELEMENTS // len(negatives))
        total = rows.new_zeros(())
        for start in range(0, len(rows), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            total = total + checkpoint(chunk_loss, rows[chunk], own[chunk], asked[chunk], use_reentrant=False)
    return total / len(rows) if len(rows) else total * math.nan


CHUNK_ELEMENTS = 1 << 18
"""Elements of the score matrix that the loss holds at once: 1 MiB of float32, the size of a core's cache."""


def next_item_loss(hidden: Tensor, targets: Tensor, item_embedding: Tensor) -> Tensor:
    """Mean cross-entropy over all items at the positions that have a target.

    Exact, and computed in chunks: the matrix of all scores is never held. Differentiable once.

    Args:
        hidden: outputs, (..., D).
        targets: item ids, int64 (...); 0 where there is no target.
        item_embedding: (V + 1, D), row 0 is padding.

    Returns:
        A scalar, at least float32, also under autocast; NaN where there is no target at all, as of any
        empty mean.
    """
    present = targets > 0
    rows, weight = hidden[present], item_embedding[1:]
    # Each chunk adds to the gradient of every item: with very many items few rows would be mostly that.
    chunk_rows = max(2 * rows.shape[1], CHUNK_ELEMENTS // len(item_embedding))
    with_gradient = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    precise = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows.to(precise), weight.to(precise), targets[present] - 1, chunk_rows, with_gradient
        )
    return loss


def item_loss(
    hidden: Tensor, targets: Tensor, item_embedding: nn.Embedding, negatives: Tensor | None
) -> Tensor:
    """`next_item_loss` against all items, or `sampled_item_loss` against `negatives` where there are some."""
    if negatives is None:
        return next_item_loss(hidden, targets, item_embedding.weight)
    return sampled_item_loss(hidden, targets, negatives, item_embedding.weight, sparse=item_embedding.sparse)

"""A supernet's relaxed output, one sequence and one candidate after the other."""

import torch
import torch.nn.functional as F

from easrec.models.packing import Packing


def relaxed_outputs(supernet, item_ids, width, depth):
    """sum_l q_l H_l with H_l = sum_k p_k pad(T_k,l(H_(l-1)[..., :d_k])) for one unpadded sequence, (N, d)."""
    ids = item_ids[None]
    packing = Packing(ids > 0)
    embedded = supernet.item_embedding.weight[item_ids] + supernet.position_embedding.weight[: len(item_ids)]
    hidden, sizes = None, supernet.hidden_sizes
    total = torch.zeros_like(embedded)
    for layer, share in zip(supernet.layers, depth, strict=True):
        mixed = torch.zeros_like(embedded)
        for k, weight in enumerate(width):
            embeddings = supernet.embedding_norms[k](embedded[:, : sizes[k]])
            x = embeddings if hidden is None else hidden[:, : sizes[k]]
            mixed = mixed + weight * F.pad(
                layer(k, x, embeddings, packing), (0, embedded.shape[1] - sizes[k])
            )
        hidden = mixed
        total = total + share * hidden
    return total


def relaxed_loss(supernet, batch, width, depth):
    """Mean cross-entropy of the targets of a batch at p and q."""
    losses = []
    for item_ids, targets in zip(batch.item_ids, batch.targets, strict=True):
        real = item_ids > 0
        outputs = relaxed_outputs(supernet, item_ids[real], width, depth)
        scores = outputs @ supernet.item_embedding.weight[1:].T
        for row, target in zip(scores, targets[real], strict=True):
            if target > 0:
                losses.append(torch.logsumexp(row, 0) - row[target - 1])
    return torch.stack(losses).mean()

"""Attention as the formula is written: loops over positions, in float64."""

import math

import torch
from torch import Tensor


def _elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.exp(x) - 1)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, key_norm: str, causal: bool) -> Tensor:
    """Raw queries, keys and values (B, H, N, D), mask (B, N) -> (B, H, N, D)."""
    batch, heads, positions, size = q.shape
    q, k, v = _elu(q.double()), _elu(k.double()), v.double()
    sequences = []
    for b in range(batch):
        of_heads = []
        for h in range(heads):
            rows = []
            for t in range(positions):
                if not mask[b, t]:
                    rows.append(torch.zeros(size, dtype=torch.float64))
                    continue
                seen = [s for s in range(positions) if mask[b, s] and (s <= t or not causal)]
                keys = torch.stack([k[b, h, s] for s in seen])
                values = torch.stack([v[b, h, s] for s in seen])
                if key_norm == "column":
                    keys = keys / keys.square().sum(0).sqrt()
                else:
                    keys = keys / keys.square().sum(1, keepdim=True).sqrt()
                query = q[b, h, t] / q[b, h, t].square().sum().sqrt()
                rows.append((query @ keys.T) @ values / math.sqrt(size))
            of_heads.append(torch.stack(rows))
        sequences.append(torch.stack(of_heads))
    return torch.stack(sequences)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Causal softmax attention, (B, H, N, D) each, mask (B, N)."""
    out = torch.zeros_like(v, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                if mask[b, t]:
                    seen = [s for s in range(t + 1) if mask[b, s]]
                    logits = q[b, h, t].double() @ k[b, h, seen].double().T / math.sqrt(q.shape[-1])
                    weights = torch.exp(logits - logits.max())
                    out[b, h, t] = weights / weights.sum() @ v[b, h, seen].double()
    return out

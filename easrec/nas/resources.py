"""What a network costs in closed form, and the dynamic resource constraint (paper Eq. 15-16).

FLOPs count a multiply-add as 2 and only matrix products, for one sequence of N positions. Shapes:
K candidates, L exits.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace

DepthCost = Literal["straight_through", "hard", "expected", "static"]
Resource = Literal["flops", "params", "latency"]


def layer_flops(architecture: Architecture, sequence_length: int) -> int:
    """FLOPs of one layer over a sequence of `sequence_length` positions.

    N (8 d^2 + A + 4 d f + g): A is 4 d^2 / h for linear attention, whatever the chunk size (what its
    bidirectional and recurrent forms do), and 4 N d for softmax (the full square); g, the gates, is
    6 d^2 + 2 d f, 2 d^2 + 2 d f or 0 for 2, 1 or 0 gate layers.

    >>> layer_flops(Architecture(64, 256, 1, 4), sequence_length=50)
    7987200
    """
    d, f = architecture.hidden_size, architecture.inner_size
    if architecture.attention == "softmax":
        attention = 4 * sequence_length * d
    else:
        attention = 4 * d * d // architecture.num_heads
    gates = {0: 0, 1: 2 * d * d + 2 * d * f, 2: 6 * d * d + 2 * d * f}[architecture.gate_layers]
    return sequence_length * (8 * d * d + attention + 4 * d * f + gates)


def network_flops(architecture: Architecture, sequence_length: int) -> int:
    """FLOPs of all layers over one sequence: what `SequentialRecommender.forward` does on (1, N)."""
    return architecture.num_layers * layer_flops(architecture, sequence_length)


def smallest_flops(space: CandidateSpace, sequence_length: int) -> int:
    """`network_flops` of the cheapest network of a space: no bound below it leaves a search anything."""
    return min(network_flops(one, sequence_length) for one in space.architectures())


def scoring_flops(architecture: Architecture, num_items: int) -> int:
    """FLOPs of scoring every item for one request, 2 V d."""
    return 2 * num_items * architecture.hidden_size


def request_flops(architecture: Architecture, sequence_length: int, num_items: int) -> int:
    """FLOPs of `SequentialRecommender.scores` for one history; causal layers as in their bidirectional form.

    Less than `network_flops` + `scoring_flops`: only the last position of the last layer is needed, so the
    others are given keys and values alone.
    """
    one_layer = dataclasses.replace(architecture, num_layers=1)
    d, heads = architecture.hidden_size, architecture.num_heads
    at_one_position = layer_flops(one_layer, 1)
    if architecture.attention != "softmax":
        at_one_position += 4 * d - 4 * d * d // heads  # of any attention a sum of values, weighted by keys
    last_layer = at_one_position + (sequence_length - 1) * (4 * d * d + 4 * d)
    before = (architecture.num_layers - 1) * layer_flops(architecture, sequence_length)
    return before + last_layer + scoring_flops(architecture, num_items)


def executed_flops(architecture: Architecture, sequence_length: int, chunk_size: int = 64) -> int:
    """FLOPs that the chunked causal form of linear attention really does over one sequence.

    Inside a chunk of c positions it does 4 c^2 d; every chunk but the first reads the state, and every chunk
    but the last updates it, with 2 c d^2 / h each. Other attentions do `network_flops`.
    """
    if architecture.attention != "linear":
        return network_flops(architecture, sequence_length)
    d, heads = architecture.hidden_size, architecture.num_heads
    chunks = [min(chunk_size, sequence_length - start) for start in range(0, sequence_length, chunk_size)]
    attention = sum(4 * c * c * d for c in chunks)
    attention += sum(2 * c * d * d // heads for c in chunks[1:])
    attention += sum(2 * c * d * d // heads for c in chunks[:-1])
    closed_form = layer_flops(architecture, sequence_length) - sequence_length * 4 * d * d // heads
    return architecture.num_layers * (closed_form + attention)


def layer_parameters(architecture: Architecture) -> int:
    """Parameters of one layer, biases and norms included."""
    d, f = architecture.hidden_size, architecture.inner_size
    attention = 3 * (d * d + d) + (d * d + d)
    feed_forward = (d * f + f) + (f * d + d)
    norms = 2 * 2 * d
    outputs = (d * f + f) + (d * d + d)
    gates = {0: 0, 1: outputs, 2: outputs + 2 * (d * d + d)}[architecture.gate_layers]
    return attention + feed_forward + norms + gates


def network_parameters(architecture: Architecture, num_items: int, max_length: int) -> int:
    """Parameters of a `SequentialRecommender`, the padding row of its item embedding included."""
    embeddings = (num_items + 1 + max_length) * architecture.hidden_size
    norm = 2 * architecture.hidden_size
    return embeddings + norm + architecture.num_layers * layer_parameters(architecture)


def candidate_costs(
    space: CandidateSpace,
    resource: Resource,
    sequence_length: int,
    *,
    latencies_ms: Sequence[float] = (),
) -> Tensor:
    """F_k, what one layer of each candidate costs: float32 (K,), in FLOPs, parameters or milliseconds.

    Args:
        space: the candidates.
        resource: which cost.
        sequence_length: N.
        latencies_ms: of a layer of each candidate, for `latency`: it is measured, not computed.

    Raises:
        InputError: no such resource, or not one positive latency for each candidate.
    """
    candidates = [space.architecture(candidate, 1) for candidate in range(len(space))]
    costs: Sequence[float]
    if resource == "flops":
        costs = [layer_flops(candidate, sequence_length) for candidate in candidates]
    elif resource == "params":
        costs = [layer_parameters(candidate) for candidate in candidates]
    elif resource == "latency":
        costs = latencies_ms
        if len(costs) != len(space) or not all(0 < cost < math.inf for cost in costs):
            raise InputError(
                f"latencies_ms must be a positive number for each of the {len(space)} candidates, got "
                f"{list(costs)}"
            )
    else:
        raise InputError(f"resource must be one of {', '.join(get_args(Resource))}, got {resource!r}")
    return torch.tensor(costs, dtype=torch.float32)


def resource_term(
    costs: Tensor,
    width_weights: Tensor,
    depth_weights: Tensor,
    hard_depth: int,
    depth_cost: DepthCost = "straight_through",
) -> Tensor:
    """R = n_t sum_k p_k F_k / (L max_k F_k), a scalar in (0, 1] (paper Eq. 15-16).

    Args:
        costs: F_k, cost of one layer of each candidate, (K,), positive, in any unit.
        width_weights: p_k, (K,), summing to 1.
        depth_weights: softmax(beta), (L,), summing to 1.
        hard_depth: n_t, the number of layers that the depth controller's hard selection gives, 1..L.
        depth_cost: what stands for the depth. `straight_through`: the value is n_t, the gradient that of the
            expected depth sum_l l softmax(beta)_l. `hard`: n_t, without a gradient. `expected`: the expected
            depth. `static`: always L.

    Raises:
        ValueError: `hard_depth` is not in 1..L, or `depth_cost` is unknown.
    """
    num_layers = len(depth_weights)
    if not 1 <= hard_depth <= num_layers:
        raise ValueError(f"hard_depth must lie in 1..{num_layers}, got {hard_depth}")
    exits = torch.arange(1, num_layers + 1, dtype=depth_weights.dtype, device=depth_weights.device)
    expected = (exits * depth_weights).sum()
    depth: Tensor | float
    if depth_cost == "straight_through":
        depth = hard_depth + (expected - expected.detach())
    elif depth_cost == "expected":
        depth = expected
    elif depth_cost == "hard":
        depth = float(hard_depth)
    elif depth_cost == "static":
        depth = float(num_layers)
    else:
        known = ", ".join(get_args(DepthCost))
        raise ValueError(f"depth_cost must be one of {known}, got {depth_cost!r}")
    return depth * (width_weights * costs).sum() / (num_layers * costs.max())

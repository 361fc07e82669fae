"""The recurrent form of causal linear attention: an item costs the same after 10 or 10,000 others.

Of the positions before it, attention needs S, the sum of key features times values, and n^2, the sum of their
squares, and no more. A state holds both for each layer, and a new item adds to them. The last layer's output
is computed only when it is asked for: nothing but scores depends on it.

The outputs are those of the full forward pass, up to rounding; `easrec.serving.windows` says over which
items, once there are more than a network has positions.

Shapes: B users, W windows of a state (2), R = B x W rows, L layers, H heads, E dimensions of a head, D hidden
size, P phases.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easrec.data.sequences import Int64s
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.features import check_plain
from easrec.models.packing import Packing
from easrec.models.transformer import SequentialRecommender, TransformerLayer, embed
from easrec.nas.resources import layer_flops
from easrec.serving.layer_graph import SMALLEST_NORM
from easrec.serving.session import Session
from easrec.serving.states import Bits, Floats, StateFormat, UserStates
from easrec.serving.step_graphs import output_graph, update_graph
from easrec.serving.windows import NUM_WINDOWS, Windows
from easrec.training import fingerprint, state_digest

PREFILL_POSITIONS = 1 << 16
"""Positions that `start` computes at once, which bounds its memory."""


def output_flops(architecture: Architecture) -> int:
    """FLOPs of one user's output from a state: one position of the last layer without keys and values."""
    d, heads = architecture.hidden_size, architecture.num_heads
    return layer_flops(architecture, 1) - 4 * d * d - 2 * d * d // heads


def update_flops(architecture: Architecture) -> int:
    """FLOPs of one more item of one user, however many there were.

    One position of all layers in both windows, without the last layer's output.

    >>> update_flops(Architecture(32, 128, 1, 4)), output_flops(Architecture(32, 128, 1, 4))
    (9216, 35328)
    """
    whole = architecture.num_layers * layer_flops(architecture, 1)
    return NUM_WINDOWS * (whole - output_flops(architecture))


class StreamingNetwork:
    """A network whose users are kept as states.

    Histories are read by the network where it is, states are updated on the CPU. Weights are as they are now.

    Args:
        model: a network with causal linear attention, in evaluation mode.

    Raises:
        InputError: its attention has no state of fixed size.
    """

    def __init__(self, model: SequentialRecommender) -> None:
        check_plain(model, "serving")
        architecture = model.architecture
        if architecture.attention != "linear":
            raise InputError(
                f"attention={architecture.attention!r} has no state of fixed size, only causal linear "
                "attention ('linear') has: use recommend(histories)"
            )
        self.model = model
        self.format = StateFormat(
            network=fingerprint(
                architecture.to_dict(), model.num_items, model.max_length, state_digest(model)
            ),
            architecture=architecture,
            num_items=model.num_items,
        )
        self.windows = Windows(model.max_length)
        self._next_phase_P = self.windows.next_phase()
        self._item_embedding: Floats = model.item_embedding.weight.detach().cpu().numpy()
        self._update, self._output = Session(update_graph(model)), Session(output_graph(model))

    @torch.inference_mode()
    def start(self, histories: Sequence[Sequence[int]], *, remember_seen: bool = True) -> UserStates:
        """The states after whole histories, in one forward pass over the items that they stand for.

        Args:
            histories: item ids in 1..V of each of B users, from old to new; any may be empty.
            remember_seen: whether the states remember all items of a user, V / 8 bytes each.
        """
        users_at_once = max(1, PREFILL_POSITIONS // (NUM_WINDOWS * self.model.max_length))
        parts = [
            self._prefill(histories[begin : begin + users_at_once], remember_seen)
            for begin in range(0, max(1, len(histories)), users_at_once)
        ]
        return parts[0] if len(parts) == 1 else UserStates.concatenate(parts)

    def _prefill(self, histories: Sequence[Sequence[int]], remember_seen: bool) -> UserStates:
        states = UserStates.empty(self.format, len(histories), remember_seen=remember_seen)
        if states.seen is not None:
            for bits, history in zip(states.seen, histories, strict=True):
                items = np.asarray(history, dtype=np.int64)
                np.bitwise_or.at(bits, items >> 3, _bits_of(items))
        events = np.array([len(history) for history in histories], dtype=np.int64)
        met = np.flatnonzero(events)
        if not len(met):
            return states
        item_ids = torch.from_numpy(self._windows_of(histories, events)).flatten(0, 1)
        item_ids = item_ids.to(self.model.item_embedding.weight.device)
        packing = Packing(item_ids > 0)
        embedded = embed(item_ids, self.model.item_embedding, self.model.position_embedding)
        embeddings = x = self.model.embedding_norm(packing.pack(embedded))
        for number, layer in enumerate(self.model.layers):
            assert isinstance(layer, TransformerLayer)
            sums, squares = _totals(layer, packing.unpack(x), packing.mask)
            states.sums[number][:] = sums.cpu().numpy().reshape(states.sums[number].shape)
            if states.squares:
                states.squares[number][:] = squares.cpu().numpy().reshape(states.squares[number].shape)
            if number + 1 < len(self.model.layers):
                x = layer(x, embeddings, packing)
        phases = self.windows.phase(events)
        rows = torch.from_numpy(met * NUM_WINDOWS + self.windows.answering(phases[met]))
        last = packing.last_rows[rows.to(item_ids.device)]
        states.embeddings[met] = embeddings[last].cpu().numpy()
        states.inputs[met] = x[last].cpu().numpy()
        return replace(states, phases=phases)

    def _windows_of(self, histories: Sequence[Sequence[int]], events: Int64s) -> Int64s:
        """The items in each window, (B, W, longest), padded with zeros on the right."""
        begins, counts = self.windows.spans(events)
        padded = np.zeros((len(histories), NUM_WINDOWS, counts.max()), dtype=np.int64)
        for user, history in enumerate(histories):
            for window in range(NUM_WINDOWS):
                begin, count = int(begins[user, window]), int(counts[user, window])
                padded[user, window, :count] = history[begin : begin + count]
        return padded

    def update(self, states: UserStates, items: Int64s) -> UserStates:
        """The states after one more item of each user; those given stay as they are.

        Args:
            states: of B users.
            items: item ids in 1..V, int64 (B,); 0 leaves a user unchanged.
        """
        num_changed = np.count_nonzero(items)
        if not num_changed:
            return states
        if num_changed < len(items):
            users = items.nonzero()[0]
            return states.with_users(users, self.update(states.select(users), items[users]))
        num_layers = len(states.sums)
        found = self._update(
            (self._item_embedding[items][:, None], states.phases, *states.sums, *states.squares)
        )
        return UserStates(
            format=self.format,
            phases=self._next_phase_P[states.phases],
            sums=tuple(found[:num_layers]),
            squares=tuple(found[num_layers : num_layers + len(states.squares)]),
            embeddings=found[-2],
            inputs=found[-1],
            seen=None if states.seen is None else _with_items(states.seen, items),
        )

    def outputs(self, states: UserStates) -> Tensor:
        """What the network makes of each user, (B, D): its output at the last item that a state stands for.

        Raises:
            ValueError: a user has met nothing.
        """
        if np.count_nonzero(states.phases) < len(states):
            raise ValueError("a user who has met no item has no output")
        squares = states.squares[-1:]
        (outputs,) = self._output(
            (states.embeddings, states.inputs, states.phases, states.sums[-1], *squares)
        )
        return torch.from_numpy(outputs)


def _totals(layer: TransformerLayer, x_RND: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of a layer over whole sequences: S, (R, H, E, E), and n^2, (R, H, E).

    Args:
        layer: the layer.
        x_RND: its inputs.
        mask: bool (R, N), True at real positions.
    """
    architecture, hidden = layer.architecture, x_RND.shape[2]
    weight, bias = layer.query_key_value.weight[hidden:], layer.query_key_value.bias[hidden:]
    heads = architecture.num_heads
    keys, values = F.linear(x_RND, weight, bias).unflatten(2, (2, heads, hidden // heads)).unbind(2)
    features_RNHE = F.elu(keys)
    if architecture.key_norm == "row":
        features_RNHE = F.normalize(features_RNHE, dim=3, eps=SMALLEST_NORM)
    features_RNHE = features_RNHE.masked_fill(~mask[:, :, None, None], 0.0)
    sums = features_RNHE.permute(0, 2, 3, 1) @ values.transpose(1, 2)
    return sums, features_RNHE.square().sum(dim=1)


_BITS = np.left_shift(1, np.arange(8)).astype(np.uint8)


def _bits_of(items: Int64s) -> Bits:
    """The bit of each item in its byte."""
    bits: Bits = _BITS[items & 7]
    return bits


def _with_items(seen: Bits, items: Int64s) -> Bits:
    """A copy in which each user (B,) has seen one more item."""
    seen = seen.copy()
    seen[np.arange(len(items)), items >> 3] |= _bits_of(items)
    return seen

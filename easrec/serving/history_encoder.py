"""What a network makes of whole histories, computed fast.

For a single user torch spends its time on calling operators; on a CPU, ONNX Runtime takes a third of it.
Histories of like lengths are computed together, with little padding.

Shapes: B users, N positions, D hidden size, V items.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from easrec.models.features import FDSA, SASRecF
from easrec.models.transformer import SequentialRecommender
from easrec.serving.history_graph import HistoryGraph
from easrec.serving.session import Session

SHORTEST = 16
"""Histories up to this length are padded to it; longer ones to twice, four times and so on."""
POSITIONS_AT_ONCE = 1 << 13
"""Positions that are computed at once, which bounds memory; with about this many they stay in the caches."""


class HistoryEncoder:
    """The outputs of a network at the last items of histories. Weights are as they are now.

    Args:
        model: the network, in evaluation mode; one that reads features too.
    """

    def __init__(self, model: SequentialRecommender) -> None:
        self._model = model
        self._device = model.item_embedding.weight.device
        self._item_embedding = model.item_embedding.weight.detach()
        # Read by graphs alone.
        self._inputs = item_inputs(model) if self._device.type == "cpu" else {}
        self._sessions: dict[int, Session] = {}

    def outputs(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """What `SequentialRecommender.last_outputs` gives.

        Args:
            histories: item ids of each of B users, from 1 to N of them.

        Returns:
            (B, D), on the network's device.
        """
        if len(histories) == 1:
            return self._encode(histories, self._padded_length(len(histories[0])))
        outputs = self._item_embedding.new_empty(len(histories), self._item_embedding.shape[1])
        by_length: dict[int, list[int]] = {}
        for user, history in enumerate(histories):
            by_length.setdefault(self._padded_length(len(history)), []).append(user)
        for length, users in by_length.items():
            at_once = max(1, POSITIONS_AT_ONCE // length)
            for start in range(0, len(users), at_once):
                part = users[start : start + at_once]
                outputs[part] = self._encode([histories[user] for user in part], length)
        return outputs

    def _padded_length(self, length: int) -> int:
        padded = SHORTEST
        while padded < length:
            padded *= 2
        return min(padded, self._model.max_length)

    def _encode(self, histories: Sequence[Sequence[int]], length: int) -> Tensor:
        """Outputs of histories that are padded to one length."""
        item_ids = np.zeros((len(histories), length), dtype=np.int64)
        for row, history in zip(item_ids, histories, strict=True):
            row[: len(history)] = history
        if self._device.type != "cpu":
            with torch.inference_mode():
                return self._model.last_outputs(torch.from_numpy(item_ids).to(self._device))
        session = self._sessions.get(length)
        if session is None:
            session = self._sessions[length] = Session(_graph(self._model, length))
        lengths = np.array([len(history) for history in histories])
        (outputs,) = session((item_ids, lengths, *self._inputs.values()))
        return torch.from_numpy(outputs)


@torch.no_grad()
def item_inputs(model: SequentialRecommender) -> dict[str, npt.NDArray[np.float32]]:
    """What the streams of layers of a network are given of each item, (V + 1, D) each, by names.

    Features of an item are part of it: what a network makes of them alone is computed once for all items.
    """
    items = model.item_embedding.weight
    if isinstance(model, SASRecF):
        values = model.value_embedding.weight
        pooled = F.embedding_bag(model.item_values, values, mode="mean", padding_idx=0)
        return {"items": model.fusion(torch.cat([items, pooled], dim=1)).numpy()}
    inputs = {"items": items.numpy()}
    if isinstance(model, FDSA):
        inputs["features"] = model.item_features(torch.arange(model.num_items + 1)).numpy()
    return inputs


def _graph(model: SequentialRecommender, length: int) -> onnx.ModelProto:
    """Inputs: item ids (B, length), lengths (B,), and those of `item_inputs`; output (B, D).

    Tables of items are inputs so that the graph holds no copy of them.
    """
    graph = HistoryGraph(model, length)
    item_ids = graph.input("item_ids", "batch", length, dtype=TensorProto.INT64)
    lengths = graph.input("lengths", "batch", dtype=TensorProto.INT64)
    outputs = graph.last_outputs(item_ids, lengths, graph.input("items", model.num_items + 1, graph.hidden))
    if isinstance(model, FDSA):
        features = graph.input("features", model.num_items + 1, graph.hidden)
        others = graph.last_outputs(item_ids, lengths, features, norm="feature_norm", layers="feature_layers")
        outputs = graph.dense(graph.add("Concat", outputs, others, axis=1), "joining")
    graph.output(outputs, "outputs", "batch", graph.hidden)
    return graph.model(f"histories_{length}")

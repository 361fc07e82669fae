"""The output of a network at the last item of each history, as ONNX operators.

Shapes: B sequences, N positions, T = B x N rows, D hidden size, H heads, E = D / H dimensions of a head, V
items. Where attention is computed in chunks, N is C chunks of P positions.
"""

import math

import numpy as np
from onnx import TensorProto

from easrec.models.transformer import SequentialRecommender
from easrec.serving.layer_graph import SMALLEST_NORM, LayerGraph

_CHUNK_SIZE = 64


class HistoryGraph(LayerGraph):
    """A graph that reads histories; methods mirror those of `easrec.models.transformer`.

    Args:
        model: the network.
        max_length: the most items of a history, at most those of the network.
    """

    def __init__(self, model: SequentialRecommender, max_length: int) -> None:
        super().__init__(model)
        self.max_length = max_length
        self.num_chunks = 1
        if self.architecture.attention == "linear" and self.architecture.num_layers > 1:
            self.num_chunks = math.ceil(max_length / _CHUNK_SIZE)
        self.chunk_size = math.ceil(max_length / self.num_chunks)
        # Chunks are equal, so that there may be positions past max_length, which are padding.
        self.num_positions = self.num_chunks * self.chunk_size

    def last_outputs(
        self,
        item_ids: str,
        lengths: str,
        item_inputs: str,
        *,
        norm: str = "embedding_norm",
        layers: str = "layers",
    ) -> str:
        """What `SequentialRecommender.last_outputs` gives, (B, D).

        Args:
            item_ids: int64 (B, max_length); what is behind a history's length has no influence.
            lengths: int64 (B,), each in 1..max_length.
            item_inputs: what layers are given of the items, (V + 1, D): the item embeddings.
            norm: the network's name for the norm of its inputs.
            layers: its name for its layers.
        """
        num_layers = self.architecture.num_layers
        last = self.add("Sub", self.add("Unsqueeze", lengths, self.integers(1)), self.integers(1))
        embeddings_BND = x_BND = self._embed(item_ids, item_inputs, norm)
        embeddings_TD = x_TD = self.reshape(embeddings_BND, -1, self.hidden)
        for layer in range(num_layers - 1):
            attended = self._attend(f"{layers}.{layer}", x_TD, lengths)
            x_TD = self.feed_forward(f"{layers}.{layer}", x_TD, embeddings_TD, attended)
            x_BND = self.reshape(x_TD, -1, self.num_positions, self.hidden)
        final = f"{layers}.{num_layers - 1}"
        x_BD = embeddings_BD = self.add("GatherND", embeddings_BND, last, batch_dims=1)
        if num_layers > 1:
            x_BD = self.add("GatherND", x_BND, last, batch_dims=1)
        attended = self._attend_at_last(final, x_BD, x_TD, lengths)
        return self.feed_forward(final, x_BD, embeddings_BD, attended, one_row=True)

    def _embed(self, item_ids: str, item_inputs: str, norm: str) -> str:
        """Normalised embeddings, (B, N, D)."""
        positions = self.weights["position_embedding.weight"][: self.max_length]
        more = self.num_positions - self.max_length
        if more:
            item_ids = self.add("Pad", item_ids, self.integers(0, 0, 0, more))
            positions = np.pad(positions, ((0, more), (0, 0)))
        items = self.add("Gather", item_inputs, item_ids)
        embedded = self.add("Add", items, self.constant("position_embeddings", positions))
        return self.norm(embedded, norm)

    def _attend(self, layer: str, x_TD: str, lengths: str) -> str:
        """What the heads attend to at all positions, (T, D)."""
        projected = self.dense(x_TD, f"{layer}.query_key_value")
        by_head = self.reshape(projected, -1, self.num_positions, 3 * self.heads, self.head_size)
        q_BNHE, k_BNHE, v_BNHE = self.split(by_head, 3, axis=2)
        match self.architecture.attention:
            case "softmax":
                q_BNHE = self.add("Mul", q_BNHE, self.number(1 / math.sqrt(self.head_size)))
                products = self.add("MatMul", self._rows(q_BNHE), self._columns(k_BNHE))
                visible = self._earlier(self.num_positions)
                products = self.add("Where", visible, products, self.number(-math.inf))
                out = self.add("MatMul", self.add("Softmax", products, axis=-1), self._rows(v_BNHE))
            case "linear_bidirectional":
                q_BNHE = self.normalise(self.add("Elu", q_BNHE), axis=3)
                k_BNHE = self._real_features(k_BNHE, lengths, axis=1)
                k_BNHE = self.normalise(k_BNHE, axis=1 if self.architecture.key_norm == "column" else 3)
                state = self.add("MatMul", self._columns(k_BNHE), self._rows(v_BNHE))
                out = self.add("MatMul", self._rows(q_BNHE), state)
            case "linear":
                out = self._attend_causally(q_BNHE, k_BNHE, v_BNHE)
        joined = self.transpose(out, *((0, 2, 1, 3) if self.num_chunks == 1 else (0, 2, 3, 1, 4)))
        return self.reshape(joined, -1, self.hidden)

    def _attend_causally(self, q_BNHE: str, k_BNHE: str, v_BNHE: str) -> str:
        """Causal linear attention: quadratic inside a chunk, a state between chunks."""
        q_BNHE, k_BNHE = self.normalise(self.add("Elu", q_BNHE), axis=3), self.add("Elu", k_BNHE)
        if self.architecture.key_norm == "row":
            k_BNHE = self.normalise(k_BNHE, axis=3)
        else:
            squares = self.add("CumSum", self.add("Mul", k_BNHE, k_BNHE), self.integer(1))
            norms = self.add("Max", self.add("Sqrt", squares), self.number(SMALLEST_NORM))
            q_BNHE = self.add("Div", q_BNHE, norms)
        q, k, v = self._rows(q_BNHE), self._columns(k_BNHE), self._rows(v_BNHE)
        earlier = self.add("Cast", self._earlier(self.chunk_size), to=TensorProto.FLOAT)
        out = self.add("MatMul", self.add("Mul", self.add("MatMul", q, k), earlier), v)
        if self.num_chunks > 1:
            states = self.add("CumSum", self.add("MatMul", k, v), self.integer(2), exclusive=1)
            out = self.add("Add", out, self.add("MatMul", q, states))
        return out

    def _attend_at_last(self, layer: str, x_BD: str, x_TD: str, lengths: str) -> str:
        """What the heads attend to at the last real position, (B, D): one weighted sum of values."""
        layer = f"{layer}.query_key_value"
        query = self.dense_rows(x_BD, layer, "query", slice(self.hidden))
        q_BH1E = self.reshape(query, -1, self.heads, 1, self.head_size)
        projected = self.dense_rows(x_TD, layer, "key_value", slice(self.hidden, None))
        by_head = self.reshape(projected, -1, self.num_positions, 2 * self.heads, self.head_size)
        k_BHNE, v_BHNE = self.split(self.transpose(by_head, 0, 2, 1, 3), 2, axis=1)
        if self.architecture.attention == "softmax":
            q_BH1E = self.add("Mul", q_BH1E, self.number(1 / math.sqrt(self.head_size)))
            weights = self._products(q_BH1E, k_BHNE)
            visible = self._real(lengths, axis=3)
            weights = self.add("Where", visible, weights, self.number(-math.inf))
            weights = self.add("Softmax", weights, axis=-1)
        else:
            q_BH1E = self.normalise(self.add("Elu", q_BH1E), axis=3)
            k_BHNE = self._real_features(k_BHNE, lengths, axis=2)
            if self.architecture.key_norm == "column":
                # The norms of keys over positions scale the one query, not all keys.
                q_BH1E = self.add("Div", q_BH1E, self.norms(k_BHNE, axis=2))
            else:
                k_BHNE = self.normalise(k_BHNE, axis=3)
            weights = self._products(q_BH1E, k_BHNE)
        return self.reshape(self.add("MatMul", weights, v_BHNE), -1, self.hidden)

    def _products(self, q_BHME: str, k_BHNE: str) -> str:
        """Q K^T, (B, H, M, N); ONNX Runtime makes one operator of these two."""
        return self.add("MatMul", q_BHME, self.transpose(k_BHNE, 0, 1, 3, 2))

    def _real(self, lengths: str, axis: int) -> str:
        """bool, whether a position is real: of four axes B is the first and N is `axis`, the others are 1."""
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        numbers = np.arange(self.num_positions, dtype=np.int64).reshape(shape)
        return self.add(
            "Less", self.constant(f"positions_{axis}", numbers), self.reshape(lengths, -1, 1, 1, 1)
        )

    def _real_features(self, keys: str, lengths: str, axis: int) -> str:
        """elu(K), zeros at padding; positions are `axis`."""
        return self.add("Where", self._real(lengths, axis), self.add("Elu", keys), self.number(0.0))

    def _earlier(self, size: int) -> str:
        """bool (size, size): whether a column is not after its row; computed, since it may be large."""
        numbers = np.arange(size, dtype=np.int64)
        rows = self.constant(f"rows_{size}", numbers[:, None])
        return self.add("LessOrEqual", self.constant(f"columns_{size}", numbers), rows)

    def _rows(self, x_BNHE: str) -> str:
        """Positions as the rows of matrices: (B, H, N, E), or (B, H, C, P, E)."""
        if self.num_chunks == 1:
            return self.transpose(x_BNHE, 0, 2, 1, 3)
        return self.transpose(self._cut(x_BNHE), 0, 3, 1, 2, 4)

    def _columns(self, x_BNHE: str) -> str:
        """Positions as their columns: (B, H, E, N), or (B, H, C, E, P)."""
        if self.num_chunks == 1:
            return self.transpose(x_BNHE, 0, 2, 3, 1)
        return self.transpose(self._cut(x_BNHE), 0, 3, 1, 4, 2)

    def _cut(self, x_BNHE: str) -> str:
        return self.reshape(x_BNHE, -1, self.num_chunks, self.chunk_size, self.heads, self.head_size)

"""A network as one ONNX file, for ONNX Runtime and other programs that read ONNX.

The graph is put together operator by operator. Torch's exporter would trace the network instead: it takes
seconds, and over a minute where attention's chunks are many, stores some weights again in another layout,
leaves the paths of source files in the graph, and writes other graphs with other versions of torch. Here a
graph takes milliseconds, is the same bytes each time, and computes what scores need and no more: the last
layer at the last position alone, and no mask where attention is causal, since real items come first and so
never see what follows them.

Shapes: B sequences, N positions, T = B x N rows, D hidden size, H heads, E = D / H dimensions of a head, F
inner size, V items. Where attention is computed in chunks, N is C chunks of P positions.
"""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import easrec
from easrec.errors import InputError
from easrec.files import write_atomically
from easrec.models.gates import GAMMA
from easrec.models.transformer import LAYER_NORM_EPS, SequentialRecommender
from easrec.serving.onnx_graph import OnnxGraph

OPSET = 20
"""Version of ONNX's operators: the first that has Gelu."""
IR_VERSION = 10
"""Version of ONNX's file format, fixed so that a newer onnx package does not ask for a newer runtime."""
LARGEST_FILE = (1 << 31) - 1
"""Bytes that an ONNX file may have: a limit of protocol buffers."""

_SMALLEST_NORM = 1e-6  # the root of what easrec.models.attention clamps squares at
_CHUNK_SIZE = 64


def write_onnx(model: SequentialRecommender, path: Path | str) -> None:
    """Write the network's scores as one ONNX file, weights included, atomically.

    The graph's inputs are `item_ids`, int64 (B, max_length), left-aligned, 0 is padding, and `lengths`,
    int64 (B,), each in 1..max_length, which the graph cannot check; its output is `scores`, float32 (B, V +
    1), column 0 -inf: those of `model.scores` in evaluation mode. B is free. Ids behind a history's length
    have no influence.

    Raises:
        InputError: the weights are larger than an ONNX file may be.
    """
    size = sum(value.numel() * 4 for value in model.state_dict().values())
    if size > LARGEST_FILE - (1 << 20):
        raise InputError(
            f"the network's weights are {size} bytes and an ONNX file has at most {LARGEST_FILE}: keep fewer "
            f"than {model.num_items} items, or choose a hidden_size below {model.architecture.hidden_size}"
        )
    content = _ScoresGraph(model).build().SerializeToString(deterministic=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


class _ScoresGraph(OnnxGraph):
    """The graph of a network's scores; methods mirror those of `easrec.models.transformer`."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.model = model
        self.architecture = model.architecture
        self.hidden, self.heads = model.architecture.hidden_size, model.architecture.num_heads
        self.head_size = self.hidden // self.heads
        self.weights = {
            name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()
        }
        self.num_chunks = 1
        if self.architecture.attention == "linear" and self.architecture.num_layers > 1:
            self.num_chunks = math.ceil(model.max_length / _CHUNK_SIZE)
        self.chunk_size = math.ceil(model.max_length / self.num_chunks)
        # Chunks are equal, so that there may be positions past max_length, which are padding.
        self.num_positions = self.num_chunks * self.chunk_size

    def build(self) -> onnx.ModelProto:
        """The whole graph."""
        model, num_layers = self.model, self.architecture.num_layers
        lengths = self.add("Unsqueeze", "lengths", self.integers(1))
        positions = self.constant("positions", np.arange(self.num_positions, dtype=np.int64))
        real = self.add("Less", positions, lengths, name="real")
        last = self.add("Sub", lengths, self.integers(1), name="last")
        embeddings_BND = x_BND = self._embed()
        embeddings_TD = x_TD = self.reshape(embeddings_BND, -1, self.hidden)
        for layer in range(num_layers - 1):
            attended = self._attend(f"layers.{layer}", x_TD, real)
            x_TD = self._feed_forward(f"layers.{layer}", x_TD, embeddings_TD, attended)
            x_BND = self.reshape(x_TD, -1, self.num_positions, self.hidden)
        final = f"layers.{num_layers - 1}"
        x_BD = embeddings_BD = self.add("GatherND", embeddings_BND, last, batch_dims=1)
        if num_layers > 1:
            x_BD = self.add("GatherND", x_BND, last, batch_dims=1)
        attended = self._attend_at_last(final, x_BD, x_TD, real)
        y_BD = self._feed_forward(final, x_BD, embeddings_BD, attended)
        self._score(y_BD)
        inputs = [
            helper.make_tensor_value_info("item_ids", TensorProto.INT64, ["batch", model.max_length]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ]
        output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", model.num_items + 1])
        graph = helper.make_graph(
            self.nodes, self.architecture.architecture_id, inputs, [output], list(self.constants.values())
        )
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="easrec",
            producer_version=easrec.__version__,
        )

    def _embed(self) -> str:
        """Normalised embeddings, (B, N, D)."""
        item_ids, positions = "item_ids", self._weight("position_embedding.weight")
        more = self.num_positions - self.model.max_length
        if more:
            item_ids = self.add("Pad", item_ids, self.integers(0, 0, 0, more))
            positions = self.add("Pad", positions, self.integers(0, 0, more, 0))
        items = self.add("Gather", self._weight("item_embedding.weight"), item_ids)
        return self._norm(self.add("Add", items, positions), "embedding_norm")

    def _score(self, y_BD: str) -> None:
        """The output: products with all items, -inf for the padding."""
        products = self.add("Gemm", y_BD, self._weight("item_embedding.weight"), transB=1)
        one, end = self.integers(1), self.integers(self.model.num_items + 1)
        of_items = self.add("Slice", products, one, end, one)
        self.add("Pad", of_items, self.integers(0, 1, 0, 0), self.number(-math.inf), name="scores")

    def _weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def _dense(self, x: str, name: str, *, alpha: float = 1.0, beta: float = 1.0) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.add("Gemm", x, weight, bias, transB=1, alpha=alpha, beta=beta)

    def _dense_rows(self, x: str, name: str, label: str, rows: slice) -> str:
        """Some outputs of a dense layer alone, as a layer called `label`."""
        weight = self.constant(f"{name}.{label}.weight", self.weights[f"{name}.weight"][rows])
        bias = self.constant(f"{name}.{label}.bias", self.weights[f"{name}.bias"][rows])
        return self.add("Gemm", x, weight, bias, transB=1)

    def _norm(self, x: str, name: str) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, epsilon=LAYER_NORM_EPS)

    def _feed_forward(self, layer: str, x: str, embeddings: str, attended: str) -> str:
        """The layer's output at some positions, from its input there and what the heads attended to."""
        # The product brings linear attention's 1 / sqrt(E), which is a pass over its output less.
        scale = 1.0 if self.architecture.attention == "softmax" else 1 / math.sqrt(self.head_size)
        attended = self._dense(attended, f"{layer}.attention_output", alpha=scale)
        s = self._norm(self.add("Add", x, attended), f"{layer}.attention_norm")
        f = self.add("Gelu", self._dense(s, f"{layer}.feed_in"))
        if self.architecture.gate_layers:
            # Likewise the factor gamma of both gates, of which the bias only passes the second.
            f = self.add("Mul", self._gate(embeddings, f"{layer}.inner_gate"), f)
            f = self._dense(f, f"{layer}.feed_out", alpha=GAMMA * GAMMA, beta=GAMMA)
            f = self.add("Mul", self._gate(embeddings, f"{layer}.outer_gate"), f)
        else:
            f = self._dense(f, f"{layer}.feed_out")
        return self._norm(self.add("Add", s, f), f"{layer}.feed_norm")

    def _gate(self, embeddings: str, name: str) -> str:
        """A gate's factors, divided by gamma."""
        if self.architecture.gate_layers == 2:
            embeddings = self.add("Relu", self._dense(embeddings, f"{name}.inner"))
        return self.add("Sigmoid", self._dense(embeddings, f"{name}.output"))

    def _attend(self, layer: str, x_TD: str, real_BN: str) -> str:
        """What the heads attend to at all positions, (T, D)."""
        projected = self._dense(x_TD, f"{layer}.query_key_value")
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
                q_BNHE = self._normalise(self.add("Elu", q_BNHE), axis=3)
                k_BNHE = self._key_features(k_BNHE, real_BN)
                state = self.add("MatMul", self._columns(k_BNHE), self._rows(v_BNHE))
                out = self.add("MatMul", self._rows(q_BNHE), state)
            case "linear":
                out = self._attend_causally(q_BNHE, k_BNHE, v_BNHE)
        joined = self.transpose(out, *((0, 2, 1, 3) if self.num_chunks == 1 else (0, 2, 3, 1, 4)))
        return self.reshape(joined, -1, self.hidden)

    def _attend_causally(self, q_BNHE: str, k_BNHE: str, v_BNHE: str) -> str:
        """Causal linear attention: quadratic inside a chunk, a state between chunks."""
        q_BNHE, k_BNHE = self._normalise(self.add("Elu", q_BNHE), axis=3), self.add("Elu", k_BNHE)
        if self.architecture.key_norm == "row":
            k_BNHE = self._normalise(k_BNHE, axis=3)
        else:
            squares = self.add("CumSum", self.add("Mul", k_BNHE, k_BNHE), self.integer(1))
            norms = self.add("Max", self.add("Sqrt", squares), self.number(_SMALLEST_NORM))
            q_BNHE = self.add("Div", q_BNHE, norms)
        q, k, v = self._rows(q_BNHE), self._columns(k_BNHE), self._rows(v_BNHE)
        earlier = self.add("Cast", self._earlier(self.chunk_size), to=TensorProto.FLOAT)
        out = self.add("MatMul", self.add("Mul", self.add("MatMul", q, k), earlier), v)
        if self.num_chunks > 1:
            states = self.add("CumSum", self.add("MatMul", k, v), self.integer(2), exclusive=1)
            out = self.add("Add", out, self.add("MatMul", q, states))
        return out

    def _attend_at_last(self, layer: str, x_BD: str, x_TD: str, real_BN: str) -> str:
        """What the heads attend to at the last real position, (B, D): one weighted sum of values."""
        layer = f"{layer}.query_key_value"
        query = self._dense_rows(x_BD, layer, "query", slice(self.hidden))
        q_BH1E = self.reshape(query, -1, self.heads, 1, self.head_size)
        projected = self._dense_rows(x_TD, layer, "key_value", slice(self.hidden, None))
        by_head = self.reshape(projected, -1, self.num_positions, 2 * self.heads, self.head_size)
        k_BNHE, v_BNHE = self.split(by_head, 2, axis=2)
        if self.architecture.attention == "softmax":
            q_BH1E = self.add("Mul", q_BH1E, self.number(1 / math.sqrt(self.head_size)))
            weights = self.add("MatMul", q_BH1E, self.transpose(k_BNHE, 0, 2, 3, 1))
            visible = self.add("Unsqueeze", real_BN, self.integers(1, 2))
            weights = self.add("Where", visible, weights, self.number(-math.inf))
            weights = self.add("Softmax", weights, axis=-1)
        else:
            q_BH1E = self._normalise(self.add("Elu", q_BH1E), axis=3)
            k_BNHE = self._key_features(k_BNHE, real_BN)
            weights = self.add("MatMul", q_BH1E, self.transpose(k_BNHE, 0, 2, 3, 1))
        out = self.add("MatMul", weights, self.transpose(v_BNHE, 0, 2, 1, 3))
        return self.reshape(out, -1, self.hidden)

    def _key_features(self, k_BNHE: str, real_BN: str) -> str:
        """rho_2(elu(K)) over all positions, zeros at padding."""
        mask = self.add("Cast", self.add("Unsqueeze", real_BN, self.integers(2, 3)), to=TensorProto.FLOAT)
        features = self.add("Mul", self.add("Elu", k_BNHE), mask)
        return self._normalise(features, axis=1 if self.architecture.key_norm == "column" else 3)

    def _normalise(self, x: str, axis: int) -> str:
        """A value divided by its L2 norm over one axis; zeros stay zeros."""
        norms = self.add("ReduceL2", x, self.integers(axis), keepdims=1)
        return self.add("Div", x, self.add("Max", norms, self.number(_SMALLEST_NORM)))

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

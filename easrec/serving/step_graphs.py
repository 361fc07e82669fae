"""What one more item does to users' states, and what a network makes of a state, as ONNX graphs.

For a single user the time of an update is that of calling operators. ONNX Runtime, which calls them without
Python, takes a third of the time of torch.

Shapes: B users, W windows of a state (2), R = B x W rows, H heads, E dimensions of a head, D hidden size,
P phases. Values of a state are those of `easrec.serving.states.UserStates`.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from easrec.models.transformer import SequentialRecommender
from easrec.serving.layer_graph import SMALLEST_NORM, LayerGraph
from easrec.serving.windows import NUM_WINDOWS, Windows

BATCH = "batch"


class _StepGraph(LayerGraph):
    """What both graphs need: a layer's attention at one position, and what depends on the phase."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__(model)
        self.column_norm = model.architecture.key_norm == "column"

    def input_sums(self, name: str) -> str:
        """The sums of a layer as an input."""
        return self.input(name, BATCH, NUM_WINDOWS, self.heads, self.head_size, self.head_size)

    def input_squares(self, name: str) -> str:
        """The squares of a layer as an input."""
        return self.input(name, BATCH, NUM_WINDOWS, self.heads, self.head_size)

    def by_phase(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Of a table (P, ...) the row of each user's phase, (B, ...)."""
        return self.add("Gather", self.constant(name, values), "phases")

    def features_values(self, layer: str, x_RD: str) -> tuple[str, str]:
        """Features of keys, and values, (B, W, H, E) each, of a layer's input."""
        name, rows = f"{layer}.query_key_value", slice(self.hidden, None)
        projected = self.dense_rows(x_RD, name, "key_value", rows)
        by_head = self.reshape(projected, -1, NUM_WINDOWS, 2 * self.heads, self.head_size)
        keys, values = self.split(by_head, 2, axis=2)
        features = self.add("Elu", keys)
        return features if self.column_norm else self.normalise(features, axis=3), values

    def attend(self, layer: str, x_RD: str, sums: str, squares: str | None) -> str:
        """What the heads attend to, (R, D), without the factor 1 / sqrt(E).

        Args:
            layer: prefix of the layer's weights.
            x_RD: its input.
            sums: S of each row, (..., H, E, E).
            squares: n^2 of each row, (..., H, E); None with `key_norm="row"`.
        """
        query = self.dense_rows(x_RD, f"{layer}.query_key_value", "query", slice(self.hidden))
        q_RHE = self.add("Elu", self.reshape(query, -1, self.heads, self.head_size))
        q_RHE = self.normalise(q_RHE, axis=2)
        if squares is not None:
            norms = self.add("Max", self.add("Sqrt", squares), self.number(SMALLEST_NORM))
            q_RHE = self.add("Div", q_RHE, self.reshape(norms, -1, self.heads, self.head_size))
        q_RH1E = self.add("Unsqueeze", q_RHE, self.integers(2))
        state_RHEE = self.reshape(sums, -1, self.heads, self.head_size, self.head_size)
        return self.reshape(self.add("MatMul", q_RH1E, state_RHEE), -1, self.hidden)


def update_graph(model: SequentialRecommender) -> onnx.ModelProto:
    """One more item of each user.

    Inputs: the embeddings of the items, (B, 1, D); the phases before them, (B,); the sums of each layer, and
    with `key_norm="column"` the squares of each layer. Outputs: new sums and squares, embeddings, inputs.
    """
    graph, windows = _StepGraph(model), Windows(model.max_length)
    layers, heads, size = range(model.architecture.num_layers), graph.heads, graph.head_size
    items = graph.input("items", BATCH, 1, graph.hidden)
    graph.input("phases", BATCH, dtype=TensorProto.INT64)
    sums = [graph.input_sums(f"sums_{layer}") for layer in layers]
    squares = [graph.input_squares(f"squares_{layer}") for layer in layers if graph.column_norm]
    positions = windows.next_positions()
    by_position = graph.weights["position_embedding.weight"][positions.clip(min=0)]
    embeddings_BWD = graph.norm(
        graph.add("Add", graph.by_phase("positions", by_position), items), "embedding_norm"
    )
    embeddings_RD = x_RD = graph.reshape(embeddings_BWD, -1, graph.hidden)
    # A window that begins anew forgets; one that takes no item stays as it is.
    keeps = graph.by_phase("keeps", (positions != 0).astype(np.float32)[..., None, None])
    takes = graph.by_phase("takes", (positions >= 0).astype(np.float32)[..., None, None])
    keeps_sums = graph.add("Unsqueeze", keeps, graph.integers(4))
    for layer in layers:
        name = f"layers.{layer}"
        features, values = graph.features_values(name, x_RD)
        features = graph.add("Mul", features, takes)
        columns = graph.add("Unsqueeze", features, graph.integers(4))
        rows = graph.add("Unsqueeze", values, graph.integers(3))
        kept = graph.add("Mul", sums[layer], keeps_sums)
        sums[layer] = graph.add("Add", kept, graph.add("Mul", columns, rows))
        if graph.column_norm:
            kept = graph.add("Mul", squares[layer], keeps)
            squares[layer] = graph.add("Add", kept, graph.add("Mul", features, features))
        if layer + 1 < len(layers):
            attended = graph.attend(name, x_RD, sums[layer], squares[layer] if squares else None)
            x_RD = graph.feed_forward(name, x_RD, embeddings_RD, attended)
    for layer, of_layer in enumerate(sums):
        graph.output(of_layer, f"new_sums_{layer}", BATCH, NUM_WINDOWS, heads, size, size)
    for layer, of_layer in enumerate(squares):
        graph.output(of_layer, f"new_squares_{layer}", BATCH, NUM_WINDOWS, heads, size)
    window = graph.by_phase("window", windows.answering(windows.next_phase())[:, None])
    graph.output(
        graph.add("GatherND", embeddings_BWD, window, batch_dims=1), "embeddings", BATCH, graph.hidden
    )
    x_BWD = graph.reshape(x_RD, -1, NUM_WINDOWS, graph.hidden)
    graph.output(graph.add("GatherND", x_BWD, window, batch_dims=1), "inputs", BATCH, graph.hidden)
    return graph.model("update")


def output_graph(model: SequentialRecommender) -> onnx.ModelProto:
    """What the network makes of each user.

    Inputs: embeddings, inputs and phases of a state; the sums of its last layer, and with `key_norm="column"`
    the squares. Output: what `SequentialRecommender.last_outputs` gives, (B, D).
    """
    graph, windows = _StepGraph(model), Windows(model.max_length)
    embeddings, inputs = (graph.input(name, BATCH, graph.hidden) for name in ("embeddings", "inputs"))
    graph.input("phases", BATCH, dtype=TensorProto.INT64)
    of_windows = graph.input_sums("sums")
    window = graph.by_phase("window", windows.answering(np.arange(windows.num_phases))[:, None])
    sums, squares = graph.add("GatherND", of_windows, window, batch_dims=1), None
    if graph.column_norm:
        squares = graph.add("GatherND", graph.input_squares("squares"), window, batch_dims=1)
    layer = f"layers.{model.architecture.num_layers - 1}"
    attended = graph.attend(layer, inputs, sums, squares)
    graph.output(graph.feed_forward(layer, inputs, embeddings, attended), "outputs", BATCH, graph.hidden)
    return graph.model("output")

"""The parts of a network as ONNX operators: dense layers, norms, gates, feed-forward networks.

Shapes: R rows, D hidden size, E dimensions of a head.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

import easrec
from easrec.models.gates import GAMMA
from easrec.models.transformer import LAYER_NORM_EPS, SequentialRecommender
from easrec.serving.onnx_graph import OnnxGraph

OPSET = 20
"""Version of ONNX's operators: the first that has Gelu."""
IR_VERSION = 10
"""Version of ONNX's file format, fixed so that a newer onnx package does not ask for a newer runtime."""

SMALLEST_NORM = 1e-6
"""Norms are clamped here, as `easrec.models.attention` clamps their squares at 1e-12."""


class LayerGraph(OnnxGraph):
    """A graph that reads a network's weights; methods mirror those of `easrec.models.transformer`."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.architecture = model.architecture
        self.hidden, self.heads = model.architecture.hidden_size, model.architecture.num_heads
        self.head_size = self.hidden // self.heads
        self.weights = {
            name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()
        }
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> str:
        """An input of the graph; a size that is a name is free."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, x: str, name: str, *shape: int | str) -> None:
        """Let a value be an output of the graph."""
        self.add("Identity", x, name=name)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self, name: str) -> onnx.ModelProto:
        """The whole graph."""
        constants = list(self.constants.values())
        return helper.make_model(
            helper.make_graph(self.nodes, name, self.inputs, self.outputs, constants),
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="easrec",
            producer_version=easrec.__version__,
        )

    def weight(self, name: str) -> str:
        """A weight of the network by its name there."""
        return self.constant(name, self.weights[name])

    def dense(self, x: str, name: str, *, alpha: float = 1.0, beta: float = 1.0) -> str:
        """A dense layer: alpha x W + beta b."""
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("Gemm", x, weight, bias, transB=1, alpha=alpha, beta=beta)

    def dense_rows(self, x: str, name: str, label: str, rows: slice) -> str:
        """Some outputs of a dense layer alone, as a layer called `label`."""
        weight = self.constant(f"{name}.{label}.weight", self.weights[f"{name}.weight"][rows])
        bias = self.constant(f"{name}.{label}.bias", self.weights[f"{name}.bias"][rows])
        return self.add("Gemm", x, weight, bias, transB=1)

    def norm(self, x: str, name: str) -> str:
        """A LayerNorm."""
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, epsilon=LAYER_NORM_EPS)

    def feed_forward(
        self, layer: str, x: str, embeddings: str, attended: str, *, one_row: bool = False
    ) -> str:
        """A layer's output (R, D), from its input there, what its gates read, and what its heads attended to,
        (R, D) each; of linear attention without the factor 1 / sqrt(E).

        `one_row` says that the rows are one of each history, few beside those of all its positions.
        """
        # The product brings that factor, which is a pass over attention's output less.
        scale = 1.0 if self.architecture.attention == "softmax" else 1 / math.sqrt(self.head_size)
        attended = self.dense(attended, f"{layer}.attention_output", alpha=scale)
        s = self.norm(self.add("Add", x, attended), f"{layer}.attention_norm")
        f = self.add("Gelu", self.dense(s, f"{layer}.feed_in"))
        if self.architecture.gate_layers:
            inner_gate, outer_gate = self.gates(layer, embeddings, one_row=one_row)
            # Likewise the factor gamma of both gates, of which the bias only passes the second.
            f = self.add("Mul", inner_gate, f)
            f = self.dense(f, f"{layer}.feed_out", alpha=GAMMA * GAMMA, beta=GAMMA)
            f = self.add("Mul", outer_gate, f)
        else:
            f = self.dense(f, f"{layer}.feed_out")
        return self.norm(self.add("Add", s, f), f"{layer}.feed_norm")

    def gates(self, layer: str, embeddings: str, *, one_row: bool) -> tuple[str, str]:
        """The factors of both gates of a layer, (R, F) and (R, D), divided by gamma.

        Both read the same embeddings, so that layers of both are one product: the first ones, one below the
        other; the second ones, where there are few rows and starting an operator counts for more than
        multiplications, as one matrix with zeros where a gate would read the other's.
        """
        names = (f"{layer}.inner_gate", f"{layer}.outer_gate")
        outputs = [self.weights[f"{name}.output.weight"] for name in names]
        if self.architecture.gate_layers == 2:
            hidden = self.add("Relu", self._side_by_side(embeddings, layer, "inner"))
            if not one_row:
                parts = zip(self.split(hidden, 2, axis=1), names, strict=True)
                inner, outer = (
                    self.add("Sigmoid", self.dense(part, f"{name}.output")) for part, name in parts
                )
                return inner, outer
            opened = self._side_by_side(hidden, layer, "output", apart=True)
        else:
            opened = self._side_by_side(embeddings, layer, "output")
        inner, outer = self.split_at(self.add("Sigmoid", opened), [len(output) for output in outputs], axis=1)
        return inner, outer

    def _side_by_side(self, x: str, layer: str, part: str, *, apart: bool = False) -> str:
        """Outputs of a dense layer of both gates side by side: of one input, or `apart`, each of its half."""
        names = [f"{layer}.{gate}.{part}" for gate in ("inner_gate", "outer_gate")]
        weights = [self.weights[f"{name}.weight"] for name in names]
        if apart:
            first, second = weights
            weights = [
                np.pad(first, ((0, 0), (0, second.shape[1]))),
                np.pad(second, ((0, 0), (first.shape[1], 0))),
            ]
        weight = self.constant(f"{layer}.gates.{part}.weight", np.concatenate(weights))
        biases = [self.weights[f"{name}.bias"] for name in names]
        bias = self.constant(f"{layer}.gates.{part}.bias", np.concatenate(biases))
        return self.add("Gemm", x, weight, bias, transB=1)

    def normalise(self, x: str, axis: int) -> str:
        """A value divided by its L2 norm over one axis; zeros stay zeros."""
        return self.add("Div", x, self.norms(x, axis))

    def norms(self, x: str, axis: int) -> str:
        """L2 norms over one axis, which stays with size 1; none is zero."""
        norms = self.add("ReduceL2", x, self.integers(axis), keepdims=1)
        return self.add("Max", norms, self.number(SMALLEST_NORM))

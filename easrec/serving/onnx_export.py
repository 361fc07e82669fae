"""A network as one ONNX file, for ONNX Runtime and other programs that read ONNX.

The graph is put together operator by operator. Torch's exporter would trace the network instead: it takes
seconds, and over a minute where attention's chunks are many, stores some weights again in another layout,
leaves the paths of source files in the graph, and writes other graphs with other versions of torch. Here a
graph takes milliseconds, is the same bytes each time, and computes what scores need and no more: the last
layer at the last position alone, and no mask where attention is causal, since real items come first and so
never see what follows them.

Shapes: B sequences, D hidden size, V items.
"""

import math
from pathlib import Path

from onnx import TensorProto

from easrec.errors import InputError
from easrec.files import write_atomically
from easrec.models.features import check_plain
from easrec.models.transformer import SequentialRecommender
from easrec.serving.history_graph import HistoryGraph
from easrec.serving.layer_graph import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "LARGEST_FILE", "OPSET", "write_onnx"]

LARGEST_FILE = (1 << 31) - 1
"""Bytes that an ONNX file may have: a limit of protocol buffers."""


def write_onnx(model: SequentialRecommender, path: Path | str) -> None:
    """Write the network's scores as one ONNX file, weights included, atomically.

    The graph's inputs are `item_ids`, int64 (B, max_length), left-aligned, 0 is padding, and `lengths`,
    int64 (B,), each in 1..max_length, which the graph cannot check; its output is `scores`, float32 (B, V +
    1), column 0 -inf: those of `model.scores` in evaluation mode. B is free. Ids behind a history's length
    have no influence.

    Raises:
        InputError: the weights are larger than an ONNX file may be.
    """
    check_plain(model, "export as ONNX")
    size = sum(value.numel() * 4 for value in model.state_dict().values())
    if size > LARGEST_FILE - (1 << 20):
        raise InputError(
            f"the network's weights are {size} bytes and an ONNX file has at most {LARGEST_FILE}: keep fewer "
            f"than {model.num_items} items, or choose a hidden_size below {model.architecture.hidden_size}"
        )
    graph = HistoryGraph(model, model.max_length)
    item_ids = graph.input("item_ids", "batch", model.max_length, dtype=TensorProto.INT64)
    lengths = graph.input("lengths", "batch", dtype=TensorProto.INT64)
    item_embedding = graph.weight("item_embedding.weight")
    outputs = graph.last_outputs(item_ids, lengths, item_embedding)
    products = graph.add("Gemm", outputs, item_embedding, transB=1)
    one, end = graph.integers(1), graph.integers(model.num_items + 1)
    of_items = graph.add("Slice", products, one, end, one)
    padded = graph.add("Pad", of_items, graph.integers(0, 1, 0, 0), graph.number(-math.inf))
    graph.output(padded, "scores", "batch", model.num_items + 1)
    content = graph.model(model.architecture.architecture_id).SerializeToString(deterministic=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))

"""Scores of all items from a network's output: the embeddings of the items, in one of three precisions.

With many items a request reads the whole table once, and the time is that of the memory: half or a quarter of
the bytes make it faster, at the price of scores that are not quite the same. `benchmarks/item_tables.py`
measures both.

| table | bytes a value | on a CPU |
|---|---|---|
| `float32` | 4 | the network's own embeddings; nothing is copied |
| `float16` | 2 | FBGEMM through torch: products in float32 |
| `int8` | 1, and 4 an item | ONNX Runtime: each item and each output scaled to -127..127, integer products |

On other devices, and where FBGEMM is not there, parts of the table are converted to float32 as they are used:
that saves memory and no time. The network's own embeddings stay as well: histories are read through them.

Shapes: B users, D hidden size, V items.
"""

import math
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

from easrec.errors import InputError
from easrec.serving.layer_graph import IR_VERSION, OPSET
from easrec.serving.session import Session

Precision = Literal["float32", "float16", "int8"]

CONVERTED_ROWS = 1 << 14
"""Items whose embeddings are converted to float32 at once where no operator reads them as they are."""


class ItemTable(Protocol):
    """The embeddings of all items."""

    @property
    def num_bytes(self) -> int:
        """Bytes that scoring one user reads."""

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs (B, D) -> float32 scores (B, V + 1); column 0, the padding, is -inf."""


def item_table(item_embedding: Tensor, precision: Precision) -> ItemTable:
    """The table of a network's item embeddings (V + 1, D), where these are.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in get_args(Precision):
        allowed = ", ".join(map(repr, get_args(Precision)))
        raise InputError(f"item_table must be one of {allowed}, got {precision!r}")
    embedding = item_embedding.detach()
    if precision == "float32":
        return Float32Table(embedding)
    if precision == "float16":
        fbgemm = embedding.device.type == "cpu" and torch.backends.quantized.engine in ("x86", "fbgemm")
        return PackedFloat16Table(embedding) if fbgemm else ConvertedTable(embedding.half())
    if embedding.device.type == "cpu":
        return Int8Table(embedding)
    values, scales = quantise(embedding)
    return ConvertedTable(values, scales)


class Float32Table:
    """The embeddings as they are."""

    def __init__(self, embedding: Tensor) -> None:
        self._columns = embedding.float().T
        self.num_bytes = embedding.numel() * 4

    def scores(self, outputs: Tensor) -> Tensor:
        """See `ItemTable`."""
        return _without_padding(outputs @ self._columns)


class PackedFloat16Table:
    """Embeddings in float16 and in the layout of FBGEMM, whose products are taken in float32."""

    def __init__(self, embedding: Tensor) -> None:
        num_rows, hidden = embedding.shape
        self._products = DynamicLinear(hidden, num_rows, bias_=False, dtype=torch.float16)
        self._products.set_weight_bias(embedding, None)
        self.num_bytes = embedding.numel() * 2

    def scores(self, outputs: Tensor) -> Tensor:
        """See `ItemTable`."""
        return _without_padding(self._products(outputs))


class Int8Table:
    """Embeddings in int8, multiplied as integers with outputs that are scaled to int8 too, each by itself."""

    def __init__(self, embedding: Tensor) -> None:
        values, scales = quantise(embedding)
        num_rows, hidden = values.shape
        # The operator scales blocks of 16, 32, ... or 256 values; a block that is not full ends with zeros,
        # which it writes as 128.
        block = min(256, max(16, 1 << (hidden - 1).bit_length()))
        num_blocks = math.ceil(hidden / block)
        packed = np.full((num_rows, num_blocks * block), 128, dtype=np.uint8)
        packed[:, :hidden] = (values.numpy().astype(np.int16) + 128).astype(np.uint8)
        constants = {
            "values": packed.reshape(num_rows, num_blocks, block),
            "scales": np.repeat(scales.numpy(), num_blocks),
        }
        products = helper.make_node(
            "MatMulNBits",
            ["outputs", "values", "scales"],
            ["scores"],
            domain="com.microsoft",
            K=hidden,
            N=num_rows,
            bits=8,
            block_size=block,
            accuracy_level=4,  # integer products
        )
        float32 = TensorProto.FLOAT
        graph = helper.make_graph(
            [products],
            "scores",
            [helper.make_tensor_value_info("outputs", float32, ["batch", hidden])],
            [helper.make_tensor_value_info("scores", float32, ["batch", num_rows])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        self._session = Session(helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets))
        self.num_bytes = packed.nbytes + constants["scales"].nbytes

    def scores(self, outputs: Tensor) -> Tensor:
        """See `ItemTable`."""
        (scores,) = self._session([outputs.numpy()])
        return _without_padding(torch.from_numpy(scores))


class ConvertedTable:
    """Embeddings in fewer bytes, converted to float32 in parts."""

    def __init__(self, values: Tensor, scales: Tensor | None = None) -> None:
        self._values, self._scales = values, scales
        self.num_bytes = values.numel() * values.element_size()
        self.num_bytes += 0 if scales is None else scales.numel() * 4

    def scores(self, outputs: Tensor) -> Tensor:
        """See `ItemTable`."""
        scores = outputs.new_empty(len(outputs), len(self._values))
        for start in range(0, len(self._values), CONVERTED_ROWS):
            rows = slice(start, start + CONVERTED_ROWS)
            scores[:, rows] = outputs @ self._values[rows].float().T
        if self._scales is not None:
            scores *= self._scales
        return _without_padding(scores)


def quantise(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of embeddings (V + 1, D) as int8 and their scales, float32 (V + 1,): row = values * scale.

    The largest value of a row becomes 127 or -127; a row of zeros has scale 1.
    """
    largest = embedding.abs().amax(dim=1)
    scales = torch.where(largest > 0, largest / 127, 1.0)
    return (embedding / scales[:, None]).round_().to(torch.int8), scales


def _without_padding(scores: Tensor) -> Tensor:
    scores.select(1, 0).fill_(-math.inf)
    return scores

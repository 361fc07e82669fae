"""An ONNX graph that is put together operator by operator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class OnnxGraph:
    """Operators, in the order in which they are added, and constants; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append an operator that has one output; the output is called `name`."""
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Cut a value into equal parts."""
        return self._split([x], parts, axis=axis, num_outputs=parts)

    def split_at(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut a value into parts of some sizes."""
        return self._split([x, self.integers(*sizes)], len(sizes), axis=axis)

    def _split(self, inputs: list[str], parts: int, **attributes: Any) -> list[str]:
        name = f"Split_{len(self.nodes)}"
        outputs = [f"{name}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """A constant; a second one of the same name is the first."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number_{value!r}", np.array(value, dtype=np.float32))

    def integer(self, value: int) -> str:
        """An int64 scalar."""
        return self.constant(f"integer_{value}", np.array(value, dtype=np.int64))

    def integers(self, *values: int) -> str:
        """A list of int64: axes, sizes, a shape."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        """A value in another shape; one of the sizes may be -1."""
        return self.add("Reshape", x, self.integers(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        """A value with its axes in another order."""
        return self.add("Transpose", x, perm=perm)

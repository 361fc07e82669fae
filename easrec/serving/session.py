"""ONNX Runtime on a CPU, with as many threads as torch has."""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
import torch


class Session:
    """A graph to be computed.

    Args:
        graph: small enough to be serialised, under 2 GiB.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        self._graph = graph.SerializeToString()
        self._inputs = [value.name for value in graph.graph.input]
        self._outputs = [value.name for value in graph.graph.output]
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}

    def __call__(self, inputs: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The outputs in the order of the graph, from the inputs in the order of the graph."""
        threads = torch.get_num_threads()
        session = self._sessions.get(threads)
        if session is None:
            session = self._sessions[threads] = self._open(threads)
        outputs: list[npt.NDArray[Any]] = session.run(
            self._outputs, dict(zip(self._inputs, inputs, strict=True))
        )
        return outputs

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for the next graph by spinning would take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])

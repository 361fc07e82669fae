"""How training is computed: in which precision, and whether its layers are compiled."""

import os
import shutil
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import nn

from easrec.errors import InputError

Precision = Literal["float32", "bfloat16"]

_COMPILED_FORMS = 256
"""Compiled forms of one function: each candidate of a supernet has one, with and without dropout."""


def check_precision(precision: str) -> None:
    """Refuse a precision that is none of `Precision`, by `InputError`."""
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {get_args(Precision)}, got {precision!r}")


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a loss is computed.

    With `bfloat16` matrix products and softmax attention take and give bfloat16. Weights and their moments,
    the residual sums, LayerNorms, the norms and sums of linear attention, scores and the loss stay in
    float32. Nothing has to be scaled: bfloat16 has the exponents of float32.
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def compile_layers(layers: nn.ModuleList, device: torch.device | str) -> None:
    """Let torch compile each layer the first time that it is called; results agree to rounding.

    Layers alone, and of them what has one form of computation: packing and the loss in chunks depend on the
    lengths in a batch. Sizes may change without compiling anew. It takes seconds to a minute once, which long
    runs on a GPU win back.

    Raises:
        InputError: the device is a CPU and there is no C++ compiler.
    """
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if torch.device(device).type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise InputError(
            "compile=True needs a C++ compiler on a CPU, and neither g++ nor clang++ is there; install one "
            "or leave the option out"
        )
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _COMPILED_FORMS)
    for layer in layers:
        layer.compile(dynamic=True)

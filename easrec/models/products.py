"""Matrix products of dense layers, of scores and of the loss, by the fastest library that torch has for them.

On AMD's processors with AVX-512 the library that torch multiplies float32 by (MKL) uses half the width of
the registers. oneDNN, which torch has as well, uses all of it and is twice as fast there: the product goes to
it by the operator that torch's own compiler uses for dense layers. Elsewhere, and under autocast, compilation
and export, all this is torch's ordinary product. `torch.backends.mkldnn.enabled = False` turns it off.

Shapes: M rows, K input size, L output size.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

_CPU_INFO = Path("/proc/cpuinfo")
_LEAST = 1 << 21
"""Multiplications from which on oneDNN's greater cost of a call, 10 microseconds, is won back."""
_LEAST_OUTPUT = 1 << 12
"""Elements of a sum of outer products from which on oneDNN's is faster: it does not share out a long sum."""


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor on which oneDNN multiplies float32 faster than MKL."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _CPU_INFO.is_file()
        and "AuthenticAMD" in _CPU_INFO.read_text()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(a: Tensor, b: Tensor, *, recurs: bool = True) -> Tensor:
    """a b^T, from (M, K) and (L, K) to (M, L).

    `recurs` says whether the shape comes again: oneDNN makes a kernel for each new one, which takes half a
    millisecond.
    """
    if recurs and _by_onednn(a, b) and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
        return _onednn(a, b, None)
    return a @ b.T


def sum_of_outer_products(a: Tensor, b: Tensor, *, recurs: bool = True) -> Tensor:
    """a^T b, from (M, L) and (M, K) to (L, K): the gradient of a dense layer's weights; see `product`."""
    if a.shape[1] * b.shape[1] < _LEAST_OUTPUT:
        return a.T @ b
    # oneDNN is fastest where the second of its operands is the large one.
    if a.shape[1] > b.shape[1]:
        return product(b.T, a.T, recurs=recurs).T
    return product(a.T, b.T, recurs=recurs)


Activation = Literal["none", "relu", "gelu", "sigmoid"]
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation = "none") -> Tensor:
    """g(x W^T + b), from (..., K), (L, K) and (L,) to (..., L): torch's `linear`, then an activation g.

    Where no gradients are needed oneDNN applies g to each part of the product while it is in the cache.
    """
    if not _by_onednn(x, weight):
        return _ACTIVATIONS[activation](F.linear(x, weight, bias))
    if not torch.is_grad_enabled():
        return _onednn(x, weight, bias, activation)
    rows: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return _ACTIVATIONS[activation](rows.view(*x.shape[:-1], len(weight)))


class Linear(nn.Linear):
    """torch's dense layer, computed by `linear`."""

    def forward(self, input: Tensor, activation: Activation = "none") -> Tensor:
        """(..., K) -> (..., L), with an activation of the result."""
        return linear(input, self.weight, self.bias, activation)


class _Linear(torch.autograd.Function):
    """`linear` of (M, K) by oneDNN, whose operator has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        # With create_graph=True these are torch's own products, which can be differentiated again.
        return (
            product(grad, weight.T) if ctx.needs_input_grad[0] else None,
            sum_of_outer_products(grad, x) if ctx.needs_input_grad[1] else None,
            grad.sum(dim=0) if ctx.needs_input_grad[2] else None,
        )


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dim() >= 2
        and x.numel() * len(weight) >= _LEAST
        and onednn_is_faster()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    # GELU by the error function; "tanh" would be its approximation. The others take no algorithm.
    algorithm = "none" if activation == "gelu" else ""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(
        _dense(x), _dense(weight), bias, activation, [], algorithm
    )
    return result


def _dense(x: Tensor) -> Tensor:
    """A matrix as it is, or copied where its rows or columns do not follow each other without gaps.

    For a part of a larger matrix, such as a candidate's weights among shared ones, oneDNN has only a plain
    loop, a hundred times slower than its kernels.
    """
    kernels = x.is_contiguous() or (x.dim() == 2 and x.T.is_contiguous())
    return x if kernels else x.contiguous()


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # a torch without oneDNN has no such operator

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _linear_flops(x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
        """FLOPs for torch's counter, which does not know the operator."""
        rows = 1
        for size in x_shape[:-1]:
            rows *= size
        return int(2 * rows * weight_shape[0] * weight_shape[1])

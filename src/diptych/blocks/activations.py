"""Activations of perceptrons, for autograd and as kernels for products that are done by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["quick_gelu", "gelu", "relu"]


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the approximation of GELU that EVE uses."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class Kernel:
    """An activation f as f(x) = g(scale * x) / scale, with g in one pass over memory.

    Matrix products scale their results for nothing, so the two factors cost no pass of their own.
    """

    scale: float
    apply: Callable[[Tensor, Tensor], Any]
    """(z, out): writes g(z) to `out`."""
    chain: Callable[[Tensor, Tensor], Any]
    """(gradient, z): multiplies `gradient` with g'(z) in place; f'(x) is the same number."""


_aten = torch.ops.aten
KERNELS: dict[Activation, Kernel] = {
    "quick_gelu": Kernel(
        1.702,
        lambda z, out: _aten.silu.out(z, out=out),
        lambda grad, z: _aten.silu_backward.grad_input(grad, z, grad_input=grad),
    ),
    "gelu": Kernel(
        1.0,
        lambda z, out: _aten.gelu.out(z, out=out),
        lambda grad, z: _aten.gelu_backward.grad_input(grad, z, grad_input=grad),
    ),
    "relu": Kernel(
        1.0,
        lambda z, out: _aten.relu.out(z, out=out),
        lambda grad, z: _aten.threshold_backward.grad_input(grad, z, 0, grad_input=grad),
    ),
}

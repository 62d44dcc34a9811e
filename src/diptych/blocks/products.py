"""Matrix products of float32 rows on a CPU, for functions that write their backward pass themselves.

torch multiplies float32 with MKL, which leaves some of the speed of processors that are not Intel's unused.
oneDNN, which comes with torch too, is a tenth faster there for rows times a transposed matrix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def plain(x: Tensor) -> bool:
    """Whether `x` is what these products are for: float32 on a CPU, outside autocast."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, without a gradient.

    Args:
        x: [R, I] float32 on a CPU.
        weight: [O, I]; may be a transposed view.
        bias: [O].
    """
    if _ONEDNN and torch.backends.mkldnn.enabled and x.numel():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


class _Product(torch.autograd.Function):
    """`linear` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        above = gradients[0].contiguous()
        own = LinearGradient(*ctx.needs_input_grad[1:])
        own.add(above, x)
        return linear(above, weight.t()) if ctx.needs_input_grad[0] else None, own.weight, own.bias


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias [..., O] of `plain` x [..., I] with gradients, once differentiable."""
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


LEAST = 2**23
"""Multiplications from which on a product is worth the calls around it."""


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Do what `F.linear` does, faster where the products of this module are for it."""
    if x.numel() * weight.shape[0] < LEAST or not plain(x) or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return product(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `multiplied`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., O]."""
        return multiplied(x, self.weight, self.bias)


class LinearGradient:
    """Gradients of the weight and the bias of `linear`, added up over pieces of rows."""

    def __init__(self, weight: bool, bias: bool) -> None:
        self.wanted = weight, bias
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def add(self, gradient: Tensor, x: Tensor) -> None:
        """Add those of rows x [R, I] with the gradient [R, O] of what `linear` gave; both contiguous."""
        if self.wanted[0]:
            if self.weight is None:
                self.weight = gradient.t() @ x
            else:
                self.weight.addmm_(gradient.t(), x)
        if self.wanted[1]:
            self.bias = gradient.sum(0) if self.bias is None else self.bias.add_(gradient.sum(0))


def joined(pieces: list[Tensor]) -> Tensor:
    """Return pieces of rows as one tensor."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

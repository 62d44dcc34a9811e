"""One matrix product per expert over rows sorted by expert.

Legend: N rows, E experts, I inputs, O outputs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def _segments(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield (expert, its rows) for experts that have any."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count


class _GroupedLinear(torch.autograd.Function):
    """Writes every product into its place of one output, so neither direction concatenates or stacks copies.

    Indexing a stacked weight expert by expert would make autograd fill one full-size gradient per expert.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.counts = counts
        out = x.new_empty(x.shape[0], weight.shape[1])
        for expert, rows in _segments(counts):
            torch.addmm(bias[expert], x[rows], weight[expert].t(), out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if need_x else None
        # Only the rows of experts without tokens stay as they are made here: zero.
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = grad.new_zeros(weight.shape[:2]) if need_bias else None
        for expert, rows in _segments(ctx.counts):
            part = grad[rows]
            if grad_x is not None:
                torch.mm(part, weight[expert], out=grad_x[rows])
            if grad_weight is not None:
                torch.mm(part.t(), x[rows], out=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(part, 0, out=grad_bias[expert])
        return grad_x, grad_weight, grad_bias, None


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor, counts: Sequence[int]) -> Tensor:
    """Apply expert e's linear layer to its rows: [N, I] -> [N, O].

    Under autocast the product is computed in the autocast type, like `F.linear`; else in that of `x`.

    Args:
        x: [N, I], the rows of expert 0 first, then those of expert 1, ...
        weight: [E, O, I].
        bias: [E, O].
        counts: rows of each expert; they add up to N.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    out: Tensor = _GroupedLinear.apply(x, weight, bias, tuple(counts))  # type: ignore[no-untyped-call]
    return out

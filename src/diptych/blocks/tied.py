"""A table of words that is looked up and multiplied with in the same step.

The gradient of a product with the whole table is as large as the table, that of looking up is a few rows.
torch writes a second table for these and adds it to the first; with a vocabulary of 30,522 words and 768
channels a CPU is busy with that for as long as with a transformer layer. Here the rows are added in place.

Legend: V words, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedTable:
    """The table of one step, [V, D].

    Args:
        weight: the parameter.
        padding: the row that gets no gradient from being looked up.
    """

    def __init__(self, weight: Tensor, padding: int | None = None) -> None:
        self.padding = padding
        self._rows: list[tuple[Tensor, Tensor]] = []
        self.weight: Tensor = _Collected.apply(weight, self._rows)  # type: ignore[no-untyped-call]
        """To multiply with."""

    def look_up(self, ids: Tensor) -> Tensor:
        """Return the rows of ids [...] int64, [..., D]."""
        found: Tensor = _LookedUp.apply(self.weight, ids, self.padding, self._rows)  # type: ignore[no-untyped-call]
        return found


class _Collected(torch.autograd.Function):
    """The table itself; to its gradient come the rows that look-ups left."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.rows, ctx.shape = rows, weight.shape
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        whole = gradients[0]
        for ids, rows in ctx.rows:
            if whole is None:  # nothing was multiplied with
                whole = rows.new_zeros(ctx.shape)
            whole = whole.contiguous().index_add_(0, ids, rows.to(whole.dtype))
        ctx.rows.clear()
        return whole, None


class _LookedUp(torch.autograd.Function):
    """Rows of a table, whose gradients wait for the table's own."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, ids: Tensor, padding: int | None, rows: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        ctx.ids, ctx.padding, ctx.rows = ids, padding, rows
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        ids, rows = ctx.ids.flatten(), gradients[0].flatten(0, -2)
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding)[:, None], 0)
        ctx.rows.append((ids, rows))
        return None, None, None, None

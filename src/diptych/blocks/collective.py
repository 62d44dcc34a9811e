"""The processes that train together, and the few things they tell each other.

Everything here is the identity for one process, so that code is written once. Convention of losses: the mean
over ranks of what the ranks return is the loss of the global batch; averaged gradients are then its gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# torch 2.13 gave it another name and warns of the old one at every call.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True)
class World:
    """Some processes in a row, this one among them.

    Modules that talk to other ranks have an attribute `world` (default `ALONE`), which the engine sets.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    """`torch.distributed` process group; None is the default group."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over ranks of a tensor of equal shape; no gradient flows to other ranks."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def max(self, x: Tensor) -> Tensor:
        """Return the largest value over ranks, element by element, without gradient."""
        if self.size == 1:
            return x
        largest = x.detach().clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return largest

    def differentiable_sum(self, x: Tensor) -> Tensor:
        """Return the sum over ranks; its gradient is summed over ranks too."""
        if self.size == 1:
            return x
        total: Tensor = _Sum.apply(x, self)  # type: ignore[no-untyped-call]
        return total

    def mean(self, total: Tensor, count: Tensor | float) -> Tensor:
        """Return this rank's share of a mean over all ranks: sum of terms here / mean number of terms.

        The mean over ranks of the result is the mean over all terms. 0 where there are no terms anywhere.

        Args:
            total: scalar, sum of the terms of this rank.
            count: number of its terms.
        """
        counted = torch.as_tensor(count, dtype=torch.float32, device=total.device)
        if self.size > 1:
            counted = self.sum(counted) / self.size
            return total / torch.where(counted > 0, counted, torch.ones_like(counted))
        return total / counted.clamp(min=1)

    def share(self, count: int) -> int:
        """Return this rank's part of a number of samples; the parts of all ranks add up to `count`.

        A rank that would get none gets one, since every rank has to take the same steps.
        """
        first, last = (count * r // self.size for r in (self.rank, self.rank + 1))
        return max(last - first, min(count, 1))

    def sizes(self, count: int, device: torch.device) -> list[int]:
        """Return the `count` of every rank (the host waits for it)."""
        if self.size == 1:
            return [count]
        counts = torch.zeros(self.size, dtype=torch.int64, device=device)
        counts[self.rank] = count
        return [int(n) for n in self.sum(counts).tolist()]

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Join [B_rank, ...] of all ranks to [sum of B, ...]; gradients of all ranks flow back.

        Args:
            x: rows of this rank.
            sizes: rows of every rank, if known (`sizes`); otherwise they are asked for.
        """
        if self.size == 1:
            return x
        known = tuple(self.sizes(len(x), x.device) if sizes is None else sizes)
        joined: Tensor = _Gather.apply(x, self, known)  # type: ignore[no-untyped-call]
        return joined

    def collect(self, rows: Sequence[T]) -> list[T]:
        """Return the rows of all ranks, in rank order, on every rank; they are pickled on the way."""
        if self.size == 1:
            return list(rows)
        parts: list[list[T]] = [[]] * self.size
        dist.all_gather_object(parts, list(rows), group=self.group)
        return [row for part in parts for row in part]

    def slice_of(self, count: int) -> slice:
        """Return which of `count` things are this rank's; the parts of all ranks, in order, are all."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = World()
"""One process."""


class Joiner:
    """Joins what the ranks hold of one batch; asks once how many rows each has.

    Attributes:
        world: the ranks.
        sizes: rows of every rank.
        start: number of this rank's first row among all.
    """

    def __init__(self, world: World, count: int, device: torch.device) -> None:
        """Ask every rank for its `count` of rows; all ranks must make one at the same time."""
        self.world = world
        self.sizes = world.sizes(count, device)
        self.start = sum(self.sizes[: world.rank])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the rows [sum of sizes, ...] of all ranks, in rank order; gradients flow back to them."""
        return self.world.gather(x, self.sizes)

    @property
    def own(self) -> slice:
        """Where this rank's rows are among all."""
        return slice(self.start, self.start + self.sizes[self.world.rank])


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum(grads[0]), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World, sizes: tuple[int, ...]) -> Tensor:
        ctx.world, ctx.sizes = world, sizes
        if len(set(sizes)) == 1:
            joined = x.new_empty(sum(sizes), *x.shape[1:])
            _all_gather(joined, x.contiguous(), group=world.group)
            return joined
        longest = max(sizes)
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=world.group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        start = sum(ctx.sizes[: ctx.world.rank])
        total = ctx.world.sum(grads[0].contiguous())
        return total[start : start + ctx.sizes[ctx.world.rank]], None, None


def set_world(module: torch.nn.Module, world: World) -> None:
    """Tell every module below `module` that talks to other ranks (has an attribute `world`) whom it meets."""
    for part in module.modules():
        if isinstance(getattr(part, "world", None), World):
            part.world = world  # type: ignore[assignment]

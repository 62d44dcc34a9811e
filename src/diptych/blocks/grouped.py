"""Two-layer perceptrons of many experts, each applied to its own rows.

Legend: T tokens, N rows (a token has one for each of its experts), E experts, D width, H hidden width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.blocks.activations import ACTIVATIONS, KERNELS, Activation
from diptych.blocks.spare import SpareMemory

PIECE = 1024
"""Rows that are worked on at a time, so that what lies between two products is still in the cache."""
ALIGNED = 8
"""CUDA's grouped product wants groups of bfloat16 rows to begin at multiples of 16 bytes."""


@dataclass(frozen=True)
class Weights:
    """The weights of the experts."""

    fc1: Tensor
    """[E, H, D]."""
    fc1_bias: Tensor
    """[E, H]."""
    fc2: Tensor
    """[E, D, H]."""
    fc2_bias: Tensor
    """[E, D]."""
    spare: tuple[SpareMemory, SpareMemory] | None = None
    """Memory for gradients of `fc1` and of `fc2`; None: made afresh."""


@dataclass(frozen=True)
class Rows:
    """Which rows each expert gets."""

    counts: Sequence[int]
    """Rows of expert 0, of expert 1, ...; they add up to N."""
    tokens: Tensor | None = None
    """[N] int64: the token of each row, those of expert 0 first; None: the rows are the tokens themselves."""
    shares: Tensor | None = None
    """[N]: what a row's result is multiplied with; None: 1."""


def apply_experts(x: Tensor, rows: Rows, weights: Weights, activation: Activation) -> Tensor:
    """Return the sum of what its rows give each token: [T, D] -> [T, D]; zero for tokens without rows.

    Under autocast the products are computed in the autocast type; results are added up in the type of `x`.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if _has_kernel(x, dtype, weights):
        return by_grouped_kernel(x, rows, weights, activation, dtype)
    w = weights
    spare = w.spare or (SpareMemory(), SpareMemory())
    settings = rows.counts, activation, dtype, torch.is_grad_enabled(), spare
    out: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
        x, rows.tokens, rows.shares, w.fc1, w.fc1_bias, w.fc2, w.fc2_bias, settings
    )
    return out


@dataclass(frozen=True)
class _Piece:
    """Some rows of one expert."""

    expert: int
    rows: slice
    first: bool
    """Whether the expert has no earlier piece."""

    @property
    def size(self) -> int:
        return int(self.rows.stop - self.rows.start)


def _pieces(counts: Sequence[int]) -> Iterator[_Piece]:
    start = 0
    for expert, count in enumerate(counts):
        for at in range(0, count, PIECE):
            yield _Piece(expert, slice(start + at, start + min(at + PIECE, count)), at == 0)
        start += count


def _take(x: Tensor, tokens: Tensor | None, piece: _Piece) -> Tensor:
    """Return the rows [n, D] of a piece."""
    return x[piece.rows] if tokens is None else x.index_select(0, tokens[piece.rows])


def _add(total: Tensor, y: Tensor, tokens: Tensor | None, piece: _Piece) -> None:
    """Add the rows [n, D] of a piece to what they belong to."""
    if tokens is None:
        total[piece.rows] = y
    else:
        total.index_add_(0, tokens[piece.rows], y.to(total.dtype))


class _Experts(torch.autograd.Function):
    """Works piece by piece, and keeps only the tokens and what the first products gave for the way back.

    Rows are gathered for a piece and their results added to the tokens at once, so no copy of all rows
    exists; weights are cast expert by expert; the gradient of a weight is written once, to its place.
    With the activation as `Kernel` describes it, z is `scale` times the result of the first layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        tokens: Tensor | None,
        shares: Tensor | None,
        fc1: Tensor,
        fc1_bias: Tensor,
        fc2: Tensor,
        fc2_bias: Tensor,
        settings: tuple[Sequence[int], Activation, torch.dtype, bool, tuple[SpareMemory, SpareMemory]],
    ) -> Tensor:
        counts, activation, dtype, learns, ctx.spare = settings
        kernel, hidden, largest = KERNELS[activation], fc1.shape[1], _largest(counts)
        z = x.new_empty(sum(counts) if learns else largest, hidden, dtype=dtype)
        room = z.new_empty(largest, hidden)
        out = torch.empty_like(x) if tokens is None else torch.zeros_like(x)
        for piece in _pieces(counts):
            if piece.first:
                w1, b1, w2, b2 = (w[piece.expert].to(dtype) for w in (fc1, fc1_bias, fc2, fc2_bias))
            inside, active, scale = _take(x, tokens, piece).to(dtype), room[: piece.size], kernel.scale
            here = z[piece.rows] if learns else z[: piece.size]
            torch.addmm(b1, inside, w1.t(), beta=scale, alpha=scale, out=here)
            kernel.apply(here, active)
            y = torch.addmm(b2, active, w2.t(), alpha=1 / scale)
            _add(out, y if shares is None else y * shares[piece.rows, None], tokens, piece)
        ctx.save_for_backward(x, tokens, shares, fc1, fc2, fc2_bias, z)
        ctx.counts, ctx.kernel = counts, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, tokens, shares, fc1, fc2, fc2_bias, z = ctx.saved_tensors
        kernel, scale, dtype = ctx.kernel, ctx.kernel.scale, z.dtype
        start = torch.empty_like if tokens is None else torch.zeros_like
        grad_x = start(x) if ctx.needs_input_grad[0] else None
        grad_shares = torch.empty_like(shares) if ctx.needs_input_grad[2] else None
        learned = any(ctx.needs_input_grad[3:7])
        sums = _WeightGradients(fc1, fc2, ctx.counts, dtype, ctx.spare) if learned else None
        room = z.new_empty(3, _largest(ctx.counts), z.shape[1])
        for piece in _pieces(ctx.counts):
            if piece.first:
                w1, w2, b2 = (w[piece.expert].to(dtype) for w in (fc1, fc2, fc2_bias))
            active, slope, spare = room[:, : piece.size]
            kernel.apply(z[piece.rows], active)
            above = _take(grads[0], tokens, piece).to(dtype)
            torch.mm(above, w2, out=slope)  # gradient of `active`, but for share / scale
            if shares is not None:
                share = shares[piece.rows, None].to(dtype)
                if grad_shares is not None:  # result . above, where result = active @ w2.T / scale + b2
                    dots = torch.mul(active, slope, out=spare).sum(1, dtype=shares.dtype)
                    grad_shares[piece.rows] = dots / scale + above @ b2
                slope *= share
                above = above * share
            kernel.chain(slope, z[piece.rows])  # gradient of the first layer's result
            if sums is not None:
                sums.add_second(piece, above, active, scale)
                sums.add_first(piece, slope, _take(x, tokens, piece).to(dtype))
            if grad_x is not None:
                _add(grad_x, slope @ w1, tokens, piece)
        return (grad_x, None, grad_shares, *(sums.all if sums is not None else (None,) * 4), None)


class _WeightGradients:
    """Gradients of the weights, in the weights' own type."""

    def __init__(
        self,
        fc1: Tensor,
        fc2: Tensor,
        counts: Sequence[int],
        dtype: torch.dtype,
        spare: tuple[SpareMemory, SpareMemory],
    ) -> None:
        self.fc1, self.fc2 = spare[0].empty_like(fc1), spare[1].empty_like(fc2)
        self.fc1_bias, self.fc2_bias = (w.new_empty(w.shape[:2]) for w in (fc1, fc2))
        self.product = None if dtype == fc1.dtype else fc1.new_empty(fc1[0].numel(), dtype=dtype)
        """Room for a product that is in another type than the weights."""
        for expert, count in enumerate(counts):
            if not count:
                for gradient in self.all:
                    gradient[expert] = 0

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients in the order of the weights."""
        return self.fc1, self.fc1_bias, self.fc2, self.fc2_bias

    def add_first(self, piece: _Piece, above: Tensor, inside: Tensor) -> None:
        """Add a piece of the first layer; `above` [n, H] is the gradient of its result."""
        self._add_product(self.fc1[piece.expert], above, inside, 1.0, piece.first)
        _add_sum(self.fc1_bias[piece.expert], above, piece.first)

    def add_second(self, piece: _Piece, above: Tensor, inside: Tensor, scale: float) -> None:
        """Add a piece of the second layer, whose product was divided by `scale`; `above` is [n, D]."""
        self._add_product(self.fc2[piece.expert], above, inside, 1 / scale, piece.first)
        _add_sum(self.fc2_bias[piece.expert], above, piece.first)

    def _add_product(self, total: Tensor, above: Tensor, inside: Tensor, factor: float, first: bool) -> None:
        if self.product is None:
            torch.addmm(total, above.t(), inside, beta=0 if first else 1, alpha=factor, out=total)
            return
        product = self.product.view_as(total)
        torch.addmm(product, above.t(), inside, beta=0, alpha=factor, out=product)
        total.copy_(product) if first else total.add_(product)


def _add_sum(total: Tensor, above: Tensor, first: bool) -> None:
    found = above.sum(0, dtype=total.dtype)
    total.copy_(found) if first else total.add_(found)


def _largest(counts: Sequence[int]) -> int:
    return min(PIECE, max(counts))


def _has_kernel(x: Tensor, dtype: torch.dtype, weights: Weights) -> bool:
    """Return whether CUDA multiplies all groups at once: bfloat16 on Ampere or later, aligned sizes."""
    if not x.is_cuda or dtype != torch.bfloat16 or not hasattr(F, "grouped_mm"):
        return False
    aligned = all(size % ALIGNED == 0 for size in weights.fc1.shape[1:])
    return aligned and torch.cuda.get_device_capability(x.device) >= (8, 0)


def by_grouped_kernel(
    x: Tensor, rows: Rows, weights: Weights, activation: Activation, dtype: torch.dtype
) -> Tensor:
    """Do the same with one grouped product a layer. Every group is padded with zeros to an aligned size.

    No group stays empty, so that every weight has its gradient written.
    """
    counts = torch.tensor(rows.counts, device=x.device)
    padded = (counts.clamp(min=1) + ALIGNED - 1) // ALIGNED * ALIGNED
    room = sum(max(ALIGNED, -(-count // ALIGNED) * ALIGNED) for count in rows.counts)
    shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
    number = sum(rows.counts)
    places = torch.arange(number, device=x.device)
    places = places + shift.repeat_interleave(counts, output_size=number)
    inside = (x if rows.tokens is None else x.index_select(0, rows.tokens)).to(dtype)
    inside = inside.new_zeros(room, x.shape[1]).index_copy(0, places, inside)
    expert = torch.arange(len(counts), device=x.device).repeat_interleave(padded, output_size=room)
    ends = padded.cumsum(0).int()
    w1, b1, w2, b2 = (w.to(dtype) for w in (weights.fc1, weights.fc1_bias, weights.fc2, weights.fc2_bias))
    hidden = ACTIVATIONS[activation](F.grouped_mm(inside, w1.transpose(1, 2), offs=ends) + b1[expert])
    served = (F.grouped_mm(hidden, w2.transpose(1, 2), offs=ends) + b2[expert]).index_select(0, places)
    if rows.shares is not None:
        served = served * rows.shares[:, None]
    served = served.to(x.dtype)
    return served if rows.tokens is None else torch.zeros_like(x).index_add(0, rows.tokens, served)

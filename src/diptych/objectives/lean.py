"""Contrastive cross-entropy without the matrix of all similarities, over the rows of all ranks.

Legend: n rows of this rank (pictures), N rows of all ranks, M columns (texts of all ranks), C rows of a
chunk, D feature width. The similarities of all ranks are an [N, M] matrix; each rank works on its n rows,
C at a time.

The loss and its gradients are made in the forward pass, so nothing of size n x M is kept: the similarities of
a chunk are computed twice (for the sums over columns, then for the gradients), which makes four matrix
products instead of three.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.blocks.collective import ALONE, World
from diptych.objectives.relation import Relation

NEVER = -1e4
"""Similarity of a row to itself where it is no candidate: a probability of exactly 0 without infinities."""


@dataclass(frozen=True)
class LeanJob:
    """What a cross-entropy is to be taken of."""

    relation: Relation
    """The n rows to the M columns."""
    chunk: int = 0
    """C; 0: all n rows at once."""
    world: World = ALONE
    label_smoothing: float = 0.0
    columns_too: bool = True
    """Average with the cross-entropies of the columns over the rows."""
    itself: int | None = None
    """Column of this rank's first row, where rows and columns are the same things and a row is no candidate
    for itself; the next rows are the next columns."""


def lean_contrastive_loss(
    rows: Tensor, columns: Tensor, temperature: Tensor | float, job: LeanJob
) -> tuple[Tensor, Tensor]:
    """Return the loss of the global batch and the share of rows whose best column is right.

    Both are the same on every rank. The gradients follow the convention of `World`: averaged over ranks they
    are those of the loss. They can be taken once only.

    Args:
        rows: [n, D] float32 features of this rank.
        columns: [M, D] float32 features of all ranks, joined with gradient (`World.gather`).
        temperature: scalar above 0.
        job: what matches what.
    """
    heat = torch.as_tensor(temperature, dtype=torch.float32, device=rows.device)
    loss, accuracy = _Lean.apply(rows, columns, heat, job)  # type: ignore[no-untyped-call]
    return loss, accuracy


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, temperature: Tensor, job: LeanJob
    ) -> tuple[Tensor, Tensor]:
        ctx.ranks = job.world.size
        with torch.autocast(rows.device.type, enabled=False):
            matrix = _Matrix(rows.float(), columns.float(), temperature, job)
            sums = _sums(matrix)
            if any(ctx.needs_input_grad):
                ctx.save_for_backward(*_gradients(matrix, sums))
        ctx.mark_non_differentiable(sums.accuracy)
        return sums.loss, sums.accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Every rank returned the whole loss, but has the gradient through its own rows only.
        scale = grads[0] * ctx.ranks
        found = zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
        return *(gradient * scale if needed else None for gradient, needed in found), None


class _Matrix:
    """The similarities over temperature, chunk by chunk."""

    def __init__(self, rows: Tensor, columns: Tensor, temperature: Tensor, job: LeanJob) -> None:
        self.rows, self.columns, self.temperature, self.job = rows, columns, temperature, job
        last, size = max(len(rows), 1), job.chunk or max(len(rows), 1)
        self.chunks = [slice(i, min(i + size, len(rows))) for i in range(0, last, size)]
        self._only: tuple[Tensor, Tensor] | None = None

    def block(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """Return the logits [C, M] float32 of a chunk and what matches [C, M] bool, not to be changed."""
        if self._only is not None:
            return self._only
        logits = (self.rows[chunk] @ self.columns.t()).div_(self.temperature)
        matching = self.job.relation.block(chunk)
        if self.job.itself is not None:
            numbers = torch.arange(len(logits), device=logits.device)
            own = numbers + (chunk.start + self.job.itself)
            logits[numbers, own], matching[numbers, own] = NEVER, False
        if len(self.chunks) == 1:
            self._only = logits, matching  # nothing is computed twice
        return logits, matching


@dataclass(frozen=True)
class _Side:
    """Cross-entropies of rows [n] (of this rank) or columns [M] (over the rows of all ranks)."""

    lse: Tensor
    """log of the sum of exponentials."""
    weight: Tensor
    """Share of its cross-entropy in the loss; 0 where it matches nothing."""
    pull: Tensor
    """Share of each of its matches."""
    spread: Tensor | None
    """Share of each candidate by label smoothing, if there is any."""


@dataclass(frozen=True)
class _Sums:
    rows: _Side
    columns: _Side | None
    loss: Tensor
    accuracy: Tensor


def _sums(matrix: _Matrix) -> _Sums:
    """Go through all chunks once."""
    job, (height, width) = matrix.job, matrix.job.relation.shape
    smooth, device = job.label_smoothing, matrix.rows.device
    across: list[Tensor] = []  # of rows: lse, matches, their logits, all logits, is the best right
    down = torch.zeros(3, width, device=device)  # of columns: matches, their logits, all logits
    down_lse = torch.full((width,), float("-inf"), device=device)
    for chunk in matrix.chunks:
        logits, matching = matrix.block(chunk)
        matched = logits * matching
        right = matching.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        across.append(
            torch.stack([logits.logsumexp(1), matching.sum(1), matched.sum(1), logits.sum(1), right])
        )
        if job.columns_too:
            down += torch.stack([matching.sum(0), matched.sum(0), logits.sum(0)])
            down_lse = torch.logaddexp(down_lse, logits.logsumexp(0))
    lse, matches, matched, total, hits = torch.cat(across, 1)
    losses = _cross_entropies(lse, matches, matched, total / width, smooth)
    here = torch.stack([losses.sum(), (matches > 0).sum(), hits.sum(), hits.new_tensor(height)])
    loss, counted, right, number = job.world.sum(here)
    side = 0.5 if job.columns_too else 1.0
    rows = _side(lse, matches, counted, width, smooth, side)
    loss, accuracy = loss / counted.clamp(min=1), right / number.clamp(min=1)
    if not job.columns_too:
        return _Sums(rows, None, loss, accuracy)
    down, down_lse = job.world.sum(down), _lse_of_all(down_lse, job.world)
    matches, matched, total = down
    losses = _cross_entropies(down_lse, matches, matched, total / number, smooth)
    counted = (matches > 0).sum()
    columns = _side(down_lse, matches, counted, number, smooth, side)
    return _Sums(rows, columns, (loss + losses.sum() / counted.clamp(min=1)) / 2, accuracy)


def _cross_entropies(lse: Tensor, matches: Tensor, matched: Tensor, mean: Tensor, smooth: float) -> Tensor:
    """Return -sum(target * log softmax), 0 without matches; `mean` is over all candidates' logits."""
    # Targets sum to 1, so the log of the sum of exponentials comes out of the sum.
    expected = matched / matches.clamp(min=1) * (1 - smooth) + mean * smooth
    return (lse - expected) * (matches > 0)


def _side(
    lse: Tensor, matches: Tensor, counted: Tensor, candidates: Tensor | int, smooth: float, side: float
) -> _Side:
    weight = (matches > 0) * (side / counted.clamp(min=1))
    spread = weight * (smooth / candidates) if smooth else None
    return _Side(lse, weight, weight * (1 - smooth) / matches.clamp(min=1), spread)


def _lse_of_all(lse: Tensor, world: World) -> Tensor:
    """Join logs of sums of exponentials over ranks."""
    if world.size == 1:
        return lse
    highest = world.max(lse)
    return highest + world.sum((lse - highest).exp()).log()


def _gradients(matrix: _Matrix, sums: _Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of rows [n, D], columns [M, D] and temperature, through this rank's rows."""
    of_rows, of_columns = torch.empty_like(matrix.rows), torch.zeros_like(matrix.columns)
    of_temperature = torch.zeros_like(matrix.temperature)
    for chunk in matrix.chunks:
        logits, matching = matrix.block(chunk)
        gradient = _of_logits(logits, matching, sums, chunk)
        of_temperature -= (gradient * logits).sum()
        torch.mm(gradient, matrix.columns, out=of_rows[chunk])
        of_columns.addmm_(gradient.t(), matrix.rows[chunk])
    heat = matrix.temperature
    return of_rows.div_(heat), of_columns.div_(heat), of_temperature.div_(heat)


def _of_logits(logits: Tensor, matching: Tensor, sums: _Sums, chunk: slice) -> Tensor:
    """Return the gradient of the loss by the logits [C, M] of a chunk: probabilities minus targets."""
    rows, columns = sums.rows, sums.columns
    lse, weight, pull = (x[chunk, None] for x in (rows.lse, rows.weight, rows.pull))
    gradient = (logits - lse).exp_().mul_(weight)
    if columns is not None:
        gradient.addcmul_((logits - columns.lse).exp_(), columns.weight)
        pull = pull + columns.pull
    gradient -= pull * matching
    if rows.spread is not None:
        gradient -= rows.spread[chunk, None]
        if columns is not None and columns.spread is not None:
            gradient -= columns.spread
    return gradient

"""Attention within windows of a clip, with a learned bias for where one position lies from another.

Legend: B clips, W windows of a clip, N positions in a window, C channels, H heads, d channels of a head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.blocks.products import LinearGradient, joined, linear, plain

NEVER = -100.0
"""Added to scores between positions that a shift brought together, as published."""

SCORES = 2**18
"""Scores at a time for each thread of a CPU: 1 MB."""
ROWS = 784
"""Rows that linear layers take at a time for each thread of a CPU, as far as windows are whole."""

Sizes = tuple[int, int, int]
"""Along frames, rows and columns."""


@dataclass(frozen=True)
class WindowPlan:
    """Which cell of a clip stands where in the windows, for clips of one size."""

    there: Tensor
    """[W N] int64: the cell at each place of the windows; the number of cells where there is padding."""
    back: Tensor
    """[cells] int64: the place of each cell."""
    places: int
    """N."""
    mask: Tensor | None
    """[W, N, N] float32, added to scores: keeps apart what only the shift brought together; or None."""
    still: bool
    """Whether cells already stand in the order of the windows, so that nothing moves."""

    @property
    def whole(self) -> bool:
        """Whether there is no padding."""
        return len(self.there) == len(self.back)

    def into(self, x: Tensor) -> Tensor:
        """Put the cells [B, T h w, C] into windows [B W, N, C]; padding is zero."""
        out = x if self.still else moved(x, self.there, self.back)
        return out.view(-1, self.places, x.shape[2])

    def out_of(self, x: Tensor, batch: int) -> Tensor:
        """Take the cells [B, T h w, C] out of windows [B W, N, C]."""
        x = x.reshape(batch, len(self.there), x.shape[2])
        return x if self.still else moved(x, self.back, self.there)

    def standing(self) -> "WindowPlan":
        """Return the plan for cells that already stand in the order of its windows."""
        return replace(self, still=True)


def reorder(x: Tensor, old: WindowPlan | None, new: WindowPlan | None) -> Tensor:
    """Take the cells [B, T h w, C] from the order of one plan's windows to that of another's.

    None is the order of the clip. Neither plan has padding.
    """
    if old is new:
        return x
    if old is None or old.still:
        return x if new is None or new.still else moved(x, new.there, new.back)
    if new is None or new.still:
        return moved(x, old.back, old.there)
    return moved(x, old.back[new.there], new.back[old.there])


def moved(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Return the rows of x [B, rows, C] in another order; `inverse` takes them back."""
    out: Tensor = _Moved.apply(x, index, inverse)  # type: ignore[no-untyped-call]
    return out


class _Moved(torch.autograd.Function):
    """Rows [B, rows, C] in another order, in one copy; rows behind the last are zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.index, ctx.inverse = index, inverse
        return _moved(x, index, len(inverse))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Moved.apply(gradients[0], ctx.inverse, ctx.index), None, None  # type: ignore[no-untyped-call]


def _moved(x: Tensor, index: Tensor, rows: int) -> Tensor:
    if len(index) > rows:  # some are padding
        x = F.pad(x, (0, 0, 0, 1))
    if x.device.type != "cpu":
        return x.index_select(1, index)
    out = x.new_empty(len(x), len(index), x.shape[2])
    for clip, into in zip(x, out, strict=True):  # only along the first axis all threads of a CPU copy
        torch.index_select(clip, 0, index, out=into)
    return out


def fitting(size: Sizes, window: Sizes, shift: Sizes) -> tuple[Sizes, Sizes]:
    """Return window and shift for a clip: along sides that fit into a window it shrinks and stays put."""
    used = [(s, 0) if s <= w else (w, by) for s, w, by in zip(size, window, shift, strict=True)]
    return (used[0][0], used[1][0], used[2][0]), (used[0][1], used[1][1], used[2][1])


@lru_cache(maxsize=32)
def plan_windows(size: Sizes, window: Sizes, shift: Sizes, device: torch.device) -> WindowPlan:
    """Plan the windows of clips of T x h x w cells (`size`); made once for each size.

    Zeros fill clips behind the last frame, row and column up to whole windows, then everything is rolled by
    `shift`. Padding counts as ordinary, as published. Along sides that fit into a window, it shrinks to them
    and stays put.
    """
    window, shift = fitting(size, window, shift)
    with torch.inference_mode(False):  # it outlives this call
        cells = math.prod(size)
        missing = [-side % step for side, step in zip(size, window, strict=True)]
        numbers = torch.arange(cells, device=device).view(size)
        numbers = F.pad(numbers, (0, missing[2], 0, missing[1], 0, missing[0]), value=cells)
        there = into_windows(numbers.roll([-by for by in shift], (0, 1, 2))[None, ..., None], window)
        flat = there.flatten()
        back = torch.empty(cells + 1, dtype=torch.int64, device=device)
        back[flat] = torch.arange(len(flat), device=device)
        whole = (numbers.shape[0], numbers.shape[1], numbers.shape[2])
        mask = shift_mask(whole, window, shift, device)
        return WindowPlan(flat, back[:cells], there.shape[1], mask, window == size)


def into_windows(x: Tensor, window: Sizes) -> Tensor:
    """Cut [B, T, h, w, C] into windows [B W, N, C]; sides are multiples of the window's."""
    B, T, h, w, C = x.shape
    t, r, c = window
    x = x.view(B, T // t, t, h // r, r, w // c, c, C).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, t * r * c, C)


def shift_mask(size: Sizes, window: Sizes, shift: Sizes, device: torch.device) -> Tensor | None:
    """Return [W, N, N] float32: what keeps positions apart that only the shift brought into one window.

    `size` is that of the padded clip. None without a shift.
    """
    if not any(shift):
        return None
    regions = torch.zeros(1, *size, 1, device=device)
    number = 0
    cuts = [
        (slice(-side), slice(-side, -by if by else None), slice(-by, None)) if by else (slice(None),)
        for side, by in zip(window, shift, strict=True)
    ]
    for t in cuts[0]:
        for r in cuts[1]:
            for c in cuts[2]:
                regions[:, t, r, c] = number
                number += 1
    flat = into_windows(regions, window).squeeze(-1)  # [W, N]
    return torch.where(flat[:, None] == flat[:, :, None], 0.0, NEVER)


def offsets(window: Sizes) -> Tensor:
    """Return [N, N] int64: the row of the bias table for each pair of positions of a window."""
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")
    places = torch.stack(axes).flatten(1)  # [3, N]
    apart = places[:, :, None] - places[:, None] + torch.tensor(window)[:, None, None] - 1
    scale = torch.tensor([(2 * window[1] - 1) * (2 * window[2] - 1), 2 * window[2] - 1, 1])
    return (apart * scale[:, None, None]).sum(0)


class WindowAttention(nn.Module):
    """Attention within windows, with a bias for where one position lies from another."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: Sizes) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(math.prod(2 * side - 1 for side in window), heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", offsets(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows [B W, N, C]; `mask` [W, N, N] is added to the scores.

        A window smaller than the configured one takes the biases of the first N positions of that one, as
        published, also where rows or columns are fewer and other offsets would be meant.
        """
        N = x.shape[1]
        index = self.relative_position_index[:N, :N].reshape(-1)
        bias = self.relative_position_bias_table.t().index_select(1, index).view(self.heads, N, N)
        if plain(x) and torch.is_grad_enabled():
            parameters = (self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias)
            out: Tensor = _Attended.apply(x, *parameters, bias, mask)  # type: ignore[no-untyped-call]
            return out
        return self._fused(x, bias, mask)

    def _fused(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with torch's attention; windows of a clip count as heads: the mask is not repeated."""
        rows, N, C = x.shape
        W = 1 if mask is None else len(mask)
        parts = self.qkv(x).view(-1, W, N, 3, self.heads, C // self.heads)
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each [B, W H, N, d]
        added = bias if mask is None else (bias + mask[:, None].to(bias.dtype)).flatten(0, 1)
        shown = added.to(q.dtype)[None].expand(len(q), -1, -1, -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=shown)
        out: Tensor = self.proj(
            y.view(-1, self.heads, N, C // self.heads).transpose(1, 2).reshape(rows, N, C)
        )
        return out


class _Attended(torch.autograd.Function):
    """Attention with its own backward pass, for float32 on a CPU.

    torch's attention is not fused where its bias learns, and scores that are written for all windows at once
    fall out of the caches before they are read again. Here so many windows are done at a time as fit in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        qkv_bias: Tensor,
        proj: Tensor,
        proj_bias: Tensor,
        bias: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        R, N, C = x.shape
        H = len(bias)
        outside, kept = [], []
        for start, end in _pieces(R, N):
            rows = linear(x[start:end].view(-1, C), weight, qkv_bias).view(-1, N, 3, H, C // H)
            parts = rows.permute(2, 0, 3, 1, 4).reshape(3, -1, N, C // H)  # [3, windows H, N, d]
            q, k, v = parts
            k, shares, y = k.mT, q.new_empty(len(q), N, N), torch.empty_like(q)
            for some, windows, heads in _steps(end - start, H, N):
                scores = shares[some]
                torch.baddbmm(scores, q[some], k[some], beta=0, alpha=(C // H) ** -0.5, out=scores)
                grid = scores.view(windows.stop - windows.start, -1, N, N)
                grid.add_(bias[heads])
                if mask is not None:
                    grid.add_(_of_windows(mask, start, windows)[:, None])
                torch.softmax(scores, -1, out=scores)
                torch.bmm(scores, v[some], out=y[some])
            rows = y.view(-1, H, N, C // H).transpose(1, 2).reshape(-1, C)
            outside.append(linear(rows, proj, proj_bias))
            kept += [parts, shares, rows]
        ctx.heads = H
        ctx.save_for_backward(x, weight, proj, *kept)
        return joined(outside).view(R, N, C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, proj, *kept = ctx.saved_tensors
        given = gradients[0].contiguous()
        R, N, C = x.shape
        H = ctx.heads
        needed = ctx.needs_input_grad
        to_qkv, to_proj = LinearGradient(*needed[1:3]), LinearGradient(*needed[3:5])
        to_bias, to_x = x.new_zeros(H, N, N), []
        for number, (start, end) in enumerate(_pieces(R, N)):
            parts, shares, y = kept[3 * number : 3 * number + 3]
            above = given[start:end].view(-1, C)
            to_proj.add(above, y)
            to_y = linear(above, proj.t()).view(-1, N, H, C // H).transpose(1, 2).reshape(-1, N, C // H)
            to_parts = _back(parts, shares, to_y, to_bias).view(3, -1, H, N, C // H)
            rows = to_parts.permute(1, 3, 0, 2, 4).reshape(-1, 3 * C)
            to_qkv.add(rows, x[start:end].view(-1, C))
            to_x.append(linear(rows, weight.t()))
        moved = joined(to_x).view(R, N, C)
        return moved, to_qkv.weight, to_qkv.bias, to_proj.weight, to_proj.bias, to_bias, None


def _back(parts: Tensor, shares: Tensor, to_y: Tensor, to_bias: Tensor) -> Tensor:
    """Return the gradient of queries, keys and values [3, windows H, N, d]; that of the bias is added to."""
    (q, k, v), scale, (H, N, _) = parts, parts.shape[-1] ** -0.5, to_bias.shape
    to_parts = torch.empty_like(parts)
    to_q, to_k, to_v = to_parts
    v, turned = v.mT, shares.mT
    for some, windows, heads in _steps(len(q) // H, H, N):
        above, share = to_y[some], shares[some]
        torch.bmm(turned[some], above, out=to_v[some])
        to_scores = torch.bmm(above, v[some])
        torch._softmax_backward_data(to_scores, share, -1, share.dtype, grad_input=to_scores)
        to_bias[heads].add_(to_scores.view(windows.stop - windows.start, -1, N, N).sum(0))
        for out, a, b in ((to_q, to_scores, k), (to_k, to_scores.mT, q)):
            torch.baddbmm(out[some], a, b[some], beta=0, alpha=scale, out=out[some])
    return to_parts


def _of_windows(mask: Tensor, before: int, windows: slice) -> Tensor:
    """Return the masks of some windows; `before` them come those of earlier pieces, W for each clip."""
    W = len(mask)
    start, end = before + windows.start, before + windows.stop
    if start // W == (end - 1) // W:
        return mask[start % W : (end - 1) % W + 1]
    return mask[torch.arange(start, end) % W]


def _pieces(windows: int, places: int) -> Iterator[tuple[int, int]]:
    """Yield windows from and to whose rows are multiplied together."""
    step = max(1, ROWS * torch.get_num_threads() // places)
    for start in range(0, windows, step):
        yield start, min(start + step, windows)


def _steps(windows: int, heads: int, places: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield whose scores are made together, whole windows or heads of one: places in [windows H], both."""
    pairs = max(1, SCORES * torch.get_num_threads() // places**2)
    several, step = max(1, pairs // heads), min(pairs, heads)
    for start in range(0, windows, several):
        end = min(start + several, windows)
        for first in range(0, heads, step):
            last = min(first + step, heads)
            yield (
                slice(start * heads + first, (end - 1) * heads + last),
                slice(start, end),
                slice(first, last),
            )

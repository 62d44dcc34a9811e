"""Resizing learned position tables."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import CheckpointError


def grid_side(rows: int) -> int:
    """Return the side of the square grid behind a table of `rows` rows (one class row, then the grid).

    Raises:
        CheckpointError: `rows - 1` is not a square.
    """
    side = math.isqrt(max(rows - 1, 0))
    if side < 1 or side * side != rows - 1:
        raise CheckpointError(f"position table of {rows} rows: expected one class row and a square grid")
    return side


def resize_positions(table: Tensor, side: int) -> Tensor:
    """Resize a table [1 + g*g, D] to a grid of `side` x `side`; the class row stays as it is.

    Bicubic, align_corners off, no antialiasing, computed in float32; an equal grid returns the table itself.
    """
    old = grid_side(table.shape[0])
    if old == side:
        return table
    grid = table[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, g, g]
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    rows = resized.permute(0, 2, 3, 1).reshape(side * side, -1).to(table.dtype)
    return torch.cat([table[:1], rows])


def fit_positions(state: Mapping[str, Tensor], name: str, own: Tensor) -> dict[str, Tensor]:
    """Return `state` with the picture position table `name` [1 + g*g, D] resized to the grid of `own`.

    Weights trained on pictures of one size then start a model for another, as published fine-tuning does.
    A table of another width is left alone: it belongs to another model.
    """
    out = dict(state)
    if name in out and out[name].dim() == 2 and out[name].shape[1] == own.shape[1]:
        out[name] = resize_positions(out[name], grid_side(own.shape[0]))
    return out

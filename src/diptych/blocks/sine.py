"""Sine positions of a grid of which only a part is picture (DETR's form).

Legend: B batch, h and w rows and columns of the grid, D width.
"""

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine_positions(mask: Tensor, width: int, eps: float = 1e-6) -> Tensor:
    """Return the positions of the cells of a grid, [B, h, w, D] float32.

    Rows and columns are counted over real cells alone and scaled so that the last one is at 2 pi. The first
    half of the channels tells the row, the second the column; in each half, sine and cosine take turns.

    Args:
        mask: [B, h, w] bool, True at cells that are picture.
        width: D, a multiple of 4.
        eps: keeps empty rows and columns from dividing by zero.
    """
    real = mask.float()
    half = width // 2
    rows, columns = real.cumsum(1), real.cumsum(2)
    rows = rows / (rows[:, -1:] + eps) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + eps) * (2 * math.pi)
    slots = torch.arange(half, dtype=torch.float32, device=mask.device)
    scale = TEMPERATURE ** (2 * torch.div(slots, 2, rounding_mode="floor") / half)

    def waves(place: Tensor) -> Tensor:
        angle = place[..., None] / scale
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)

    return torch.cat([waves(rows), waves(columns)], -1)

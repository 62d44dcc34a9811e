"""Pictures of several sizes in one frame. Legend: B pictures, H and W height and width of the frame."""

import torch
from torch import Tensor


def blank_outside(pixels: Tensor, sizes: Tensor) -> Tensor:
    """Return normalised pictures [B, 3, H, W] with zeros outside their `sizes` [B, 2] (height, width).

    Clips [B, N, 3, H, W] with `sizes` [B, N, 2] too.
    """
    H, W = pixels.shape[-2:]
    rows = torch.arange(H, device=pixels.device) < sizes[..., :1]
    columns = torch.arange(W, device=pixels.device) < sizes[..., 1:]
    return pixels * (rows[..., :, None] & columns[..., None, :])[..., None, :, :]

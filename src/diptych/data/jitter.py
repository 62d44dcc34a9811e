"""Colour jitter as published recipes have it, on whole batches on their device.

Legend: B batch, H x W pixels.
"""

import torch
from torch import Tensor

from diptych.data.draws import Draws

_GREY = (0.299, 0.587, 0.114)


def colour_jitter(pixels: Tensor, amounts: tuple[float, float, float], draws: Draws) -> Tensor:
    """Change brightness, contrast and saturation by random factors in random order.

    Each moves the picture away from (factor above 1) or towards a dull one: black, the mean of its grey
    levels, its grey levels. What leaves the range is cut off each time, so the order matters.

    Args:
        pixels: [B, 3, H, W] float32 in 0..1; changed in place.
        amounts: of brightness, contrast, saturation; factors are uniform in 1 - amount (at least 0) to
            1 + amount.
        draws: of the B samples.

    Returns:
        `pixels`.
    """
    largest = torch.tensor(amounts)
    lowest = (1 - largest).clamp_(min=0)
    factors = lowest + draws.rand(3) * (1 + largest - lowest)
    order = draws.rand(3).argsort(dim=1, stable=True)
    weights = torch.tensor(_GREY, device=pixels.device).view(1, 3, 1, 1)
    for kind in order.unbind(1):
        factor = factors.gather(1, kind[:, None]).to(pixels.device).view(-1, 1, 1, 1)
        flat, grey = ((kind == number).to(pixels.device, pixels.dtype).view(-1, 1, 1, 1) for number in (1, 2))
        levels = (pixels * weights).sum(1, keepdim=True)
        dull = levels.mean((2, 3), keepdim=True) * flat + levels * grey
        pixels.mul_(factor).add_(dull.mul_(1 - factor)).clamp_(0, 1)
    return pixels

"""Pictures of any size: how large they are shown, and how they get there.

Legend: H and W height and width in pixels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diptych.data.config import ImageConfig
from diptych.data.decode import Pixels

_BITS = 11
"""OpenCV holds the weights of a bilinear resize in so many bits."""


def fit_size(width: int, height: int, long: int, short: int) -> tuple[int, int]:
    """Return (width, height) of the largest picture of the same shape within two limits, each at least 1.

    The longer side is at most `long`, the shorter one at most `short`, rounded as published for SOHO. Smaller
    pictures are enlarged.
    """
    scale = min(long / max(width, height), short / min(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def limits(config: ImageConfig, draw: float | None) -> tuple[int, int]:
    """Return the limits (long, short) of a picture.

    Args:
        config: both limits, those of training too.
        draw: in 0..1, chooses from the range of training; None: evaluation.
    """
    if draw is None:
        return config.long, config.short
    low, high = config.train_short or (config.short, config.short)
    return config.train_long or config.long, low + min(int(draw * (high - low + 1)), high - low)


def padded(pixels: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-pixels // multiple) * multiple


def frame_side(config: ImageConfig) -> int:
    """Return the side of a square frame that holds every picture."""
    return padded(max(config.long, config.train_long), config.multiple)


def resize_like_opencv(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize [H, W, C] uint8 bilinearly, without smoothing, to the bit as OpenCV does it.

    Published SOHO weights were trained on such pixels. OpenCV computes in integers: weights have 11 bits,
    columns are summed up first, and intermediate sums lose their lowest 4 bits.
    """
    x0, x1, a0, a1 = _columns(pixels.shape[1], width)
    y0, y1, b0, b1 = _rows(pixels.shape[0], height)
    wide = pixels.astype(np.int32)
    lines = (wide[:, x0] * a0[:, None] + wide[:, x1] * a1[:, None]) >> 4
    sums = ((b0[:, None, None] * lines[y0]) >> 16) + ((b1[:, None, None] * lines[y1]) >> 16)
    found: Pixels = ((sums + 2) >> 2).astype(np.uint8)
    return found


_Places = NDArray[np.int64]
_Weights = NDArray[np.int32]


def _fractions(source: int, target: int) -> tuple[_Places, NDArray[np.float32]]:
    """Return the pixel left of each new pixel's centre, and how far behind its centre that lies."""
    centres = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    left = np.floor(centres).astype(np.int64)
    return left, (centres - left).astype(np.float32)


def _weights(share: NDArray[np.float32]) -> tuple[_Weights, _Weights]:
    whole = np.float32(1 << _BITS)
    return np.rint((1 - share) * whole).astype(np.int32), np.rint(share * whole).astype(np.int32)


def _columns(source: int, target: int) -> tuple[_Places, _Places, _Weights, _Weights]:
    left, share = _fractions(source, target)
    # At the edges a single pixel has all the weight.
    share[(left < 0) | (left >= source - 1)] = 0
    left = left.clip(0, source - 1)
    return left, (left + 1).clip(max=source - 1), *_weights(share)


def _rows(source: int, target: int) -> tuple[_Places, _Places, _Weights, _Weights]:
    above, share = _fractions(source, target)
    # At the edges one row has both weights, each rounded by itself.
    return above.clip(0, source - 1), (above + 1).clip(0, source - 1), *_weights(share)


def pad_batch(images: list[Tensor], multiple: int) -> tuple[Tensor, Tensor]:
    """Put pictures [3, H, W] into one batch, zeros at the bottom and on the right.

    Returns:
        [B, 3, H', W'] with the next multiples of the largest sides, and the sizes [B, 2] int64 (height,
        width).
    """
    sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.int64).reshape(-1, 2)
    height, width = (padded(int(side), multiple) for side in sizes.max(0).values)
    made = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images]
    return torch.stack(made), sizes


def waste(sizes: Tensor, height: int, width: int) -> Tensor:
    """Return the share (scalar float32) of frames of height x width that pictures leave empty.

    Args:
        sizes: [..., 2] int64, height and width of each picture.
        height: of the frames.
        width: of the frames.
    """
    area = sizes.prod(-1).sum().float()
    return 1 - area / max(math.prod(sizes.shape[:-1]) * height * width, 1)

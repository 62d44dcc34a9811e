"""RandAugment as published EVE fine-tuning has it, on whole batches of bytes on their device.

Legend: B batch, H x W pixels. Everything after the draws is integer arithmetic, or float32 in a fixed order
without products that differ between devices, so a picture comes out the same everywhere and in any company.
Geometry does what OpenCV 5 does: coordinates and pixels in float32 with fused multiply-adds.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diptych.data.config import RANDAUGMENT, AugmentConfig
from diptych.data.draws import Draws

FILL = 128
"""Grey level of what geometry brings in from outside."""
_AT_A_TIME = {"cpu": 2**17}
"""Pixels that a kind of device works on at a time: what stays in the cache of a CPU is faster."""
_ELSEWHERE = 2**22
"""On other devices: a coordinate of each is 32 MiB."""


def rand_augment(images: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    """Apply `config.randaugment_ops` operations, drawn with replacement, each with probability 1/2.

    Args:
        images: [B, 3, H, W] uint8; not changed.
        config: which operations at which level.
        draws: of the B samples.

    Returns:
        [B, 3, H, W] uint8, channels first in memory.
    """
    images = images.clone(memory_format=torch.contiguous_format)
    names = config.randaugment_choices
    for _ in range(config.randaugment_ops):
        chosen = draws.integers(len(names)).tolist()
        skipped = (draws.rand() < 0.5).tolist()
        negative = (draws.rand() < 0.5).tolist()
        strengths: dict[str, dict[int, float]] = {}
        for row, number in enumerate(chosen):
            name = names[number]
            if not skipped[row] and name != "Identity":
                strength = strength_of(name, config.randaugment_level)
                sign = -1 if negative[row] and name in _MATRICES else 1
                strengths.setdefault(name, {})[row] = sign * strength
        _apply_all(images, strengths, config.randaugment_published)
    return images


def strength_of(name: str, level: float) -> float:
    """Return what a level (0 to 10) means: a factor, a shear, pixels or degrees; 0 for other operations."""
    share = level / 10
    factor = 1.8 * share + 0.1
    return {
        "Brightness": factor,
        "Sharpness": factor,
        "ShearX": 0.3 * share,
        "ShearY": 0.3 * share,
        "TranslateX": 10 * share,
        "TranslateY": 10 * share,
        "Rotate": 30 * share,
    }.get(name, 0.0)


def apply_operation(
    images: Tensor, name: str, strength: float | Sequence[float] = 0.0, published: bool = False
) -> Tensor:
    """Apply one operation to every picture.

    Args:
        images: [B, 3, H, W] uint8; not changed.
        name: one of `RANDAUGMENT`.
        strength: of all pictures or of each; factor (`Brightness`, `Sharpness`), shear, pixels to the left or
            up, degrees counter-clockwise.
        published: with the faults of the published code (`AutoContrast`, `Sharpness`).

    Returns:
        [B, 3, H, W] uint8, channels first in memory.
    """
    images = images.clone(memory_format=torch.contiguous_format)
    batch = len(images)
    strengths = [float(strength)] * batch if isinstance(strength, (int, float)) else list(strength)
    if name != "Identity":
        _apply_all(images, {name: dict(enumerate(strengths))}, published)
    return images


def _apply_all(images: Tensor, strengths: Mapping[str, Mapping[int, float]], published: bool) -> None:
    """Change pictures [B, 3, H, W] in place: operation -> row -> strength, a row at most once."""
    by_kind: dict[Callable[..., Tensor], list[tuple[int, str, float]]] = {}
    for name, rows in strengths.items():
        for row, strength in rows.items():
            by_kind.setdefault(_KINDS[name], []).append((row, name, strength))
    pixels = _AT_A_TIME.get(images.device.type, _ELSEWHERE)
    together = max(1, pixels // math.prod(images.shape[2:]))
    for kind, everything in by_kind.items():
        for first in range(0, len(everything), together):
            work = everything[first : first + together]
            index = torch.tensor([row for row, _, _ in work], device=images.device)
            images[index] = kind(images[index], [(name, strength) for _, name, strength in work], published)


def _look_up(images: Tensor, work: Sequence[tuple[str, float]], published: bool) -> Tensor:
    """Replace every level of every channel by what a table says."""
    counts = _histograms(images)
    tables = torch.empty_like(counts, dtype=torch.uint8)
    for name, table in (("AutoContrast", _autocontrast), ("Equalize", _equalize)):
        rows = [row for row, (found, _) in enumerate(work) if found == name]
        if rows:
            tables[rows] = table(counts[rows], published)
    for row, (name, factor) in enumerate(work):
        if name == "Brightness":
            tables[row] = (torch.arange(256, dtype=torch.float32) * factor).clamp_(0, 255).to(torch.uint8)
    return torch.gather(tables, 2, images.flatten(2).long()).view_as(images)


def _histograms(images: Tensor) -> Tensor:
    """Return how often each channel has each level: [B, 3, 256] int64."""
    planes = len(images) * 3
    first = 256 * torch.arange(planes, device=images.device)
    levels = images.reshape(planes, -1).long() + first[:, None]
    return torch.bincount(levels.flatten(), minlength=256 * planes).view(-1, 3, 256)


def _autocontrast(counts: Tensor, published: bool) -> Tensor:
    """Return tables [B, 3, 256] uint8 that stretch the levels in use over all.

    The published code negates the lowest level as a byte, so a channel without black becomes white.
    """
    levels = torch.arange(256, device=counts.device)
    used = counts > 0
    low = torch.where(used, levels, 255).amin(2, keepdim=True)
    high = torch.where(used, levels, 0).amax(2, keepdim=True)
    spread = (high - low).clamp_(min=1)
    if published:
        # As recorded: a quotient times a level, which rounds below whole numbers now and then.
        scale = torch.full_like(spread, 255).double() / spread
        stretched = (levels * scale + torch.remainder(-low, 256) * scale).clamp_(0, 255)
    else:
        stretched = ((levels - low) * 255 // spread).clamp_(0, 255)
    return torch.where(high > low, stretched.to(torch.uint8), levels.to(torch.uint8))


def _equalize(counts: Tensor, published: bool) -> Tensor:
    """Return tables [B, 3, 256] uint8 that make all levels about equally frequent."""
    del published  # nothing is wrong with it
    levels = torch.arange(256, device=counts.device)
    highest = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, highest)) // 255
    below = counts.cumsum(2) - counts + step // 2
    table = (below // step.clamp(min=1)).clamp_(0, 255)
    return torch.where(step > 0, table, levels).to(torch.uint8)


def _sharpen(images: Tensor, work: Sequence[tuple[str, float]], published: bool) -> Tensor:
    """Move away from (factor above 1) or towards a smoothed picture; the outermost pixels stay.

    The published code casts to bytes without a limit, so that values beyond it come out at the other end.
    """
    if min(images.shape[2:]) < 3:
        return images
    whole = images.to(torch.int32)
    height, width = images.shape[2] - 2, images.shape[3] - 2
    total = 4 * whole[:, :, 1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + whole[:, :, y : y + height, x : x + width]
    # Thirteenths, rounded; a tie cannot be.
    smooth = ((2 * total + 13) // 26).float()
    factor = torch.tensor([factor for _, factor in work], device=images.device)[:, None, None, None]
    sharp = (images[:, :, 1:-1, 1:-1].float() - smooth).mul_(factor).add_(smooth)
    sharp = sharp.to(torch.int32) & 255 if published else sharp.clamp_(0, 255)
    changed = images.clone()
    changed[:, :, 1:-1, 1:-1] = sharp.to(torch.uint8)
    return changed


def _warp(images: Tensor, work: Sequence[tuple[str, float]], published: bool) -> Tensor:
    """Shear, shift or rotate, with bilinear interpolation and grey outside."""
    del published  # nothing is wrong with it
    height, width = images.shape[2:]
    matrices = np.array([_inverse(_MATRICES[name](strength, height, width)) for name, strength in work])
    x, y = (
        _places(row.astype(np.float32), height, width, images.device)
        for row in (matrices[:, :3], matrices[:, 3:])
    )
    left, top = x.floor(), y.floor()
    # Two pixels of grey on each side stand for everything outside.
    padded = F.pad(images, (2, 2, 2, 2), value=FILL).float().flatten(2)
    stride = width + 4
    start = (top.clamp(-2, height).long() + 2) * stride + (left.clamp(-2, width).long() + 2)
    start = start.flatten(1)[:, None].expand(-1, 3, -1)
    x, y = (x - left).double().flatten(1)[:, None], (y - top).double().flatten(1)[:, None]

    def pixels(offset: int) -> Tensor:
        return padded[:, :, offset:].gather(2, start)

    upper = _between(pixels(0), pixels(1), x)
    lower = _between(pixels(stride), pixels(stride + 1), x)
    return _between(upper, lower, y).round_().to(torch.uint8).view_as(images)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return first + share * (second - first) in float32 as by a fused multiply-add; overwrites `second`."""
    return second.sub_(first).double().mul_(share).add_(first).float()


def _places(rows: NDArray[np.float32], height: int, width: int, device: torch.device) -> Tensor:
    """Return a coordinate a x + b y + c of every pixel, for rows (a, b, c): [B, 3] -> [B, H, W] float32."""
    right, down, shift = (torch.from_numpy(part.copy()).to(device)[:, None] for part in rows.T)
    across = torch.arange(width, device=device).double() * right
    return (across[:, None, :] + (torch.arange(height, device=device) * down + shift)[:, :, None]).float()


Matrix = tuple[float, float, float, float, float, float]
"""Where a place of the old picture comes to: x' = a x + b y + c, y' = d x + e y + f."""


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    """Turn about the middle, counter-clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, sin, (1 - cos) * x - sin * y, -sin, cos, sin * x + (1 - cos) * y


def _single(number: float) -> float:
    """Return the nearest float32, which the published code keeps these numbers in."""
    return float(np.float32(number))


_MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "ShearX": lambda shear, height, width: (1.0, _single(shear), 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda shear, height, width: (1.0, 0.0, 0.0, _single(shear), 1.0, 0.0),
    "TranslateX": lambda pixels, height, width: (1.0, 0.0, _single(-pixels), 0.0, 1.0, 0.0),
    "TranslateY": lambda pixels, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, _single(-pixels)),
    "Rotate": _rotation,
}
_KINDS: dict[str, Callable[[Tensor, Sequence[tuple[str, float]], bool], Tensor]] = {
    "AutoContrast": _look_up,
    "Equalize": _look_up,
    "Brightness": _look_up,
    "Sharpness": _sharpen,
    **dict.fromkeys(_MATRICES, _warp),
}
assert set(RANDAUGMENT) == {"Identity", *_KINDS}


def _inverse(matrix: Matrix) -> Matrix:
    """Return where each place of the new picture comes from."""
    a, b, c, d, e, f = matrix
    scale = 1 / (a * e - b * d)
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    return a, b, -a * c - b * f, d, e, -d * c - e * f

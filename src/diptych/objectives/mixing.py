"""Pictures mixed in pairs (mixup, CutMix), with the share that each label keeps. B pictures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """Pictures, each with something of another one."""

    images: Tensor
    """[B, 3, H, W] or [B, N, 3, H, W]: as they were, or float32 in 0..1 where they are blended."""
    partner: Tensor
    """[B] int64: whose part each has."""
    share: float
    """What its own label keeps of the target, 0 to 1; the partner's has the rest."""


def unmixed(images: Tensor) -> Mixed:
    """Return pictures as they are."""
    return Mixed(images, torch.arange(len(images), device=images.device), 1.0)


def mix_pictures(images: Tensor, mixup: float, cutmix: float, probability: float, seed: int) -> Mixed:
    """Blend each picture with that at the other end of the batch, or put a rectangle of that into it.

    One draw for a whole batch, as published: where both are on, either half of the time.

    Args:
        images: uint8, or float in 0..1.
        mixup: alpha of the share of blended pictures; 0: never.
        cutmix: alpha of the share that a rectangle leaves; 0: never.
        probability: share of the batches that are mixed.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    partner = torch.arange(len(images) - 1, -1, -1, device=images.device)
    cuts = bool(cutmix) and (not mixup or random.random() < 0.5)
    alpha = cutmix if cuts else mixup
    if not alpha or random.random() >= probability:
        return unmixed(images)
    share = float(random.beta(alpha, alpha))
    if not cuts:
        values = images.float() / (1 if images.is_floating_point() else 255)
        return Mixed(values * share + values.flip(0) * (1 - share), partner, share)
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    rows, columns = (_between(random, size, int(size * side)) for size in (height, width))
    out = images.clone()
    out[..., rows, columns] = images.flip(0)[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixed(out, partner, 1 - area / (height * width))


def _between(random: np.random.Generator, size: int, length: int) -> slice:
    """Return a stretch of a length around a random centre, cut off at the edges."""
    centre = int(random.integers(size))
    return slice(max(centre - length // 2, 0), min(centre + length // 2, size))

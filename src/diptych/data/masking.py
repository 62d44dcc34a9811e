"""Which text tokens and image patches a model does not get to see. Legend: B batch, L tokens, P patches.

Draws come from the given generator alone, on its device; masks are returned on the device of their inputs, or
of the generator where there are none.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.text import Tokenizer

_TRIES = 10
_LEAST_BLOCK = 4
_LEAST_ASPECT = 0.3


def mask_tokens(
    ids: Tensor,
    mask: Tensor,
    tokenizer: Tokenizer,
    ratio: float,
    generator: torch.Generator,
    replace: Literal["mask", "bert"] = "mask",
) -> tuple[Tensor, Tensor]:
    """Hide `ratio` of each text's ordinary tokens: rounded, but at least one where there is one.

    Args:
        ids: [B, L] int64.
        mask: [B, L] bool, True at real tokens.
        tokenizer: tells the special tokens, which are never hidden, from the ordinary ones.
        ratio: share in 0..1; 0 hides nothing.
        generator: source of the draws.
        replace: `mask` puts the mask token everywhere; `bert` does so for 80 %, puts a random ordinary token
            for 10 % and leaves 10 % as they are.

    Returns:
        The ids to show [B, L] int64, and what is to be predicted [B, L] bool.
    """
    specials = torch.tensor(sorted(tokenizer.special_ids), device=ids.device)
    ordinary = mask & ~torch.isin(ids, specials)
    counts = ordinary.sum(1)
    wanted = (counts * ratio).round().long()
    if ratio > 0:
        wanted = torch.maximum(wanted, counts.clamp(max=1))
    scores = _uniform(ids.shape, generator).to(ids.device).masked_fill(~ordinary, 2.0)
    selected = _lowest(scores, wanted)
    if replace == "mask":
        return ids.masked_fill(selected, tokenizer.mask_id), selected
    fate = _uniform(ids.shape, generator).to(ids.device)
    table = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids])
    draws = torch.randint(len(table), ids.shape, generator=generator, device=generator.device)
    random_ids = table.to(ids.device)[draws.to(ids.device)]
    shown = ids.masked_fill(selected & (fate < 0.8), tokenizer.mask_id)
    return torch.where(selected & (fate >= 0.9), random_ids, shown), selected


def random_patch_mask(batch: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Return [B, P] bool with exactly round(ratio * patches) True in each row, every choice as likely."""
    wanted = torch.full((batch,), round(ratio * patches), device=generator.device)
    return _lowest(_uniform((batch, patches), generator), wanted)


def blockwise_patch_mask(
    batch: int, height: int, width: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Return [B, height * width] bool: rectangles as in BEiT, row-major.

    Blocks of at least 4 patches, their height / width log-uniform in 0.3 .. 1/0.3, are put at random places
    until round(ratio * height * width) patches are hidden. A block that would go beyond that is drawn again,
    up to 10 times; then the row stays short of the target.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    random = np.random.default_rng(seed)
    target = round(ratio * height * width)
    rows = [_blocks(height, width, target, random).reshape(-1) for _ in range(batch)]
    stacked = np.stack(rows) if rows else np.zeros((0, height * width), dtype=bool)
    return torch.from_numpy(stacked).to(generator.device)


def _blocks(height: int, width: int, target: int, random: np.random.Generator) -> np.ndarray:
    hidden = np.zeros((height, width), dtype=bool)
    tries = _TRIES
    while tries and (room := target - int(hidden.sum())) > 0:
        tries -= 1
        area = random.uniform(_LEAST_BLOCK, max(_LEAST_BLOCK, room))
        aspect = math.exp(random.uniform(math.log(_LEAST_ASPECT), -math.log(_LEAST_ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h > height or w > width or h * w < _LEAST_BLOCK:
            continue
        top, left = random.integers(height - h + 1), random.integers(width - w + 1)
        block = hidden[top : top + h, left : left + w]
        if 0 < h * w - int(block.sum()) <= room:
            block[:] = True
            tries = _TRIES
    return hidden


def _uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _lowest(scores: Tensor, wanted: Tensor) -> Tensor:
    """Return [B, N] bool: the `wanted` [B] lowest scores of each row."""
    ranks = scores.argsort(stable=True, dim=1).argsort(1)
    return torch.lt(ranks, wanted[:, None])

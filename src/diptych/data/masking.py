"""Which text tokens and image patches a model does not get to see. Legend: B batch, L tokens, P patches.

What is hidden of a sample depends on its own draws alone, so it is the same on any number of ranks. Masks are
returned on the device of their inputs, or on the CPU where there are none.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.draws import Draws
from diptych.data.text import Tokenizer

_TRIES = 10
_LEAST_BLOCK = 4
_LEAST_ASPECT = 0.3


def mask_tokens(
    ids: Tensor,
    mask: Tensor,
    tokenizer: Tokenizer,
    ratio: float,
    draws: Draws,
    replace: Literal["mask", "bert"] = "mask",
) -> tuple[Tensor, Tensor]:
    """Hide `ratio` of each text's ordinary tokens: rounded, but at least one where there is one.

    Args:
        ids: [B, L] int64.
        mask: [B, L] bool, True at real tokens.
        tokenizer: tells the special tokens, which are never hidden, from the ordinary ones.
        ratio: share in 0..1; 0 hides nothing.
        draws: of the B samples.
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
    scores = draws.rand(ids.shape[1]).to(ids.device).masked_fill(~ordinary, 2.0)
    selected = _lowest(scores, wanted)
    if replace == "mask":
        return ids.masked_fill(selected, tokenizer.mask_id), selected
    fate = draws.rand(ids.shape[1]).to(ids.device)
    table = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids])
    random_ids = table[draws.integers(len(table), ids.shape[1])].to(ids.device)
    shown = ids.masked_fill(selected & (fate < 0.8), tokenizer.mask_id)
    return torch.where(selected & (fate >= 0.9), random_ids, shown), selected


def random_patch_mask(patches: int, ratio: float, draws: Draws) -> Tensor:
    """Return [B, P] bool with exactly round(ratio * patches) True in each row, every choice as likely."""
    wanted = torch.full((len(draws),), round(ratio * patches))
    return _lowest(draws.rand(patches), wanted)


def blockwise_patch_mask(height: int, width: int, ratio: float, draws: Draws) -> Tensor:
    """Return [B, height * width] bool: rectangles as in BEiT, row-major.

    Blocks of at least 4 patches, their height / width log-uniform in 0.3 .. 1/0.3, are put at random places
    until round(ratio * height * width) patches are hidden. A block that would go beyond that is drawn again,
    up to 10 times; then the row stays short of the target.
    """
    target = round(ratio * height * width)
    seeds = draws.integers(2**53).tolist()
    rows = [_blocks(height, width, target, np.random.default_rng(seed)).reshape(-1) for seed in seeds]
    stacked = np.stack(rows) if rows else np.zeros((0, height * width), dtype=bool)
    return torch.from_numpy(stacked)


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


def _lowest(scores: Tensor, wanted: Tensor) -> Tensor:
    """Return [B, N] bool: the `wanted` [B] lowest scores of each row."""
    ranks = scores.argsort(stable=True, dim=1).argsort(1)
    return torch.lt(ranks, wanted[:, None])

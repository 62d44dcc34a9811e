"""What masked pre-training hides. Legend: B batch, N patches, L text tokens."""

from dataclasses import dataclass

from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.data.draws import Draws
from diptych.data.masking import blockwise_patch_mask, mask_tokens, random_patch_mask
from diptych.data.text import Tokenizer
from diptych.systems.eve.pretrain_config import EvePretrainConfig


@dataclass(frozen=True)
class Masked:
    """A batch with signals hidden. M patches a picture and any number of words are hidden."""

    pixels: Tensor
    """[B, 3, H, W] normalised, nothing hidden."""
    hidden: Tensor
    """[B, N] bool"""
    ids: Tensor
    """[B, L] int64, nothing hidden."""
    shown: Tensor
    """[B, L] int64, hidden words replaced."""
    mask: Tensor
    """[B, L] bool, False at padding."""
    selected: Tensor
    """[B, L] bool, True at hidden words."""


def hide(
    pixels: Tensor,
    ids: Tensor,
    mask: Tensor,
    side: int,
    tokenizer: Tokenizer,
    config: EvePretrainConfig,
    draws: Draws,
    world: World = ALONE,
) -> Masked:
    """Draw what is hidden from normalised pictures [B, 3, H, W] of `side` patches a side and texts [B, L].

    Nothing of it depends on how samples are spread over the ranks of `world`.
    """
    if config.image_mask == "random":
        hidden = random_patch_mask(side**2, config.image_mask_ratio, draws)
    else:
        blocks = blockwise_patch_mask(side, side, config.image_mask_ratio, draws)
        hidden = equal_rows(blocks.to(ids.device), world)
    shown, selected = mask_tokens(ids, mask, tokenizer, config.text_mask_ratio, draws, config.text_mask)
    return Masked(pixels, hidden.to(ids.device), ids, shown, mask, selected)


def trim(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cut off columns of [B, L] that are padding in every row (at least one column stays)."""
    used = int(mask.any(0).sum().clamp(min=1))
    return ids[:, :used], mask[:, :used]


def equal_rows(hidden: Tensor, world: World = ALONE) -> Tensor:
    """Show patches of [B, N] again, the last ones first, until every row of all ranks hides equally many."""
    least = -world.max(-hidden.sum(1).min())
    return hidden & (hidden.cumsum(1) <= least)

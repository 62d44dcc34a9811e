"""What pre-training hides and replaces.

Legend: B pictures, G texts a picture, R = B G rows, L text tokens, P image tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.objectives.matching import IGNORED, draw_others
from diptych.systems.soho.pretrain_config import SohoPretrainConfig


@dataclass(frozen=True)
class Shown:
    """Texts as the model gets to see them, several for each picture."""

    pictures: Tensor
    """[R] int64: the picture of each row; those of a picture stand together."""
    ids: Tensor
    """[R, L] int64, hidden words replaced."""
    mask: Tensor
    """[R, L] bool, False at padding."""
    targets: Tensor
    """[R, L] int64: the words to be found; IGNORED elsewhere."""
    matching: Tensor
    """[R] int64: 1 where the text is one of the picture, 0 where it was replaced."""


def show(
    ids: Tensor,
    mask: Tensor,
    match_ids: Tensor,
    tokenizer: Tokenizer,
    config: SohoPretrainConfig,
    draws: Draws,
) -> Shown:
    """Replace some texts [B, G, L] by those of other pictures of the batch, then hide words.

    What is drawn for a picture depends on its own draws; which text takes the place of another one, on what
    else is in its batch (the published code draws from the whole annotation file).

    Args:
        ids: [B, G, L] int64.
        mask: [B, G, L] bool, True at real tokens.
        match_ids: [B] int64: pictures with equal ones share their texts.
        tokenizer: tells start, end and padding, which are never hidden.
        config: how often.
        draws: of the B pictures.
    """
    B, G, L = ids.shape
    replaced, source = _wrong_texts(match_ids, G, config.wrong_text, draws)
    ids = torch.where(replaced[..., None], ids[source, 0], ids)
    mask = torch.where(replaced[..., None], mask[source, 0], mask)
    kept = torch.tensor([tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id], device=ids.device)
    ordinary = mask & ~torch.isin(ids, kept)
    chances = draws.rand(4, G, L).to(ids.device)
    shown, targets = hide_words(
        ids,
        ordinary & (chances[:, 0] < config.text_mask_ratio),
        chances[:, 1] < 0.8,
        chances[:, 2] < 0.5,
        (chances[:, 3] * tokenizer.vocab_size).long(),
        tokenizer.mask_id,
    )
    pictures = torch.arange(B, device=ids.device).repeat_interleave(G)
    return Shown(
        pictures,
        shown.flatten(0, 1),
        mask.flatten(0, 1),
        targets.flatten(0, 1),
        (~replaced).long().flatten(),
    )


def _wrong_texts(match_ids: Tensor, texts: int, chance: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Draw which texts [B, G] are replaced, and by the first text of which picture [B, G]."""
    device = match_ids.device
    wanted = draws.rand(texts).to(device) < chance
    share = draws.rand(texts).to(device)
    source, there = draw_others(match_ids, share)
    return wanted & there, source


def hide_words(
    ids: Tensor, selected: Tensor, masked: Tensor, random: Tensor, words: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Return ids with the selected ones hidden, and the targets; all tensors have the shape of `ids`.

    Of the selected tokens those `masked` become the mask token, of the others those `random` become `words`,
    and the rest stays.
    """
    put = torch.where(random, words, ids)
    put = put.masked_fill(masked, mask_id)
    return torch.where(selected, put, ids), ids.masked_fill(~selected, IGNORED)


def same_word(words: Tensor, position: int | Tensor) -> Tensor:
    """Return [R, P] bool: the tokens of each row that have the same word as that at `position`.

    Args:
        words: [R, P] int64; negative where there is no picture.
        position: one for all rows, or [R] int64. Rows without a picture there get nothing.
    """
    at = torch.as_tensor(position, device=words.device).expand(len(words))
    word = words.gather(1, at[:, None])
    return (words == word) & (word >= 0)


def hide_visual_words(words: Tensor, texts: int, config: SohoPretrainConfig, draws: Draws) -> Tensor:
    """Draw which image tokens are hidden in each row, [R, P] bool: all of one visual word, in some rows.

    Args:
        words: [B, P] int64, the visual words of each picture; negative where there is no picture.
        texts: rows of each picture.
        config: how often, and where.
        draws: of the B pictures.
    """
    B, P = words.shape
    chosen = draws.rand(texts).to(words.device).flatten() < config.visual_mask_ratio
    share = draws.rand().to(words.device)
    rows = words.repeat_interleave(texts, 0)
    if config.visual_mask == "published":
        # One place for the whole batch, padding included; here that of its first picture.
        position = (share[:1] * P).long().clamp(max=P - 1) if B else share.long()
        return same_word(rows, position.expand(len(rows))) & chosen[:, None]
    real = words >= 0
    nth = (share * real.sum(1)).long()
    place = ((real.long().cumsum(1) == (nth + 1)[:, None]) & real).long().argmax(1)
    return same_word(rows, place.repeat_interleave(texts)) & chosen[:, None]

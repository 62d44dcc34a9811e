"""What pre-training hides and draws; all of it is a sample's own, whatever batch or rank it is in.

Legend: B samples, L text tokens, W words.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.blocks.collective import Joiner
from diptych.data.draws import Draws
from diptych.data.order import derived
from diptych.data.significant import Hidden, Random, Words, hide_significant
from diptych.data.text import Tokenizer
from diptych.objectives.matching import draw_others
from diptych.systems.snps3.objectives import IGNORED
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig
from diptych.systems.snps3.words import first_letters

_SEEDS = 2**53
_MASKED, _REPLACED = 0.8, 0.9
_RARE = 1e-6
"""Added to the attention that each word gets, so that every word may be drawn."""


@dataclass(frozen=True)
class Texts:
    """Texts with words hidden. The same length everywhere."""

    raw: Tensor
    """[B, L] int64"""
    mask: Tensor
    """[B, L] bool"""
    shown: Tensor
    """[B, L] int64"""
    targets: Tensor
    """[B, L] int64, IGNORED where nothing is hidden."""
    words: Tensor
    """[B, W] int64: places of the words that are compared with clips."""


class Hider:
    """Hides words by a task's settings.

    Args:
        config: of the task.
        tokenizer: the run's.
        words: which words are significant; None: no one asks.
    """

    def __init__(self, config: SnpS3PretrainConfig, tokenizer: Tokenizer, words: Words | None) -> None:
        self.config, self.tokenizer, self.words = config, tokenizer, words
        self._unasked = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        self._letters: dict[int, int] = {}
        if config.masking == "published" and words is not None:
            self._letters = first_letters(words, tokenizer.vocabulary(), tokenizer.unk_id)

    def hide(self, ids: Tensor, mask: Tensor, draws: Draws, *, training: bool = True) -> Texts:
        """Cut long texts to a window, hide words, and choose those that are compared with clips.

        Args:
            ids: [B, L] int64, each text between start and end token.
            mask: [B, L] bool.
            draws: of the B samples.
            training: whether windows are random; otherwise a text's beginning counts.
        """
        device = ids.device
        sizes = mask.sum(1).tolist()
        seeds = draws.integers(_SEEDS, 4).tolist()
        rows = [
            self._row(row[:size], own, training)
            for row, size, own in zip(ids.tolist(), sizes, seeds, strict=True)
        ]
        longest = max((len(row[0]) for row in rows), default=2)
        pad = self.tokenizer.pad_id

        def stacked(part: int, filling: int) -> Tensor:
            lists = [row[part] + [filling] * (longest - len(row[part])) for row in rows]
            return torch.tensor(lists, dtype=torch.int64, device=device).view(len(rows), longest)

        lengths = torch.tensor([len(row[0]) for row in rows], device=device)
        words = torch.tensor([row[3] for row in rows], dtype=torch.int64, device=device)
        return Texts(
            stacked(0, pad),
            torch.arange(longest, device=device) < lengths[:, None],
            stacked(1, pad),
            stacked(2, IGNORED),
            words.view(len(rows), self.config.lvwm_words),
        )

    def _row(
        self, ids: list[int], seeds: list[int], training: bool
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return raw ids, shown ids, targets and places of one text; each purpose has a stream of its own."""
        start, end, inside = ids[:1], ids[-1:], ids[1:-1]
        raw = kept = inside
        if 0 < self.config.window < len(ids):
            size = self.config.window - 2
            raw = kept = _window(inside, size, seeds[0]) if training else inside[:size]
            if training and self.config.windows == "published":
                raw = _window(inside, size, seeds[1])
        hidden = self._hide(kept, random.Random(seeds[2]))
        whole = [s if t == IGNORED else t for s, t in zip(hidden.shown, hidden.targets, strict=True)]
        places = self._choose([*start, *whole, *end], seeds[3])
        targets = [IGNORED, *hidden.targets, IGNORED]
        return [*start, *raw, *end], [*start, *hidden.shown, *end], targets, places

    def _hide(self, ids: list[int], draws: Random) -> Hidden:
        config = self.config
        if config.masking == "random" or self.words is None:
            return hide_random(
                ids, self.tokenizer.vocab_size, self.tokenizer.mask_id, draws, config.text_mask_ratio
            )
        return hide_significant(
            ids,
            self.words,
            self.tokenizer.mask_id,
            draws,
            ratio=config.text_mask_ratio,
            ignored=IGNORED,
            first_letter=self._letters,
            published=config.masking == "published",
        )

    def _choose(self, ids: list[int], seed: int) -> list[int]:
        """Return places of W words: significant ones, others where there is none; some twice if too few."""
        count = self.config.lvwm_words
        if self.words is None:
            return [0] * count
        draws = random.Random(seed)
        places = [i for i, word in enumerate(ids) if self.words.is_significant(word)]
        if not places:
            places = [i for i, word in enumerate(ids) if word not in self._unasked]
        if not places:
            places = [min(i, len(ids) - 1) for i in range(count)]
        if len(places) > count:
            return [places[i] for i in draws.sample(range(len(places)), count)]
        while len(places) < count:
            places.append(places[draws.randint(0, len(places) - 1)])
        return places


def _window(ids: list[int], size: int, seed: int) -> list[int]:
    start = random.Random(seed).randint(0, len(ids) - size)
    return ids[start : start + size]


def hide_random(ids: list[int], vocab_size: int, mask_id: int, draws: Random, ratio: float) -> Hidden:
    """Hide each word with the chance `ratio`; 80 % become the mask token, 10 % any word, 10 % stay."""
    shown, targets = list(ids), [IGNORED] * len(ids)
    for place, word in enumerate(ids):
        draw = draws.random()
        if draw >= ratio:
            continue
        targets[place] = word
        if draw < _MASKED * ratio:
            shown[place] = mask_id
        elif draw < _REPLACED * ratio:
            shown[place] = draws.randint(0, vocab_size - 1)
    return Hidden(shown, targets)


def choose_guided(config: SnpS3PretrainConfig, draws: Draws, step: int) -> Tensor:
    """Return which samples have the words hidden that get most attention, [B] bool on the CPU."""
    if config.guided_by == "sample":
        return draws.rand() < config.guided
    one = Draws(derived(draws.seed, "guided"), torch.tensor([step])).rand()
    draws.rand()  # so that what follows does not depend on the setting
    return (one < config.guided).expand(len(draws))


def hide_attended(
    raw: Tensor, ordinary: Tensor, importance: Tensor, mask_id: int, ratio: float, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Hide words, the more attention they get the likelier; return ids and targets [B, L].

    Published, but for special tokens, which have a tiny chance there. `ratio` of the ordinary words, rounded
    down, but at least one; all become the mask token.

    Args:
        raw: [B, L] int64.
        ordinary: [B, L] bool: words that may be hidden.
        importance: [B, L] attention that each word gets.
        mask_id: of the mask token.
        ratio: share of the ordinary words.
        uniform: [B, L] in [0, 1): one draw a word.
    """
    numbers = ordinary.sum(1)
    count = torch.minimum((numbers.double() * ratio).floor().long().clamp(min=1), numbers)
    # The smallest of exponential variables with these rates: a draw without putting back.
    waits = -torch.log1p(-uniform.double()) / (importance.double().clamp(min=0) + _RARE)
    order = waits.masked_fill(~ordinary, float("inf")).argsort(dim=1, stable=True).argsort(1)
    hidden = torch.lt(order, count[:, None])
    return raw.masked_fill(hidden, mask_id), raw.masked_fill(~hidden, IGNORED)


def draw_false(
    ids: Tensor, mask: Tensor, match_ids: Tensor, draws: Draws, join: Joiner
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each sample the text of another one of the batch (of all ranks) that does not match it.

    Args:
        ids: [B, L] int64, the texts as they may be drawn.
        mask: [B, L] bool.
        match_ids: [B] int64; equal ones match.
        draws: of the B samples.
        join: of these samples.

    Returns:
        Ids and mask [B, L'] of the wrong texts, and [B] bool: whether there was one.
    """
    longest = int(join.world.max(torch.tensor(ids.shape[1], device=ids.device)))
    missing = (0, longest - ids.shape[1])
    texts = join(F.pad(ids, missing))
    masks = join(F.pad(mask.long(), missing)).bool()
    source, there = draw_others(match_ids, draws.rand(1).to(ids.device), join(match_ids))
    source = source[:, 0]
    return texts[source], masks[source], there[:, 0]

"""The losses of SNP-S3's pre-training on given inputs: nothing is drawn here.

Legend: B samples, N frames, n clips, L text tokens, W words, D width, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diptych.objectives.matching import MatchingHead
from diptych.objectives.milnce import mean_cross_entropy
from diptych.objectives.mlm import MaskedTextHead
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.snps3.heads import (
    Level,
    Momentum,
    first_level,
    joint_scores,
    second_level,
    word_level,
)
from diptych.systems.snps3.model import SnpS3Model

IGNORED = -1
"""Target of words that are not to be found."""


@dataclass(frozen=True)
class Given:
    """A batch with everything drawn."""

    frames: Tensor
    """[B, N, 3, H, W] normalised."""
    raw: Tensor
    """[B, L] ids with nothing hidden."""
    mask: Tensor
    """[B, L] bool"""
    shown: Tensor
    """[B, L] ids with words hidden."""
    targets: Tensor
    """[B, L] the words to be found; IGNORED elsewhere."""
    false: Tensor
    """[B, L'] ids of texts that do not belong to the videos."""
    false_mask: Tensor
    """[B, L'] bool"""
    words: Tensor
    """[B, W] int64: places of the significant words that are compared with clips."""
    padding: Tensor | None = None
    """[B, N, H, W] bool, True at pixels that are padding."""
    clips: int = 0
    """n; 0: every frame is a clip."""
    guided: tuple[Tensor, Tensor] | None = None
    """Ids and targets that take the place of `shown` and `targets` where words are found: the places that
    get most attention are hidden."""


@dataclass(frozen=True)
class Parts:
    """Losses by name, and what metrics are made of."""

    losses: dict[str, Tensor]
    scores: dict[str, Tensor] = field(default_factory=dict)
    """Level -> [B, B] (text, video)."""
    logits: dict[str, Tensor] = field(default_factory=dict)
    """`mlm`, `text_mlm` [B, L, V] and `itm` [2 B, 2] (right pairs first)."""
    targets: Tensor | None = None
    """[B, L] of `mlm` and `text_mlm`."""


class PretrainHeads(nn.Module):
    """The heads of pre-training."""

    def __init__(self, model: SnpS3Model, momentum: Momentum | None, dropout: float = 0.1) -> None:
        super().__init__()
        vocab = model.text_spec.vocab_size
        self.match = PairScorer(model.width, dropout)
        self.mlm = MaskedTextHead(model.width, vocab)
        self.text_mlm = MaskedTextHead(model.width, vocab)
        self.itm = MatchingHead(model.width)
        self.moco = momentum

    def forward(self, model: SnpS3Model, given: Given, word_levels: tuple[str, ...] = ("after",)) -> Parts:
        """Return all losses of a batch.

        Args:
            model: the network.
            given: the batch.
            word_levels: which word vectors are compared with clips: `before` (embedded words) and `after`
                (the text network's states).
        """
        seen = model.see(given.frames, given.padding, given.clips)
        read = model.encode_text(given.raw, given.mask)
        first = self._first(model, given, read.pooled, seen.features)
        words = model.text(given.shown)
        second = second_level(joint_scores(model, self.match, words, given.mask, seen.tokens))
        found = self._masked(model, given, seen.tokens, read.tokens)
        losses = {"level1": first.loss, "level2": second.loss, **found.losses}
        scores = {"level1": first.scores, "level2": second.scores}
        for name in word_levels:
            level = word_level(self._words(model, given, name), seen.features)
            losses[f"lvwm_{name}"], scores[f"lvwm_{name}"] = level.loss, level.scores
        return Parts(losses, scores, found.logits, found.targets)

    def _first(self, model: SnpS3Model, given: Given, texts: Tensor, clips: Tensor) -> Level:
        plain = first_level(texts, clips)
        if self.moco is None or not self.training:
            return plain
        frames = (given.frames, given.padding, given.clips)
        return Level(self.moco(model, frames, (given.raw, given.mask), texts, clips), plain.scores)

    def _masked(self, model: SnpS3Model, given: Given, tokens: Tensor, texts: Tensor) -> Parts:
        """Find hidden words, in texts with their videos and alone; tell right pairs from wrong ones."""
        shown, targets = given.guided or (given.shown, given.targets)
        clips = model.embed_clips(tokens)
        right = model.join(model.text(shown), given.mask, clips)
        wrong = model.join(model.text(given.false), given.false_mask, clips)
        table = model.text.words.weight
        logits = {
            "mlm": self.mlm(right.text, table),
            # As published: what the text network makes of the words themselves, which it can copy.
            "text_mlm": self.text_mlm(texts, table),
            "itm": self.itm(torch.cat([right.pooled, wrong.pooled])),
        }
        labels = torch.arange(2 * len(shown), device=shown.device) < len(shown)
        losses = {
            "mlm": mean_cross_entropy(logits["mlm"], targets, IGNORED),
            "text_mlm": mean_cross_entropy(logits["text_mlm"], targets, IGNORED),
            "itm": mean_cross_entropy(logits["itm"], labels.long(), IGNORED),
        }
        return Parts(losses, {}, logits, targets)

    def _words(self, model: SnpS3Model, given: Given, which: str) -> Tensor:
        """Return the vectors [B, W, D] of the significant words, of texts with nothing hidden."""
        whole = torch.where(given.targets == IGNORED, given.shown, given.targets)
        vectors: Tensor = model.text(whole)
        if which == "after":
            vectors = model.run(vectors, given.mask)
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        return vectors[rows, given.words]

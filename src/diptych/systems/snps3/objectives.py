"""The losses of SNP-S3's pre-training on given inputs: nothing is drawn here.

Legend: B samples, N frames, n clips, L text tokens, W words, D width, V vocabulary, M hidden words.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.blocks.collective import ALONE, Joiner, World
from diptych.objectives.matching import IGNORED as UNMATCHED
from diptych.objectives.matching import MatchingHead, itm_loss
from diptych.objectives.mlm import MaskedTextHead, mlm_loss
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.protocol import Encoded
from diptych.systems.snps3.heads import Level, Momentum, first_level, joint_scores, second_level, word_level
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.visual import Clips

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
    false_there: Tensor | None = None
    """[B] bool: False where no wrong text was to be had; None: everywhere."""


@dataclass(frozen=True)
class Heads:
    """The heads of pre-training; those of losses that are off may be missing."""

    match: PairScorer | None = None
    mlm: MaskedTextHead | None = None
    text_mlm: MaskedTextHead | None = None
    itm: MatchingHead | None = None
    moco: Momentum | None = None
    """Without one, or outside of training, the first level compares the batch alone."""


@dataclass(frozen=True)
class Wanted:
    """Which losses are computed, and how."""

    losses: frozenset[str] = frozenset({"level1", "level2", "mlm", "text_mlm", "itm", "lvwm_after"})
    """Of these, and `lvwm_before`: `before` and `after` are embedded words, and the text network's states."""
    group: int = 0
    """Samples among which the second level compares; 0: all of this rank."""
    text_hidden: bool = False
    """Whether the text network, too, reads the texts with words hidden; published: as they are."""


@dataclass
class Parts:
    """Losses by name (this rank's share of them), and what metrics are made of."""

    losses: dict[str, Tensor]
    scores: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """Level -> blocks [B', B'] (text, video): one of all ranks' samples; of the second level, its groups."""
    logits: dict[str, Tensor] = field(default_factory=dict)
    """`mlm` and `text_mlm` [M, V], `itm` [2 B, 2] (right pairs first)."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """[B, L, D]: what `mlm` and `text_mlm` read."""
    targets: Tensor | None = None
    """[B, L] of `mlm` and `text_mlm`."""
    labels: Tensor | None = None
    """[2 B] of `itm`."""


class _Batch:
    """One batch on its way through the losses; what several of them need is computed once."""

    def __init__(self, model: SnpS3Model, heads: Heads, given: Given, wanted: Wanted, world: World) -> None:
        self.model, self.heads, self.given, self.wanted, self.world = model, heads, given, wanted, world
        self.join = Joiner(world, len(given.raw), given.raw.device)
        self.seen: Clips = model.see(given.frames, given.padding, given.clips)
        self.parts = Parts({}, targets=(given.guided or (given.shown, given.targets))[1])
        self._read: Encoded | None = None

    @property
    def read(self) -> Encoded:
        """The texts with nothing hidden, read alone."""
        if self._read is None:
            self._read = self.model.encode_text(self.given.raw, self.given.mask)
        return self._read

    def wants(self, *names: str) -> bool:
        return not self.wanted.losses.isdisjoint(names)

    def first_level(self, training: bool) -> None:
        given, moco = self.given, self.heads.moco
        texts, clips = self.read.pooled, self.seen.features
        if moco is None or not training:
            with self._exact():
                self._add("level1", first_level(self.join(texts), self.join(clips)))
            return
        with torch.no_grad(), self._exact():  # for the metrics
            scores = first_level(self.join(texts), self.join(clips)).scores
        frames = (given.frames, given.padding, given.clips)
        loss = moco(self.model, frames, (given.raw, given.mask), texts, clips)
        self._add("level1", Level(loss, scores))

    def second_level(self) -> None:
        assert self.heads.match is not None
        given, tokens = self.given, self.seen.tokens
        words = self.model.text(given.shown)
        losses, blocks = [], []
        group = self.wanted.group or len(words)
        for start in range(0, len(words), group):
            some = slice(start, start + group)
            scores = joint_scores(self.model, self.heads.match, words[some], given.mask[some], tokens[some])
            losses.append(second_level(scores).loss * len(scores))
            blocks.append(scores.detach())
        self.parts.losses["level2"] = self.world.mean(torch.stack(losses).sum(), len(words))
        self.parts.scores["level2"] = tuple(blocks)

    def word_levels(self) -> None:
        given = self.given
        whole = torch.where(given.targets == IGNORED, given.shown, given.targets)
        rows = torch.arange(len(whole), device=whole.device)[:, None]
        for name in ("before", "after"):
            if self.wants(f"lvwm_{name}"):
                vectors = self._words(whole, name)[rows, given.words].float()
                with self._exact():
                    self._add(f"lvwm_{name}", word_level(self.join(vectors), self.join(self.seen.features)))

    def _words(self, whole: Tensor, which: str) -> Tensor:
        """Return the vectors [B, L, D] of all words of texts with nothing hidden."""
        if which == "before":
            before: Tensor = self.model.text(whole)
            return before
        if whole is self.given.raw or torch.equal(whole, self.given.raw):
            return self.read.tokens
        return self.model.run(self.model.text(whole), self.given.mask)

    def pairs(self) -> None:
        """Find hidden words in texts with their videos; tell right pairs from wrong ones."""
        given, parts = self.given, self.parts
        shown = (given.guided or (given.shown,))[0]
        ids, masks = [shown], [given.mask]
        if self.wants("itm"):
            ids, masks = [shown, given.false], [given.mask, given.false_mask]
        longest = max(part.shape[1] for part in ids)
        text = torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in ids])
        mask = torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in masks])
        clips = self.model.embed_clips(self.seen.tokens)
        fused = self.model.join(self.model.text(text), mask, torch.cat([clips] * len(ids)))
        if self.wants("mlm"):
            parts.states["mlm"] = fused.text[: len(shown), : shown.shape[1]]
            self._hidden_words("mlm", self.heads.mlm)
        if self.wants("itm"):
            assert self.heads.itm is not None
            labels = torch.ones(2 * len(shown), dtype=torch.int64, device=shown.device)
            there = given.false_there
            labels[len(shown) :] = 0 if there is None else torch.where(there, 0, UNMATCHED)
            logits = parts.logits["itm"] = self.heads.itm(fused.pooled)
            parts.losses["itm"] = itm_loss(logits, labels, self.world)
            parts.labels = labels

    def texts_alone(self) -> None:
        """Find hidden words in texts alone; published: in texts with nothing hidden, which can be copied."""
        given = self.given
        states = self.read.tokens
        if self.wanted.text_hidden:
            shown = (given.guided or (given.shown,))[0]
            states = self.model.run(self.model.text(shown), given.mask)
        self.parts.states["text_mlm"] = states
        self._hidden_words("text_mlm", self.heads.text_mlm)

    def _hidden_words(self, name: str, head: MaskedTextHead | None) -> None:
        """Score words where one is hidden, and nowhere else."""
        parts = self.parts
        assert head is not None
        assert parts.targets is not None
        asked = parts.targets != IGNORED
        logits = parts.logits[name] = head(parts.states[name][asked], self.model.text.words.weight)
        parts.losses[name] = mlm_loss(logits, parts.targets[asked], self.world)

    def _exact(self) -> torch.autocast:
        """Compute in float32, also where training is in bf16."""
        return torch.autocast(self.given.raw.device.type, enabled=False)

    def _add(self, name: str, level: Level) -> None:
        self.parts.losses[name] = level.loss
        self.parts.scores[name] = (level.scores.detach(),)


def pretraining_losses(
    model: SnpS3Model,
    heads: Heads,
    given: Given,
    wanted: Wanted,
    world: World = ALONE,
    *,
    training: bool = True,
) -> Parts:
    """Return the losses of a batch.

    With several ranks the first level and the word levels compare the samples of all of them; the second
    level compares within groups of a rank's samples.

    Args:
        model: the network.
        heads: those of the wanted losses.
        given: the batch of this rank.
        wanted: which losses.
        world: the ranks; all call it together.
        training: whether queues are used, and move.
    """
    batch = _Batch(model, heads, given, wanted, world)
    if batch.wants("level1"):
        batch.first_level(training)
    if batch.wants("level2"):
        batch.second_level()
    if batch.wants("mlm", "itm"):
        batch.pairs()
    if batch.wants("text_mlm"):
        batch.texts_alone()
    if batch.wants("lvwm_before", "lvwm_after"):
        batch.word_levels()
    return batch.parts

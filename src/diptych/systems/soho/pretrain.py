"""Pre-training of SOHO: masked words, masked visual words, image-text matching.

Legend: B pictures, G texts a picture, R = B G rows, L text tokens, P image tokens, D width, K entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.blocks.products import multiplied
from diptych.data.batch import Batch
from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.matching import IGNORED, itm_accuracy, itm_loss
from diptych.objectives.mlm import mlm_accuracy, mlm_loss
from diptych.objectives.mvm import mvm_accuracy, mvm_loss, word_scores
from diptych.objectives.pictures import blank_outside
from diptych.systems.protocol import Fused, VisionLanguageModel, Visual
from diptych.systems.soho.masking import Shown, hide_visual_words, show
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.pretrain_config import SohoPretrainConfig
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig


@dataclass(frozen=True)
class Read:
    """What the model makes of a batch with things hidden."""

    fused: Fused
    words: Tensor
    """[R, P] int64: visual words; negative where there is no picture."""
    hidden: Tensor
    """[R, P] bool: image tokens that were hidden."""


@dataclass(frozen=True)
class Given:
    """What is read of a batch."""

    visual: Visual
    """Of all R rows, some tokens hidden."""
    words: Tensor
    """[R, P] int64: visual words; negative where there is no picture."""
    hidden: Tensor
    """[R, P] bool: image tokens that were hidden."""


@dataclass(frozen=True)
class Scores:
    """What the heads say, where there is something to say."""

    text: Tensor
    """[hidden words, V] float32."""
    text_targets: Tensor
    visual: Tensor
    """[hidden image tokens, K] float32."""
    visual_targets: Tensor
    match: Tensor
    """[R, 2] float32."""


class SohoPretrainTask(Task):
    """The three objectives on every row.

    What all texts of a picture share (CNN, dictionary, positions) is computed once for it; words are scored
    only where one is hidden, visual words likewise, and in training the last layer computes nothing else. The
    result is that of the straightforward computation.
    """

    name: ClassVar[str] = "soho_pretrain"
    config_class: ClassVar[type[TaskConfig]] = SohoPretrainConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    several_texts: ClassVar[bool] = True
    config: SohoPretrainConfig
    model: SohoModel

    def __init__(self, model: VisionLanguageModel, config: SohoPretrainConfig, tokenizer: Tokenizer) -> None:
        if not isinstance(model, SohoModel):
            raise UsageError(f"task soho_pretrain needs the system soho, got {type(model).__name__}")
        if model.config.neck == "plain" and config.mvm_weight:
            raise UsageError(
                "task soho_pretrain needs a visual dictionary; set system.neck=gated, or task.mvm_weight=0 "
                "to train without one"
            )
        super().__init__(model, config, tokenizer)
        self.itm = nn.Linear(model.width, 2, bias=False)
        nn.init.kaiming_normal_(self.itm.weight)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return the capabilities it uses."""
        return frozenset({"embed_visual", "fuse"})

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the weighted sum of the parts `mlm`, `mvm` and `itm`."""
        assert batch.images is not None
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        ids, mask = batch.text_ids, batch.text_mask.bool()
        if ids.dim() == 2:  # one text a picture
            ids, mask = ids[:, None], mask[:, None]
        shown = show(ids, mask, batch.match_ids, self.tokenizer, self.config, context.draws)
        pixels = self.pixels(batch)

        def hide(words: Tensor) -> Tensor:
            return hide_visual_words(words, ids.shape[1], self.config, context.draws)

        given = self.look(pixels, batch.image_sizes, shown, hide)
        return self.losses(self._score_hidden(given, shown), shown, context.world)

    def pixels(self, batch: Batch) -> Tensor:
        """Return the pictures of a batch normalised, [B, 3, H, W], with zeros where they are padded."""
        assert batch.images is not None
        pixels = normalise(batch.images, self.model.image_spec)
        return pixels if batch.image_sizes is None else blank_outside(pixels, batch.image_sizes)

    def read(
        self, pixels: Tensor, sizes: Tensor | None, shown: Shown, hide: Callable[[Tensor], Tensor]
    ) -> Read:
        """Read normalised pictures [B, 3, H, W] with the texts shown; arguments as of `look`."""
        given = self.look(pixels, sizes, shown, hide)
        return Read(self.model.fuse(given.visual, shown.ids, shown.mask), given.words, given.hidden)

    def look(
        self, pixels: Tensor, sizes: Tensor | None, shown: Shown, hide: Callable[[Tensor], Tensor]
    ) -> Given:
        """Turn normalised pictures [B, 3, H, W] into the image tokens of every row.

        Args:
            pixels: the pictures.
            sizes: [B, 2] int64; see `SohoModel.see`.
            shown: R texts, equally many of each picture.
            hide: returns [R, P] bool, the image tokens to hide, for the visual words [B, P] of the pictures
                (negative where there is none).
        """
        model = self.model
        seen = model.see(pixels, sizes, len(shown.pictures) // max(len(pixels), 1))
        if seen.indices is None:  # no dictionary, no visual words
            words = torch.full_like(seen.mask, IGNORED, dtype=torch.int64)
            hidden = torch.zeros_like(seen.mask)[shown.pictures]
            tokens = seen.tokens[shown.pictures]
        else:
            words = seen.indices.masked_fill(~seen.mask, IGNORED)
            hidden = hide(words)
            tokens = model.neck.hide(seen, shown.pictures, hidden)
        return Given(Visual(tokens, seen.mask[shown.pictures]), words[shown.pictures], hidden)

    def score(self, read: Read, shown: Shown) -> Scores:
        """Score words and visual words where they are hidden, and whether texts belong to their pictures."""
        fused, asked = read.fused, shown.targets != IGNORED
        states = (fused.text[asked], fused.visual[read.hidden], fused.pooled)
        words = self.model.text.words.weight
        return self._scores(words, *states, shown.targets[asked], read.words[read.hidden])

    def _score_hidden(self, given: Given, shown: Shown) -> Scores:
        """Do what `read` and `score` do, with a last layer that computes only what is scored."""
        asked = shown.targets != IGNORED
        L, P = asked.shape[1], given.hidden.shape[1]
        wanted = torch.cat([asked, given.hidden], 1)
        wanted[:, 0] = True  # the first token stands for the whole
        # The wanted places of each row in their order, then others, as many as the longest row needs.
        order = wanted.long().argsort(dim=1, descending=True, stable=True)
        places = order[:, : int(wanted.sum(1).max()) if len(wanted) else 0]
        table = self.model.text.tied()
        states = self.model.fuse_at(given.visual, shown.ids, shown.mask, places, table)
        is_asked = F.pad(asked, (0, P)).gather(1, places)
        is_hidden = F.pad(given.hidden, (L, 0)).gather(1, places)
        found = (states[is_asked], states[is_hidden], states[:, 0])
        return self._scores(table.weight, *found, shown.targets[asked], given.words[given.hidden])

    def _scores(
        self, table: Tensor, text: Tensor, visual: Tensor, first: Tensor, ids: Tensor, words: Tensor
    ) -> Scores:
        """Score states [., D]: of hidden words `ids`, of hidden visual `words`, of the rows' first tokens.

        `table` [V, D] is that of the words.
        """
        model = self.model
        has_words = model.config.neck != "plain"
        codes = model.neck.dictionary.codes if has_words else visual.new_zeros(1, model.width)
        of_text = multiplied(text, table).float()
        return Scores(of_text, ids, word_scores(visual, codes), words, self.itm(first).float())

    def losses(self, scores: Scores, shown: Shown, world: World = ALONE) -> Loss:
        """Return the losses; with several ranks this rank's share of them."""
        config = self.config
        parts = {
            "mlm": config.mlm_weight * mlm_loss(scores.text, scores.text_targets, world),
            "mvm": config.mvm_weight * mvm_loss(scores.visual, scores.visual_targets, world),
            "itm": config.itm_weight * itm_loss(scores.match, shown.matching, world),
        }
        metrics = {
            "mlm_accuracy": mlm_accuracy(scores.text, scores.text_targets, world),
            "mvm_accuracy": mvm_accuracy(scores.visual, scores.visual_targets, world),
            "itm_accuracy": itm_accuracy(scores.match, shown.matching, world),
            "masked_share": world.mean(torch.as_tensor(float(len(scores.text))), shown.targets.numel()),
        }
        if self.model.config.neck != "plain":
            metrics["visual_words"] = self.model.neck.dictionary.perplexity()
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Measure how well hidden words and visual words are found, and texts matched, on a split."""
        from diptych.systems.soho.pretrain_evaluation import evaluate_pretraining

        return evaluate_pretraining(self, data, progress)

"""Pre-training of SOHO: masked words, masked visual words, image-text matching.

Legend: B pictures, G texts a picture, R = B G rows, L text tokens, P image tokens, D width, K entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
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
    only where one is hidden, visual words likewise. The result is that of the straightforward computation.
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

        read = self.read(pixels, batch.image_sizes, shown, hide)
        return self.losses(self.score(read, shown), shown, context.world)

    def pixels(self, batch: Batch) -> Tensor:
        """Return the pictures of a batch normalised, [B, 3, H, W], with zeros where they are padded."""
        assert batch.images is not None
        pixels = normalise(batch.images, self.model.image_spec)
        return pixels if batch.image_sizes is None else blank_outside(pixels, batch.image_sizes)

    def read(
        self, pixels: Tensor, sizes: Tensor | None, shown: Shown, hide: Callable[[Tensor], Tensor]
    ) -> Read:
        """Read normalised pictures [B, 3, H, W] with the texts shown.

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
        fused = model.fuse(Visual(tokens, seen.mask[shown.pictures]), shown.ids, shown.mask)
        return Read(fused, words[shown.pictures], hidden)

    def score(self, read: Read, shown: Shown) -> Scores:
        """Score words and visual words where they are hidden, and whether texts belong to their pictures."""
        model, fused = self.model, read.fused
        asked = shown.targets != IGNORED
        text = (fused.text[asked] @ model.text.words.weight.t()).float()
        has_words = model.config.neck != "plain"
        codes = model.neck.dictionary.codes if has_words else fused.visual.new_zeros(1, model.width)
        visual = word_scores(fused.visual[read.hidden], codes)
        return Scores(
            text, shown.targets[asked], visual, read.words[read.hidden], self.itm(fused.pooled).float()
        )

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

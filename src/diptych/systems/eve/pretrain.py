"""Masked pre-training of EVE: read the visible signals of both modalities in one pass, rebuild the rest.

Legend: B batch, P image tokens (class token first), M hidden patches a picture, L text tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead
from diptych.objectives.matching import MatchingHead
from diptych.objectives.mim import (
    MaskedImageDecoder,
    blank_patches,
    gather_rows,
    mim_loss,
    normalise_patches,
    patchify,
    split_patches,
)
from diptych.objectives.mlm import MaskedTextHead, mlm_accuracy, mlm_loss
from diptych.systems.eve.hiding import Masked, hide, trim
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.eve.pretrain_pairs import PairObjectives
from diptych.systems.protocol import Fused, VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig


@dataclass(frozen=True)
class Rebuilt:
    """What the model makes of a masked batch."""

    fused: tuple[Fused, ...]
    """What the model read, one for each pass."""
    words: Tensor
    """[hidden words, V] float32 scores."""
    patches: Tensor
    """[B, M, K] painted patches."""
    target: Tensor
    """[B, M, K] what they should be."""


class EvePretrainTask(Task):
    """Masked signal modelling, with contrastive and matching losses of unmasked pairs as an option."""

    name: ClassVar[str] = "eve_pretrain"
    config_class: ClassVar[type[TaskConfig]] = EvePretrainConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    config: EvePretrainConfig
    model: EveModel

    def __init__(self, model: VisionLanguageModel, config: EvePretrainConfig, tokenizer: Tokenizer) -> None:
        if not isinstance(model, EveModel):
            raise UsageError(f"task eve_pretrain needs the system eve, got {type(model).__name__}")
        super().__init__(model, config, tokenizer)
        patches = model.patch_side**2
        _check_patches(config, patches)
        self.mlm = MaskedTextHead(model.width, model.text_spec.vocab_size)
        self.mim = MaskedImageDecoder(
            model.width,
            patches,
            3 * model.patch_cell**2,
            decoder_width=config.decoder_width,
            layers=config.decoder_layers,
            heads=config.decoder_heads,
            replaced=config.masked_tokens == "replace",
        )
        self.itc: ContrastiveHead | None = None
        self.itm: MatchingHead | None = None
        if config.itc_weight:
            self.itc = ContrastiveHead(
                model.width, config.itc_dim, config.temperature, config.temperature_bounds, config.itc_init
            )
        if config.itm_weight:
            self.itm = MatchingHead(model.width)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return the capabilities it uses."""
        both = frozenset({"embed_visual", "fuse"})
        contrast = isinstance(config, EvePretrainConfig) and config.itc_weight > 0
        return both | {"encode_visual", "encode_text"} if contrast else both

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the weighted sum of the parts `mlm`, `mim`, `itc`, `image_contrast`, `itm` and `routing`."""
        assert batch.images is not None
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        pixels = normalise(batch.images, self.model.image_spec)
        ids, mask = trim(batch.text_ids, batch.text_mask)
        parts, metrics, routing = self._masked_parts(pixels, ids, mask, context)
        if self.itc is not None:
            pairs = PairObjectives(self.model, self.itc, self.itm, self.config)
            more = pairs.compute(pixels, ids, mask, batch.match_ids, context)
            parts, metrics, routing = parts | more.parts, metrics | more.metrics, routing + more.routing
        if routing:
            parts["routing"] = self.config.routing_weight * torch.stack(routing).mean()
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def _masked_parts(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, context: StepContext
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
        """Return the weighted losses, metrics and balance losses of the masked passes."""
        config, world, draws = self.config, context.world, context.draws
        if 0 < (count := world.share(config.masked_batch)) < len(ids):
            rows, draws = draws.some(count)
            rows = rows.to(ids.device)
            pixels, (ids, mask) = pixels[rows], trim(ids[rows], mask[rows])
        masked = self.hide(pixels, ids, mask, draws, world)
        rebuilt = self.rebuild(masked)
        targets = masked.ids[masked.selected]
        parts = {
            "mlm": config.mlm_weight * mlm_loss(rebuilt.words, targets, world),
            "mim": config.mim_weight * mim_loss(rebuilt.patches, rebuilt.target, world),
        }
        metrics = {"mlm_accuracy": mlm_accuracy(rebuilt.words, targets, world)}
        return parts, metrics, [f.aux["routing"] for f in rebuilt.fused if "routing" in f.aux]

    def hide(self, pixels: Tensor, ids: Tensor, mask: Tensor, draws: Draws, world: World = ALONE) -> Masked:
        """Draw what is hidden from normalised pictures [B, 3, H, W] and texts [B, L]."""
        return hide(pixels, ids, mask, self.model.patch_side, self.tokenizer, self.config, draws, world)

    def rebuild(self, masked: Masked) -> Rebuilt:
        """Read the visible signals and rebuild the hidden ones."""
        cell, visible = self.model.patch_cell, self._visible(masked)
        if self.config.passes == 1:
            told = seen = self.model.fuse(visible, masked.shown, masked.mask)
        else:
            told = self.model.fuse(self.model.embed_visual(masked.pixels), masked.shown, masked.mask)
            seen = self.model.fuse(visible, masked.ids, masked.mask)
        words = self.mlm(told.text[masked.selected], self.model.text.words.weight)
        text = (seen.text, masked.mask) if self.config.decoder_text else (None, None)
        patches = self.mim(seen.visual, masked.hidden, *text)
        _, hidden_rows = split_patches(masked.hidden)
        target = gather_rows(patchify(masked.pixels, cell), hidden_rows)
        if self.config.normalise_targets:
            target = normalise_patches(target)
        return Rebuilt((told,) if told is seen else (told, seen), words, patches, target)

    def _visible(self, masked: Masked) -> Tensor:
        """Return the image tokens that the model may read [B, <= P, D].

        Where tokens see beyond their own patch (a convolutional stem, or a class token with the mean of all
        tokens) the hidden pixels are blanked before the stem, or they would leak.
        """
        visual, pixels = self.model.visual, masked.pixels
        if visual.class_mean or visual.stem.overlaps:
            pixels = blank_patches(pixels, masked.hidden, self.model.patch_cell)
        if self.mim.replacement is not None:
            tokens: Tensor = visual(pixels, (masked.hidden, self.mim.replacement))
            return tokens
        tokens = self.model.embed_visual(pixels)
        visible_rows, _ = split_patches(masked.hidden)
        return torch.cat([tokens[:, :1], gather_rows(tokens[:, 1:], visible_rows)], 1)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Measure masked-word accuracy and painting error on a split."""
        from diptych.systems.eve.pretrain_evaluation import evaluate_pretraining

        return evaluate_pretraining(self, data, progress)


def _check_patches(config: EvePretrainConfig, patches: int) -> None:
    """Refuse a mask that would never hide anything of `patches` patches."""
    least = 4 if config.image_mask == "blockwise" else 1
    if config.mim_weight and round(config.image_mask_ratio * patches) < least:
        raise UsageError(
            f"task.image_mask_ratio = {config.image_mask_ratio} of {patches} patches is below {least}, what "
            f"task.image_mask = {config.image_mask} hides at least; raise the ratio or set task.mim_weight=0"
        )

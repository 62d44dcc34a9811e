"""Contrastive and matching losses of unmasked pairs, mixed into pre-training (ours).

Legend: B batch, P image tokens, L text tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.blocks.collective import Joiner
from diptych.objectives.contrastive import (
    ContrastiveHead,
    contrast,
    contrast_pictures,
)
from diptych.objectives.matching import (
    MatchingHead,
    Pairs,
    draw_hard_negatives,
    itm_accuracy,
    itm_loss,
    matching_passes,
)
from diptych.objectives.relation import Relation
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.task import StepContext


@dataclass(frozen=True)
class PairLosses:
    """Weighted losses, further figures, and the balance loss of each pass."""

    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]
    routing: list[Tensor]


@dataclass(frozen=True)
class PairObjectives:
    """The model and heads of the pair losses; weights come from the task's configuration."""

    model: EveModel
    itc: ContrastiveHead
    itm: MatchingHead | None
    config: EvePretrainConfig

    def compute(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, match_ids: Tensor, context: StepContext
    ) -> PairLosses:
        """Return the losses of this rank's pictures [B, 3, H, W] (normalised) and texts [B, L].

        Contrastive candidates are those of all ranks.
        """
        config, world = self.config, context.world
        visual = self.model.embed_visual(pixels)
        image, text = self.model.encode_visual(visual), self.model.encode_text(ids, mask)
        temperature = self.itc.current_temperature()
        seen, read = self.itc.project_visual(image.pooled), self.itc.project_text(text.pooled)
        join, chunk = Joiner(world, len(seen), seen.device), config.itc_chunk
        relation = Relation(match_ids, join(match_ids))
        smoothing = config.label_smoothing
        loss, accuracy = contrast(
            seen, join(read), temperature, relation, world=world, label_smoothing=smoothing, chunk=chunk
        )
        parts = {"itc": config.itc_weight * loss}
        metrics = {"temperature": temperature.detach().clone(), "itc_accuracy": accuracy}
        routing = [encoded.aux["routing"] for encoded in (image, text) if "routing" in encoded.aux]
        if config.image_contrast:
            among = contrast_pictures(seen, temperature.detach(), match_ids, join, chunk)
            parts["image_contrast"] = config.image_contrast * among
        if self.itm is not None:
            passes = self._draw((seen, read), temperature, match_ids, context)
            scores, labels, balance = self._match(visual, ids, mask, passes)
            parts["itm"] = config.itm_weight * itm_loss(scores, labels, world)
            metrics["itm_accuracy"] = itm_accuracy(scores, labels, world)
            routing += balance
        return PairLosses(parts, metrics, routing)

    def _draw(
        self, features: tuple[Tensor, Tensor], temperature: Tensor, match_ids: Tensor, context: StepContext
    ) -> list[Pairs]:
        """Draw right and wrong pairs of this rank's part of the batch, whose pictures are there."""
        draws = context.draws
        rows = torch.arange(len(match_ids), device=match_ids.device)
        if 0 < (count := context.world.share(self.config.itm_batch)) < len(match_ids):
            rows, draws = draws.some(count)
            rows = rows.to(match_ids.device)
        relation, floor = Relation(match_ids, match_ids), self.config.itm_negative_floor
        negatives = draw_hard_negatives(
            features, temperature, relation, draws, images=rows, texts=rows, floor=floor
        )
        return matching_passes(rows, rows, negatives)

    def _match(
        self, visual: Tensor, ids: Tensor, mask: Tensor, passes: list[Pairs]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return scores [K, 2], labels [K] and balance loss of right and wrong pairs, all in one pass."""
        assert self.itm is not None
        images, texts, labels = (
            torch.cat([getattr(p, name) for p in passes]) for name in ("images", "texts", "labels")
        )
        fused = self.model.fuse(visual[images], ids[texts], mask[texts])
        balance = [fused.aux["routing"]] if "routing" in fused.aux else []
        return self.itm(fused.pooled), labels, balance

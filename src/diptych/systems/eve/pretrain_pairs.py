"""Contrastive and matching losses of unmasked pairs, mixed into pre-training (ours).

Legend: B batch, P image tokens, L text tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.data.draws import Draws
from diptych.objectives.contrastive import (
    ContrastiveHead,
    contrastive_logits,
    contrastive_loss,
    matches,
    supervised_contrastive_loss,
)
from diptych.objectives.matching import (
    MatchingHead,
    draw_negatives,
    itm_accuracy,
    itm_loss,
    matching_passes,
)
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.pretrain_config import EvePretrainConfig


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
        self, pixels: Tensor, ids: Tensor, mask: Tensor, match_ids: Tensor, draws: Draws
    ) -> PairLosses:
        """Return the losses of pictures [B, 3, H, W] (normalised) and texts [B, L]."""
        config = self.config
        visual = self.model.embed_visual(pixels)
        image, text = self.model.encode_visual(visual), self.model.encode_text(ids, mask)
        temperature = self.itc.current_temperature()
        features = self.itc.project_visual(image.pooled)
        logits = contrastive_logits(features, self.itc.project_text(text.pooled), temperature)
        matching = matches(match_ids, match_ids)
        parts = {"itc": config.itc_weight * contrastive_loss(logits, matching, config.label_smoothing)}
        best = logits.detach().argmax(1, keepdim=True)
        metrics = {
            "temperature": temperature.detach().clone(),
            "itc_accuracy": matching.gather(1, best).float().mean(),
        }
        routing = [encoded.aux["routing"] for encoded in (image, text) if "routing" in encoded.aux]
        if config.image_contrast:
            among = supervised_contrastive_loss(features, temperature.detach(), match_ids)
            parts["image_contrast"] = config.image_contrast * among
        if self.itm is not None:
            loss, accuracy, balance = self._match(visual, ids, mask, logits, matching, draws)
            parts["itm"], metrics["itm_accuracy"] = config.itm_weight * loss, accuracy
            routing += balance
        return PairLosses(parts, metrics, routing)

    def _match(
        self,
        visual: Tensor,
        ids: Tensor,
        mask: Tensor,
        logits: Tensor,
        matching: Tensor,
        draws: Draws,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loss, accuracy and balance loss of right and wrong pairs, all in one pass."""
        assert self.itm is not None
        rows = torch.arange(len(ids), device=ids.device)
        if 0 < self.config.itm_batch < len(ids):
            rows, draws = draws.some(self.config.itm_batch)
            rows = rows.to(ids.device)
        floor = self.config.itm_negative_floor
        negatives = draw_negatives(logits, matching, draws, images=rows, texts=rows, floor=floor)
        passes = matching_passes(rows, rows, negatives)
        images, texts, labels = (
            torch.cat([getattr(p, name) for p in passes]) for name in ("images", "texts", "labels")
        )
        fused = self.model.fuse(visual[images], ids[texts], mask[texts])
        scores = self.itm(fused.pooled)
        balance = [fused.aux["routing"]] if "routing" in fused.aux else []
        return itm_loss(scores, labels), itm_accuracy(scores, labels), balance

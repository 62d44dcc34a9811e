"""Image-text retrieval by matching alone: every picture is read together with every text.

For any system that fuses both modalities, above all those without an encoder for each. Training: matching of
right pairs and of wrong ones drawn at random from the batch. Evaluation takes pictures times texts passes
through the fused part, so it is for splits of thousands, not of millions.

Legend: B pictures of this rank, G texts a picture, L text tokens, K pairs, D width.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.objectives.matching import (
    IGNORED,
    MatchingHead,
    Pairs,
    draw_others,
    itm_accuracy,
    itm_loss,
)
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.fused import embed_pictures, visible_text
from diptych.tasks.retrieval_matching_config import RetrievalMatchingConfig
from diptych.tasks.retrieval_pairs import evaluate_pairs


class RetrievalMatchingTask(Task):
    """Matching with random negatives, and evaluation over all pairs."""

    name: ClassVar[str] = "retrieval_matching"
    config_class: ClassVar[type[TaskConfig]] = RetrievalMatchingConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    config: RetrievalMatchingConfig

    def __init__(
        self, model: VisionLanguageModel, config: RetrievalMatchingConfig, tokenizer: Tokenizer
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.itm: nn.Module
        if config.head == "unbiased":
            self.itm = nn.Linear(model.width, 2, bias=False)
            nn.init.normal_(self.itm.weight, std=0.02)
        else:
            self.itm = MatchingHead(model.width)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `fuse`."""
        return frozenset({"fuse"})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.itm.parameters()).device

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return matching + routing loss; parts `itm` and `routing`. Wrong pairs are of this rank's batch."""
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        texts = batch.text_ids.shape[1] if batch.text_ids.dim() == 3 else 1
        ids = batch.text_ids.reshape(-1, batch.text_ids.shape[-1])
        mask = batch.text_mask.reshape(ids.shape)
        ids, mask = visible_text(ids, mask, self.tokenizer, self.config.blind)
        visual = embed_pictures(self.model, batch.images, self.config.blind, batch.image_sizes)
        pairs = self.draw_pairs(batch.match_ids.to(ids.device), texts, context.draws)
        fused = self.model.fuse(visual[pairs.images], ids[pairs.texts], mask[pairs.texts])
        logits = self.itm(fused.pooled).float()
        parts = {"itm": itm_loss(logits, pairs.labels, context.world)}
        metrics = {"itm_accuracy": itm_accuracy(logits, pairs.labels, context.world)}
        routing = fused.aux.get("routing")
        if routing is not None:
            parts["routing"] = self.config.gate_weight * routing
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def draw_pairs(self, match_ids: Tensor, texts: int, draws: Draws) -> Pairs:
        """Return the right pairs, then for each of them the wrong ones, drawn uniformly.

        Args:
            match_ids: [B] int64; pictures with equal ones share their texts.
            texts: G; text g of picture b is number b G + g.
            draws: of the B pictures.
        """
        device, B, G = match_ids.device, len(match_ids), texts
        own = torch.arange(B, device=device)[:, None].expand(B, G)
        numbers = torch.arange(B * G, device=device).view(B, G)
        images, chosen, labels = [own], [numbers], [torch.ones_like(own)]
        for _ in range(self.config.wrong_texts):
            source, there = draw_others(match_ids, draws.rand(G).to(device))
            images.append(own)
            chosen.append(source * G + draws.integers(G, G).to(device))
            labels.append(torch.where(there, 0, IGNORED).expand(B, G))
        for _ in range(self.config.wrong_pictures):
            source, there = draw_others(match_ids, draws.rand(G).to(device))
            images.append(source)
            chosen.append(numbers)
            labels.append(torch.where(there, 0, IGNORED).expand(B, G))
        return Pairs(*(torch.cat([part.reshape(-1) for part in one]) for one in (images, chosen, labels)))

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Score every picture with every text of a split, and rank both ways."""
        return evaluate_pairs(self, data, progress)

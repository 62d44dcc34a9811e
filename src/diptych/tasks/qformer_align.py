"""Aligning a Q-Former with texts (VideoChat2's stage 1), and retrieval with what it has learned.

Legend: B samples of this rank, M of all ranks, Q queries, K pairs, L text tokens, D width, E of the features.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from diptych.blocks.collective import Joiner, World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.contrastive import matches
from diptych.objectives.matching import (
    MatchingHead,
    Pairs,
    draw_negatives,
    itm_accuracy,
    itm_loss,
    matching_passes,
)
from diptych.objectives.mlm import MaskedTextHead
from diptych.objectives.queries import caption_loss, query_contrast, query_similarity
from diptych.systems.protocol import Encoded, Fused, VisionLanguageModel
from diptych.systems.qformer.model import EPS, QFormerModel, Queried
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, TaskConfig
from diptych.tasks.fused import visible_text
from diptych.tasks.qformer_align_config import QFormerAlignConfig
from diptych.tasks.retrieval_base import RankingTask
from diptych.tasks.retrieval_ranking import evaluate_retrieval


class QFormerAlignTask(RankingTask):
    """Contrast, matching and captions in training; retrieval with re-ranking in evaluation."""

    name: ClassVar[str] = "qformer_align"
    config_class: ClassVar[type[TaskConfig]] = QFormerAlignConfig
    parts_by: ClassVar[Literal["exponentials", "best"]] = "best"
    config: QFormerAlignConfig
    model: QFormerModel

    def __init__(self, model: VisionLanguageModel, config: QFormerAlignConfig, tokenizer: Tokenizer) -> None:
        if not isinstance(model, QFormerModel):
            raise UsageError(
                f"task qformer_align trains system qformer, the model is a {type(model).__name__}; "
                "set system.name=qformer"
            )
        super().__init__(model, config, tokenizer)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        width = model.width * (2 if config.pair == "concat" else 1)
        self.itm = MatchingHead(width) if config.matching_weight else None
        self.caption = None
        if config.caption_weight:
            self.caption = MaskedTextHead(model.width, model.config.qformer.vocab_size)
            self.caption.norm.eps = EPS

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return both encoders and `fuse`."""
        return frozenset({"embed_visual", "encode_visual", "encode_text", "fuse"})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.temperature.device

    @property
    def reads_pairs(self) -> bool:
        """Whether it has a matching head."""
        return self.itm is not None

    def current_temperature(self) -> Tensor:
        """Return the temperature, moved back into its bounds first."""
        self.temperature.data.clamp_(*self.config.temperature_bounds)
        return self.temperature

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the weighted sum of the parts that are on: `vtc`, `vtm` and `caption`.

        Contrast compares with the samples of all ranks; wrong pairs are of this rank's batch.
        """
        config, world = self.config, context.world
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        ids, mask = visible_text(batch.text_ids, batch.text_mask, self.tokenizer, config.blind)
        visual = self.embed(batch.images)
        seen = self.model.query(visual)
        texts = self.model.encode_text(ids, mask).pooled
        match_ids = batch.match_ids.to(texts.device)
        parts: dict[str, Tensor] = {}
        temperature = self.current_temperature()
        metrics = {"temperature": temperature.detach().clone()}
        if config.contrast_weight:
            found = self.contrast(seen.parts, texts, match_ids, world)
            parts["vtc"], metrics["vtc_accuracy"] = config.contrast_weight * found[0], found[1]
        if self.itm is not None:
            passes = self.draw_passes(seen.parts, texts, match_ids, context.draws)
            logits, labels = self.match(visual, ids, mask, passes)
            parts["vtm"] = config.matching_weight * itm_loss(logits, labels, world)
            metrics["vtm_accuracy"] = itm_accuracy(logits, labels, world)
        if self.caption is not None:
            parts["caption"] = config.caption_weight * self.write(seen, ids, mask, world)
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def contrast(
        self, parts: Tensor, texts: Tensor, match_ids: Tensor, world: World
    ) -> tuple[Tensor, Tensor]:
        """Return the contrastive loss and its accuracy of clips [B, Q, E] and texts [B, E]."""
        join = Joiner(world, len(texts), texts.device)
        how, temperature = self.model.config.aggregate, self.temperature
        # The mean of cosines is the cosine of the mean: less to send around.
        sent = parts.mean(1, keepdim=True) if how == "mean" else parts
        v2t = query_similarity(sent, join(texts), how) / temperature
        t2v = query_similarity(join(sent), texts, how).t() / temperature
        return query_contrast(v2t, t2v, matches(match_ids, join(match_ids)), world)

    @torch.no_grad()
    def draw_passes(self, parts: Tensor, texts: Tensor, match_ids: Tensor, draws: Draws) -> list[Pairs]:
        """Draw a wrong clip for each text and a wrong text for each clip of this rank."""
        logits = query_similarity(parts, texts, self.model.config.aggregate) / self.temperature
        floor = self.config.negative_floor
        negatives = draw_negatives(logits, matches(match_ids, match_ids), draws, floor=floor)
        own = torch.arange(len(texts), device=texts.device)
        return matching_passes(own, own, negatives)

    def match(self, visual: Tensor, ids: Tensor, mask: Tensor, passes: list[Pairs]) -> tuple[Tensor, Tensor]:
        """Return logits [K, 2] and labels [K] of pairs, read in one pass."""
        assert self.itm is not None
        images, texts, labels = (
            torch.cat([getattr(pairs, name) for pairs in passes]) for name in ("images", "texts", "labels")
        )
        fused = self.model.fuse(visual[images], ids[texts], mask[texts])
        return self.itm(self.pair_features(fused)), labels

    def pair_features(self, fused: Fused) -> Tensor:
        """Return what the matching head reads of pairs, [K, D or 2 D]."""
        if self.config.pair == "queries":
            return fused.pooled
        first = fused.text[:, 0]
        if self.config.pair == "add":
            return fused.pooled + first
        return torch.cat([fused.pooled, first], 1)

    def write(self, seen: Queried, ids: Tensor, mask: Tensor, world: World) -> Tensor:
        """Return the loss of captions [B, L], written behind what the queries saw."""
        assert self.caption is not None
        states = self.model.caption_states(seen.keys, ids, mask)
        logits = self.caption(states, self.model.words())
        return caption_loss(logits, ids, mask, self.config.caption_smoothing, world)

    def picture_features(self, encoded: Encoded) -> Tensor:
        """Return the mean [B, E] of the queries' features, or all of them [B, Q, E] where the best counts."""
        assert encoded.parts is not None
        return encoded.parts.mean(1) if self.model.config.aggregate == "mean" else encoded.parts

    def text_features(self, encoded: Encoded) -> Tensor:
        """Return unit vectors [B, E]."""
        return encoded.pooled

    def pair_scores(self, fused: Fused, similarity: Tensor) -> Tensor:
        """Return the log-odds of matching [K]."""
        assert self.itm is not None
        logits = self.itm(self.pair_features(fused)).cpu()
        scores: Tensor = logits[:, 1] - logits[:, 0]
        return scores

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Rank clips and texts of a split both ways."""
        return evaluate_retrieval(self, data, progress)

"""Retrieval on two levels, as published for SNP-S3: features of clips and texts, and pairs read together.

For any system that encodes both modalities and fuses them; one whose features are not in one space already
(`VisionLanguageModel.aligned`) gets a contrastive head.

Legend: B pictures or clips of this rank (text i belongs to picture i), N of all ranks, n parts of a picture
(clips of a video), P image tokens, L text tokens, K pairs, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diptych.blocks.collective import Joiner, World
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead
from diptych.objectives.milnce import diagonal_ranks, mil_nce, video_scores
from diptych.objectives.pair_scores import PairScorer, hard_weights, mine_hard
from diptych.systems.protocol import Encoded, Fused, VisionLanguageModel, tokens_of
from diptych.systems.snps3.heads import Momentum, clip_scores
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, TaskConfig
from diptych.tasks.fused import embed_pictures, normal_pictures, visible_text
from diptych.tasks.retrieval_base import RankingTask
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig
from diptych.tasks.retrieval_ranking import evaluate_retrieval

CHUNK = 5
"""Texts that are read together with all pictures at a time."""
RULES = {"nearest": "nearliest", "top": "top_k"}


@dataclass(frozen=True)
class Seen:
    """A batch as both levels take it."""

    visual: Tensor
    """[B, P, D] embedded pictures."""
    parts: Tensor
    """[B, n, D] unit vectors."""
    texts: Tensor
    """[B, D] unit vectors."""
    ids: Tensor
    """[B, L]"""
    mask: Tensor
    """[B, L] bool"""
    routing: list[Tensor] = field(default_factory=list)
    """Balance losses of experts, which reading pairs adds to."""


class RetrievalLevelsTask(RankingTask):
    """Losses of both levels, and evaluation of both."""

    name: ClassVar[str] = "retrieval_levels"
    config_class: ClassVar[type[TaskConfig]] = RetrievalLevelsConfig
    rankings: ClassVar[tuple[str, str]] = ("level1", "level2")
    config: RetrievalLevelsConfig

    def __init__(
        self, model: VisionLanguageModel, config: RetrievalLevelsConfig, tokenizer: Tokenizer
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.itc = None if model.aligned else ContrastiveHead(model.width)
        self.match = PairScorer(model.width, config.dropout) if config.level2 else None
        self.moco: Momentum | None = None
        if config.level1 == "queue":
            if not isinstance(model, SnpS3Model):
                raise UsageError(
                    "task.level1 = queue: momentum copies are there for system snps3 only, the model is a "
                    f"{type(model).__name__}; set task.level1=batch"
                )
            self.moco = Momentum(model, config.queue, config.momentum, config.temperature, config.queue_wrap)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return both encoders, and `fuse` for the second level."""
        both = frozenset({"encode_visual", "encode_text"})
        return both | {"fuse"} if isinstance(config, RetrievalLevelsConfig) and config.level2 else both

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def reads_pairs(self) -> bool:
        """Whether it has the second level."""
        return self.match is not None

    def picture_features(self, encoded: Encoded) -> Tensor:
        """Return unit vectors [B, n, D] of encoded pictures."""
        if self.itc is not None:
            return self.itc.project_visual(encoded.pooled)[:, None]
        assert encoded.parts is not None  # aligned models give them
        return encoded.parts

    def text_features(self, encoded: Encoded) -> Tensor:
        """Return unit vectors [B, D] of encoded texts."""
        return encoded.pooled if self.itc is None else self.itc.project_text(encoded.pooled)

    def pair_scores(self, fused: Fused, similarity: Tensor) -> Tensor:
        """Score pairs [K] by the head; what their features say does not matter."""
        assert self.match is not None
        scores: Tensor = self.match(fused.pooled)
        return scores.cpu()

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the sum of both levels; parts `level1`, `level2`, `routing`.

        Metrics `level1_r1` and `level2_r1`: the share of texts whose own picture scores best in the batch.
        Features are compared over all ranks; pairs are read within a rank, unless hard ones are mined.
        """
        seen = self.see(batch)
        parts, scores = self.losses(seen, Joiner(context.world, len(batch), seen.texts.device))
        if self.moco is not None:
            parts["level1"] = self._against_queue(self.moco, batch, seen, first=context.step == 0)
        metrics = {f"{name}_r1": _own_first(matrix) for name, matrix in scores.items()}
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def losses(self, seen: Seen, join: Joiner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses that need nothing but the batch, and the scores of each level (text, picture)."""
        scores = clip_scores(join(seen.texts), join(seen.parts))  # [N, N, n]
        found, parts = {"level1": video_scores(scores).detach()}, {}
        if self.config.level1 == "batch":
            parts["level1"] = mil_nce(scores / self.config.batch_temperature, _own(join, scores))
        if self.match is not None:
            pairs = self.second_level(seen, found["level1"], join)
            own = found["level1"][join.own, join.own]
            weights = hard_weights(own) if self.config.hard_weights else None
            loss = mil_nce(pairs[..., None], weights)
            parts["level2"] = join.world.mean(loss * len(pairs), len(pairs))
            found["level2"] = pairs.detach()
        if seen.routing:
            parts["routing"] = self.config.gate_weight * torch.stack(seen.routing).mean()
        return parts, found

    def see(self, batch: Batch) -> Seen:
        """Encode the pictures [B, 3, H, W] or clips [B, N, 3, H, W] of a batch, and its texts [B, L]."""
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        blind = self.config.blind
        ids, mask = visible_text(batch.text_ids, batch.text_mask, self.tokenizer, blind)
        visual = embed_pictures(self.model, batch.images, blind, batch.image_sizes)
        pictures, texts = self.model.encode_visual(visual), self.model.encode_text(ids, mask)
        routing = [encoded.aux["routing"] for encoded in (pictures, texts) if "routing" in encoded.aux]
        features = self.picture_features(pictures), self.text_features(texts)
        return Seen(tokens_of(visual), *features, ids, mask, routing)

    def _against_queue(self, moco: Momentum, batch: Batch, seen: Seen, *, first: bool) -> Tensor:
        """Compare features with those that momentum copies made of earlier batches."""
        assert isinstance(self.model, SnpS3Model)
        assert batch.images is not None
        if first:
            # By now the encoders are what training starts from.
            moco.start(self.model)
        pixels = normal_pictures(self.model, batch.images, self.config.blind, batch.image_sizes)
        padding = None if batch.image_sizes is None else self.model.padded(pixels, batch.image_sizes)
        loss: Tensor = moco(self.model, (pixels, padding, 0), (seen.ids, seen.mask), seen.texts, seen.parts)
        return loss

    def second_level(self, seen: Seen, first: Tensor, join: Joiner) -> Tensor:
        """Read texts with pictures, [B, B] float32; the i-th score of row i is that of the right pair.

        Args:
            seen: the batch.
            first: [N, N] scores of the first level (text, picture), for `hard`.
            join: of the ranks.
        """
        B = len(seen.ids)
        if self.config.hard == "none":
            columns = torch.arange(B, device=first.device).expand(B, B)
            return self.read_pairs(seen, seen.visual, columns)
        rule = RULES[self.config.hard]
        columns = mine_hard(first[join.own], rule, join.start)  # type: ignore[arg-type]
        return self.read_pairs(seen, join(seen.visual), columns)

    def read_pairs(self, seen: Seen, visual: Tensor, columns: Tensor) -> Tensor:
        """Read each text with some of the pictures [., P, D]: columns [B, k] -> scores [B, k] float32."""
        assert self.match is not None
        rows = []
        for start in range(0, len(columns), CHUNK):
            chosen = columns[start : start + CHUNK]
            text = torch.arange(start, start + len(chosen), device=chosen.device)
            text = text.repeat_interleave(chosen.shape[1])
            fused = self.model.fuse(visual[chosen.flatten()], seen.ids[text], seen.mask[text])
            if "routing" in fused.aux:
                seen.routing.append(fused.aux["routing"])
            rows.append(self.match(fused.pooled).view(chosen.shape))
        return torch.cat(rows)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Rank by both levels, both ways."""
        return evaluate_retrieval(self, data, progress)


def _own(join: Joiner, scores: Tensor) -> Tensor | None:
    """Return weights [N] that leave this rank's samples of a mean over all, as its share of it."""
    world: World = join.world
    if world.size == 1:
        return None
    weights = scores.new_zeros(len(scores))
    weights[join.own] = world.size
    return weights


def _own_first(scores: Tensor) -> Tensor:
    """Return the share of rows [B, B] whose own column is the best."""
    return (diagonal_ranks(scores) == 0).float().mean()

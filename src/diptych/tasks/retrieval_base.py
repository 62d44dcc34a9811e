"""What the evaluation of retrieval asks of a task that has features for each side.

Legend: B pictures (or clips) or texts, n parts of a picture, P image tokens, L text tokens, K pairs, D width.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from diptych.systems.protocol import Encoded, Fused, tokens_of
from diptych.systems.task import Task, TaskConfig
from diptych.tasks.fused import embed_pictures

DUAL = (
    "Also rank by the product of two softmaxes: over the answers of each query, and over the queries that "
    "each answer might belong to. This factor (1 / temperature) is on {what}; 0: off. It looks at all "
    "queries of the split at once, so it is never the headline."
)
"""Description of `dual_softmax`."""


class RankingConfig(TaskConfig):
    """Settings of an evaluation that ranks by features and reads the best candidates again."""

    k_test: int = Field(
        16, ge=0, description="Candidates of each query that are read together with it; 0: all answers."
    )
    k_texts: int = Field(0, ge=0, description="Ours: candidate texts of a picture; 0: `k_test`.")
    k_images: int = Field(0, ge=0, description="Ours: candidate pictures of a text; 0: `k_test`.")
    pair_batch: int = Field(
        256,
        ge=1,
        description="Pairs scored at once (with `rerank_batching: pairs`, where there is that choice); a CPU "
        "takes fewer than this if they have more than 4096 tokens.",
    )
    text_batch: int = Field(256, ge=1, description="Texts encoded at once in evaluation.")
    eval_texts: Literal["distinct", "each"] = Field(
        "distinct",
        description="distinct: equal captions are one text, right for all their pictures; each (published): "
        "every caption is a text of its own.",
    )
    dual_softmax: float = Field(
        0.0,
        ge=0,
        description=DUAL.format(
            what="similarities; scores of pairs that were read together stay as they are"
        ),
    )
    embedding_memory_mb: int = Field(
        2048, ge=0, description="Embedded pictures kept for re-ranking; if they need more, pixels are kept."
    )
    blind: Literal["none", "image", "text"] = Field(
        "none",
        description="A control that sees no picture (image) or no text (text), in training and evaluation.",
    )


class RankingTask(Task):
    """A task with a feature for each picture and text, and perhaps a head for pairs read together."""

    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    rankings: ClassVar[tuple[str, str]] = ("contrastive", "reranked")
    """What `metrics.json` calls the ranking by features, and the one by pairs read together."""
    parts_by: ClassVar[Literal["exponentials", "best"]] = "exponentials"
    """How scores of a picture's parts are joined: the logarithm of their summed exponentials, or the best."""
    config: RankingConfig

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def reads_pairs(self) -> bool:
        """Whether it has a head for pairs."""

    @property
    def published_batches(self) -> bool:
        """Whether batches are composed as in the original: scores of experts that drop depend on them."""
        return False

    @abstractmethod
    def picture_features(self, encoded: Encoded) -> Tensor:
        """Return unit vectors of encoded pictures [B, D], or of their parts [B, n, D]."""

    @abstractmethod
    def text_features(self, encoded: Encoded) -> Tensor:
        """Return unit vectors of encoded texts [B, D]."""

    @abstractmethod
    def pair_scores(self, fused: Fused, similarity: Tensor) -> Tensor:
        """Score pairs that were read together, [K] float32 on the CPU.

        Args:
            fused: the pairs.
            similarity: [K] float32 on the CPU: what their features say.
        """

    def embed(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise pictures (uint8, or float in 0..1) and embed them once for all passes.

        Args:
            images: [B, 3, H, W], or clips [B, N, 3, H, W].
            sizes: `Batch.image_sizes`.
        """
        return tokens_of(embed_pictures(self.model, images, self.config.blind, sizes))

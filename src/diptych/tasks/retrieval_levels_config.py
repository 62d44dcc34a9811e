"""Settings of retrieval on two levels."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.queue import Wrap
from diptych.tasks.retrieval_base import RankingConfig


class RetrievalLevelsConfig(RankingConfig):
    """Retrieval by features, and by reading every pair, as published for SNP-S3."""

    name: Literal["retrieval_levels"] = "retrieval_levels"
    level1: Literal["batch", "queue", "none"] = Field(
        "batch",
        description="The loss of features. batch: MIL-NCE over the clips and texts of the batch; queue: each "
        "against those of earlier batches, by momentum copies (published; system `snps3`).",
    )
    batch_temperature: float = Field(
        1.0, gt=0, description="What cosines are divided by with `level1: batch` (published: 1)."
    )
    queue: int = Field(16384, ge=1, description="Places of each queue, with `level1: queue`.")
    queue_wrap: Wrap = Field(
        "ring",
        description="A batch that reaches beyond the end of a queue goes on at the front; or, `published`, "
        "it is put into the last places.",
    )
    momentum: float = Field(0.9999, ge=0, le=1, description="How slowly the copies follow.")
    temperature: float = Field(0.05, gt=0, description="What cosines with queues are divided by.")
    level2: bool = Field(True, description="The loss of pairs: every text of a rank with every picture.")
    hard: Literal["none", "nearest", "top"] = Field(
        "none",
        description="Pictures that a text is read with: all of the rank's, or as many of all ranks, by how "
        "near their features are to those of the text's own (published: `nearliest`), or the nearest to the "
        "text (`top_k`).",
    )
    hard_weights: bool = Field(
        False,
        description="Pairs that their features tell easily count less in `level2` (published: `median`).",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head of pairs.")
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    k_test: int = Field(
        0, ge=0, description="Candidates of each query that are read together with it; 0: all answers."
    )
    eval_texts: Literal["distinct", "each"] = Field(
        "distinct",
        description="distinct: equal captions are one text, right for all their pictures; each (published): "
        "every caption is a text of its own.",
    )

    @model_validator(mode="after")
    def _a_loss(self) -> Self:
        if self.level1 == "none" and not self.level2:
            raise ValueError("level1 = none and level2 = false leave no loss; switch one of them on")
        if not self.level2 and (self.hard != "none" or self.hard_weights):
            raise ValueError("hard and hard_weights choose pairs of level2; set level2 = true")
        return self

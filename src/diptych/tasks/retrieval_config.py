"""Settings of the retrieval task."""

from typing import Literal

from pydantic import Field, model_validator

from diptych.blocks.init import Init
from diptych.tasks.retrieval_base import RankingConfig


class RetrievalConfig(RankingConfig):
    """Retrieval as published for EVE; options marked "ours" help at small sizes and are off by default."""

    name: Literal["retrieval"] = "retrieval"
    itc_dim: int = Field(0, ge=0, description="Width of the common space; 0: the model's width.")
    itc_init: Init = Field(
        "published", description="Start of the contrastive projections: normal 0.02, or by fan-in (ours)."
    )
    itc_chunk: int = Field(
        512,
        ge=0,
        description="Ours: pictures whose similarities to all texts are held at once in contrastive losses; "
        "the loss is the same, with less memory for large batches; 0: all.",
    )
    temperature: float = Field(
        0.07, gt=0, description="Initial temperature of the contrastive loss (learned)."
    )
    temperature_bounds: tuple[float, float] = Field((0.001, 0.5), description="Limits of the temperature.")
    soft_labels: bool = Field(
        True,
        description="Samples of equal match id match each other's texts; false: one text for one picture.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Ours: share of the contrastive target spread over all candidates."
    )
    distinct_texts: bool = Field(
        False, description="Ours: texts that a batch holds several times are encoded once and share matches."
    )
    image_contrast: float = Field(
        0.0, ge=0, description="Ours: weight of a contrastive loss among pictures of equal match id."
    )
    image_contrast_temperature: float = Field(
        0.05, gt=0, description="Lowest temperature of that loss; the learned one is used where it is higher."
    )
    matching: bool = Field(True, description="Train the matching head and re-rank with it (needs `fuse`).")
    itm_weight: float = Field(1.0, ge=0, description="Weight of the matching loss.")
    itm_batch: int = Field(
        0,
        ge=0,
        description="Ours: matching on this many samples of the batch (of all ranks), drawn at random; "
        "0: all.",
    )
    itm_from: float = Field(
        0.0, ge=0, le=1, description="Ours: share of the training after which matching is trained."
    )
    itm_passes: Literal["separate", "joint"] = Field(
        "separate",
        description="Matching, wrong-picture and wrong-text pairs as three passes (published) or as one; the "
        "matching loss is the same unless experts drop tokens.",
    )
    itm_negative_floor: float = Field(
        1e-5,
        ge=0,
        description="Added to each candidate's probability when negatives are drawn; 0 (ours): no floor.",
    )
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    rerank_score: Literal["itm", "log_odds", "sum"] = Field(
        "itm",
        description="Score of a candidate: the matching logit (published), its log-odds, or (ours) "
        "similarity over temperature plus `rerank_weight` times the log-odds.",
    )
    rerank_weight: float = Field(1.0, gt=0, description="Weight of the log-odds in `rerank_score: sum`.")
    rerank_batching: Literal["pairs", "queries"] = Field(
        "pairs",
        description="pairs: each candidate pair is scored once for both directions; queries (published): a "
        "query with its candidates is one batch, which matters only if experts drop tokens.",
    )
    eval_final_norm: bool = Field(
        True, description="Evaluate on normalised tokens as trained; false: the published evaluation of EVE."
    )

    @model_validator(mode="after")
    def _temperature_in_bounds(self) -> "RetrievalConfig":
        low, high = self.temperature_bounds
        if not 0 < low <= self.temperature <= high:
            raise ValueError(
                f"temperature: expected a value within temperature_bounds ({low} to {high}, above 0), "
                f"got {self.temperature}"
            )
        return self

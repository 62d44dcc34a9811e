"""Settings of the alignment of a Q-Former with texts."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.tasks.retrieval_base import RankingConfig


class QFormerAlignConfig(RankingConfig):
    """Contrast, matching on hard negatives and captions: VideoChat2's stage 1. The defaults are published."""

    name: Literal["qformer_align"] = "qformer_align"
    k_test: int = Field(
        128, ge=0, description="Candidates of each query that are read together with it; 0: all answers."
    )
    temperature: float = Field(0.07, gt=0, description="Start of the learned temperature.")
    temperature_bounds: tuple[float, float] = Field(
        (0.001, 0.5), description="What the temperature is kept within."
    )
    contrast_weight: float = Field(1.0, ge=0, description="Weight of the contrast (VTC); 0: off.")
    matching_weight: float = Field(1.0, ge=0, description="Weight of matching (VTM); 0: off.")
    caption_weight: float = Field(1.0, ge=0, description="Weight of captions (VTG); 0: off.")
    caption_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of a caption's target words that is spread over all words."
    )
    pair: Literal["concat", "add", "queries"] = Field(
        "concat",
        description="What matching reads: the mean of the queries and the first word beside each other "
        "(published), added, or the queries alone.",
    )
    negative_floor: float = Field(
        1e-4,
        ge=0,
        description="Added to every candidate's probability to be drawn as a wrong clip or text. They come "
        "from the batch of a rank.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.contrast_weight or self.matching_weight or self.caption_weight):
            raise ValueError("every weight is 0: nothing is left to train; raise one of them")
        low, high = self.temperature_bounds
        if not 0 < low <= self.temperature <= high:
            raise ValueError(f"temperature {self.temperature}: expected within its bounds {low} to {high}")
        return self

"""Settings of SOHO's pre-training."""

from typing import Literal

from pydantic import Field

from diptych.systems.task import TaskConfig


class SohoPretrainConfig(TaskConfig):
    """Masked words, masked visual words and matching, on the same rows."""

    name: Literal["soho_pretrain"] = "soho_pretrain"
    text_mask_ratio: float = Field(0.15, ge=0, le=1, description="Chance of a word to be hidden.")
    visual_mask_ratio: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Chance of a row (a picture with one text) to have one of its visual words hidden, at "
        "all its places. The released configuration has 0.015, the paper speaks of 15 %.",
    )
    visual_mask: Literal["per_picture", "published"] = Field(
        "per_picture",
        description="Where the visual word to hide is taken from: a place of each picture (ours), or one "
        "place for the whole batch, which may be padding in some pictures.",
    )
    wrong_text: float = Field(
        0.5, ge=0, le=1, description="Chance of a text to be replaced by one of another picture."
    )
    mlm_weight: float = Field(1.0, ge=0, description="Weight of the hidden-words loss.")
    mvm_weight: float = Field(1.0, ge=0, description="Weight of the hidden-visual-words loss.")
    itm_weight: float = Field(1.0, ge=0, description="Weight of the matching loss.")

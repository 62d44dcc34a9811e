"""Settings of multiple choice."""

from typing import Literal

from pydantic import Field

from diptych.systems.task import TaskConfig


class MultipleChoiceConfig(TaskConfig):
    """Which of a few texts belongs to a picture or clip?"""

    name: Literal["multiple_choice"] = "multiple_choice"
    scores: Literal["joint", "features"] = Field(
        "joint",
        description="What options are compared by. joint: each is read together with the picture (needs "
        "`fuse`); features: each is encoded alone, as in retrieval (needs both encoders).",
    )
    head: Literal["scorer", "matching"] = Field(
        "scorer",
        description="With `scores: joint`. scorer: one number a pair (published for SNP-S3, the head of "
        "`retrieval_levels`); matching: log-odds of the head of `retrieval` and `retrieval_matching`.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head `scorer`.")
    temperature: float = Field(
        0.05,
        gt=0,
        description="What cosines are divided by in the loss with `scores: features`, where no contrastive "
        "head has learned it.",
    )
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    share_pictures: bool = Field(
        False,
        description="Ours: embed a picture that several rows of a batch show once; with "
        "`data.loader.group_size` rows about one picture share a batch.",
    )
    blind: Literal["none", "image"] = Field(
        "none",
        description="A control that sees no picture. (Without texts all options look alike: a guess.)",
    )

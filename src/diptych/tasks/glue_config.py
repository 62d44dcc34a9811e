"""Settings of GLUE."""

from typing import Literal

from pydantic import Field

from diptych.systems.task import TaskConfig


class GlueConfig(TaskConfig):
    """A task of GLUE, or one in its shape: a sentence or two, and one word of a few for a slot."""

    name: Literal["glue"] = "glue"
    task: str = Field(
        "auto",
        description="Which task (`cola`, `mnli`, ...), for the prompt, the words and the figures; `auto`: "
        "that of the training data.",
    )
    limit: int = Field(256, ge=8, description="Tokens of a sequence at most; longer sentences are cut.")
    published: bool = Field(
        False,
        description="Cut single sentences that are too long as published, which may lose the slot; ours "
        "shortens the sentence.",
    )
    temperature: str = Field("text_mlm", description="Name of the factor on cosines.")
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of the target spread over all words (of classes, not of scores)."
    )
    weight: float = Field(1.0, gt=0, description="Factor on the loss.")

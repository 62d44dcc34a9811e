"""Settings of reasoning over two pictures."""

from typing import Literal

from pydantic import Field

from diptych.systems.task import TaskConfig


class NlvrConfig(TaskConfig):
    """Is a statement about two pictures true? As published for EVE."""

    name: Literal["nlvr"] = "nlvr"
    interaction: Literal["biattn", "plain"] = Field(
        "biattn",
        description="biattn: each picture's tokens attend to the other's before they are pooled (as for the "
        "published figures); plain: the first text tokens of both are classified.",
    )
    heads: int = Field(0, ge=0, description="Attention heads of `biattn`; 0: as many as the model has.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of `biattn`.")
    passes: Literal["separate", "joint"] = Field(
        "separate",
        description="Both pictures as two passes (published) or as one; the same unless experts drop tokens.",
    )
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    blind: Literal["none", "image", "text"] = Field(
        "none", description="A control that sees no pictures (image) or no statement (text)."
    )

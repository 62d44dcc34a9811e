"""Settings of captioning."""

from typing import Literal

from pydantic import Field

from diptych.systems.protocol import Writing
from diptych.systems.task import TaskConfig


class CaptioningConfig(TaskConfig):
    """Writing captions of pictures and clips, word by word."""

    name: Literal["captioning"] = "captioning"
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the target spread over all words (published: 0.1 in fine-tuning).",
    )
    weight: float = Field(1.0, gt=0, description="Factor on the loss.")
    temperature: str = Field(
        "caption", description="Name of the factor on cosines, where models have several."
    )
    beams: int = Field(2, ge=1, description="Captions of each picture that the beam search follows.")
    steps: int = Field(21, ge=1, description="Tokens of a caption at most, its end token included.")
    penalty: float = Field(
        0.0,
        ge=0,
        description="Scores of captions are divided by (tokens before the end + 1) to this power; published: "
        "2 without fine-tuning, else 0.",
    )
    cache: Literal["keys", "inputs", "none"] = Field(
        "keys",
        description="What the search remembers: keys and values, inputs of layers (published), or nothing. "
        "The captions are the same.",
    )
    image_id: str = Field(
        "coco_id",
        description="Fact of samples that names their picture in the file for test servers; samples where it "
        "is the same show one picture. The key where there is none.",
    )
    meteor: bool = Field(True, description="Compute METEOR where there is what it takes; it runs Java.")
    blind: Literal["none", "image"] = Field("none", description="`image`: a control that sees no picture.")

    def writing(self) -> Writing:
        """Return how captions are written."""
        return Writing(self.beams, self.steps, self.penalty, self.temperature, self.cache)

"""Configuration of the Q-Former system."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.qformer import QFormerConfig
from diptych.blocks.video_vit import VideoVitConfig
from diptych.systems.protocol import SystemConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""What frames are normalised with in training, of values in 0..1."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""What the published demo and MVBench code normalise with."""


class QFormerSystemConfig(SystemConfig):
    """Model sizes and options. The defaults are VideoChat2's stage 1."""

    name: Literal["qformer"] = "qformer"
    image_size: int = Field(224, ge=1, description="Side of the frames in pixels; a multiple of the patch.")
    frames: int = Field(4, ge=1, description="Frames of a clip, each with a learned temporal embedding.")
    normalise: Literal["imagenet", "clip"] = Field(
        "imagenet",
        description="Means and spreads of colours. The published training uses ImageNet's; its demo and its "
        "MVBench code read the same weights with CLIP's.",
    )
    stills: Literal["one", "published"] = Field(
        "one",
        description="What a single picture becomes: the tokens of one frame, with the first temporal "
        "embedding; or, `published`, those of `frames` equal frames, each with another embedding.",
    )
    video: VideoVitConfig = Field(VideoVitConfig(), description="What sees the frames.")
    qformer: QFormerConfig = Field(
        QFormerConfig(extra_queries=0), description="What reads them, and the texts."
    )
    embed_dim: int = Field(768, ge=1, description="Width of the features that clips and texts share.")
    aggregate: Literal["mean", "max"] = Field(
        "mean",
        description="How alike clip and text are: the mean over the queries of their cosines with the text "
        "(published), or the best (BLIP-2).",
    )

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.image_size % self.video.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of video.patch_size {self.video.patch_size}"
            )
        if not self.qformer.text:
            raise ValueError("qformer.text = false: expected true, since clips are aligned with texts here")
        if self.qformer.extra_queries:
            raise ValueError(
                f"qformer.extra_queries = {self.qformer.extra_queries}: expected 0; later stages add them"
            )
        return self

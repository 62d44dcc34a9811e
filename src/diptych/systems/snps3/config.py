"""Configuration of SNP-S3."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.pvt import PvtConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.blocks.video_swin import VideoSwinConfig
from diptych.systems.protocol import SystemConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""What frames are normalised with, of values in 0..1."""


class SnpS3Config(SystemConfig):
    """Model sizes and options. The defaults are the published ones with Video Swin."""

    name: Literal["snps3"] = "snps3"
    image_size: int = Field(224, ge=32, description="Side of the frames in pixels.")
    sizes: Literal["square", "any"] = Field(
        "square",
        description="`any`: frames keep their shape, padded to a common one (`data.image.resize=fit`), "
        "as published for PVT and ResNet.",
    )
    mask: Literal["exact", "published"] = Field(
        "exact",
        description="`sizes=any`: which cells of the map count as padding: all outside of the picture; or, "
        "`published`, only those beyond it in both directions, so that what is narrower alone has padding "
        "averaged in.",
    )
    frames: int = Field(4, ge=1, description="Frames of a clip, each a token of the joint encoder.")
    encoder: Literal["swin", "pvt", "resnet"] = Field(
        "swin",
        description="What sees the frames: Video Swin (all together), PVT v2 or a ResNet (one by one).",
    )
    swin: VideoSwinConfig = Field(VideoSwinConfig(), description="With `encoder: swin`.")
    pvt: PvtConfig = Field(PvtConfig(), description="With `encoder: pvt`.")
    resnet: ResNetConfig = Field(ResNetConfig(depth=50, norm="frozen"), description="With `encoder: resnet`.")
    width: int = Field(768, ge=1, description="Width of the text network, and of clip tokens.")
    layers: int = Field(12, ge=1, description="Layers of the text network.")
    heads: int = Field(12, ge=1, description="Its attention heads; the width must be a multiple.")
    hidden: int = Field(3072, ge=1, description="Hidden width of its feed-forward networks.")
    vocab_size: int = Field(30522, ge=5, description="Rows of the word table.")
    max_text_tokens: int = Field(512, ge=2, description="Rows of the position table.")
    separator: int = Field(
        102, ge=0, description="Id of the word that ends the clip tokens (BERT's end token)."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embeddings and sublayers.")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of attention weights.")
    init_std: float = Field(
        0.02,
        gt=0,
        description="Spread of fresh weights of the text network and its tables. 0.02 is BERT's, for a width "
        "of 768; narrow models start better with more (about 1 over the root of the width).",
    )

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.separator >= self.vocab_size:
            raise ValueError(f"separator {self.separator} is no row of {self.vocab_size} words")
        return self

"""Configuration of the two-tower baseline."""

from typing import Literal

from pydantic import Field, model_validator

from diptych.blocks.activations import Activation
from diptych.blocks.init import Init
from diptych.blocks.stem import ConvStemConfig, check_size
from diptych.systems.protocol import SystemConfig


class TwoTowerConfig(SystemConfig):
    """Two plain pre-norm transformers. The defaults are towers of the size of EVE base."""

    name: Literal["two_tower"] = "two_tower"
    image_size: int = Field(224, ge=1, description="Side of the pictures in pixels.")
    stem: Literal["patch", "conv"] = Field("patch", description="One projection a patch, or `conv`.")
    patch_size: int = Field(16, ge=1, description="Side of a patch in pixels (stem patch).")
    conv: ConvStemConfig = Field(ConvStemConfig(), description="The convolutional stem (stem conv).")
    class_mean: bool = Field(False, description="Add the mean of the image tokens to the class token.")
    width: int = Field(768, ge=1, description="Width of the token vectors.")
    image_layers: int = Field(12, ge=0, description="Layers of the picture tower.")
    text_layers: int = Field(12, ge=0, description="Layers of the text tower.")
    heads: int = Field(12, ge=1, description="Attention heads; they divide the width.")
    hidden: int = Field(3072, ge=1, description="Hidden width of the feed-forward networks.")
    activation: Activation = Field("gelu", description="Activation of the feed-forward networks.")
    vocab_size: int = Field(64000, ge=1, description="Rows of the word table; at least the tokenizer's size.")
    max_text_tokens: int = Field(40, ge=1, description="Rows of the text position table.")
    class_sum: bool = Field(
        False, description="Add the scaled sum of the word vectors to the first text token."
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="Stochastic depth of the last layers.")
    text_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the word embeddings.")
    layer_scale: float = Field(0.1, description="Initial value of the layer scales.")
    init: Init = Field("published", description="Start of matrices: normal 0.02, or by fan-in.")
    word_std: float = Field(0.02, gt=0, description="Standard deviation of fresh word embeddings.")

    @model_validator(mode="after")
    def _consistent(self) -> "TwoTowerConfig":
        check_size(self.stem, self.image_size, self.patch_size, self.conv)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

"""Configuration of SOHO."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.systems.protocol import SystemConfig

MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""What pictures are normalised with, of values in 0..1."""


class SohoConfig(SystemConfig):
    """Model sizes and options. The defaults are the published ResNet-18 with three layers."""

    name: Literal["soho"] = "soho"
    backbone: ResNetConfig = Field(ResNetConfig(), description="The CNN that sees the picture.")
    width: int = Field(768, ge=4, description="Width of the transformer.")
    layers: int = Field(3, ge=1, description="Transformer layers.")
    heads: int = Field(12, ge=1, description="Attention heads; the width must be a multiple.")
    hidden: int = Field(3072, ge=1, description="Hidden width of the feed-forward networks.")
    vocab_size: int = Field(30522, ge=5, description="Rows of the word table.")
    max_text_tokens: int = Field(512, ge=2, description="Rows of the text position table.")
    token_types: int = Field(2, ge=1, description="Rows of the token type table; only the first is used.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embeddings and sublayers.")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of attention weights.")
    init_std: float = Field(
        0.02,
        gt=0,
        description="Spread of fresh weights of the transformer and its tables. 0.02 is BERT's, for a width "
        "of 768; narrow models start better with more (about 1 over the root of the width).",
    )
    neck: Literal["plain", "gated", "added"] = Field(
        "plain",
        description="`plain`: no dictionary (fine-tuning). `gated`: features and their dictionary entries, "
        "weighted by a gate (published pre-training). `added`: their sum.",
    )
    pool: bool = Field(
        True,
        description="Pool 2 x 2 cells of the CNN's map into a token (published: 64 pixels a side); false "
        "(ours): a token a cell.",
    )
    dictionary: DictionaryConfig = Field(DictionaryConfig(), description="The visual dictionary.")
    align_before: bool = Field(False, description="A linear layer before the dictionary.")
    align: bool = Field(True, description="A linear layer behind the dictionary.")
    mask: Literal["published", "exact"] = Field(
        "published",
        description="Which image tokens count as picture in a padded batch. `published`: columns are "
        "measured by the height of the batch too, so that portraits lose their right part and padding of "
        "landscapes counts; released weights expect it. `exact`: cells that begin inside the picture.",
    )

    @property
    def cell(self) -> int:
        """Pixels along the side of a token."""
        return self.backbone.stride * (2 if self.pool else 1)

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 (sine and cosine of two directions)")
        return self

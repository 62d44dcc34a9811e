"""Configuration of the EVE model."""

from typing import Literal

from pydantic import Field, model_validator

from diptych.blocks.activations import Activation
from diptych.blocks.init import Init
from diptych.blocks.router import RouterConfig
from diptych.blocks.stem import ConvStemConfig, check_size
from diptych.systems.protocol import SystemConfig

EPS = 1e-6
"""Epsilon of every LayerNorm of EVE."""


class EveConfig(SystemConfig):
    """EVE at any size. The defaults are the published base model at 224 pixels, router rules excepted."""

    name: Literal["eve"] = "eve"
    image_size: int = Field(224, ge=1, description="Side of the pictures in pixels.")
    stem: Literal["patch", "conv"] = Field("patch", description="patch: published. conv: ours, see `conv`.")
    patch_size: int = Field(16, ge=1, description="Side of a patch in pixels (stem patch).")
    conv: ConvStemConfig = Field(ConvStemConfig(), description="The convolutional stem (stem conv).")
    class_mean: bool = Field(False, description="Ours: add the mean of the image tokens to the class token.")
    width: int = Field(768, ge=1, description="Width of the token vectors.")
    layers: int = Field(12, ge=1, description="Transformer layers.")
    heads: int = Field(12, ge=1, description="Attention heads; they divide the width.")
    hidden: int = Field(3072, ge=1, description="Hidden width of the feed-forward networks.")
    activation: Activation = Field("quick_gelu", description="Activation of the feed-forward networks.")
    vocab_size: int = Field(64000, ge=1, description="Rows of the word table; at least the tokenizer's size.")
    max_text_tokens: int = Field(196, ge=1, description="Rows of the text position table.")
    class_sum: bool = Field(
        False, description="Ours: add the scaled sum of the word vectors to the first text token."
    )
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="Stochastic depth of the last layer; the first has 0."
    )
    text_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the word embeddings.")
    layer_scale: float = Field(0.1, description="Initial value of the layer scales.")
    init: Init = Field(
        "published", description="Start of matrices: normal 0.02, or ours for small widths, by fan-in."
    )
    word_std: float = Field(0.02, gt=0, description="Standard deviation of fresh word embeddings.")
    position_std: float = Field(
        0.02, gt=0, description="Standard deviation of fresh positions, cut at one; 1 suits short trainings."
    )
    moe_layers: tuple[int, ...] = Field(
        (10, 11), description="Upper layers, counted from 0: the ones with experts (or with `upper_ffn: vl`)."
    )
    upper_ffn: Literal["moe", "vl"] = Field(
        "moe", description="Upper layers: a mixture of experts, or one network per kind of pass (vl)."
    )
    experts: int = Field(32, ge=1, description="Experts of an upper layer.")
    expert_hidden: int = Field(0, ge=0, description="Hidden width of an expert; 0: `hidden` (published).")
    lower_ffn: Literal["separate", "shared", "moe"] = Field(
        "separate",
        description="Lower layers: one network per modality, one for both, or a mixture of experts.",
    )
    lower_experts: int = Field(2, ge=1, description="Experts of a lower layer (lower_ffn moe).")
    lower_modality: bool = Field(True, description="`router.modality` of lower mixtures.")
    lower_ignores_mode: bool = Field(
        False,
        description="Published defect: lower mixtures add the image vector to the first text tokens too.",
    )
    router: RouterConfig = Field(RouterConfig(), description="How tokens find their experts.")

    @model_validator(mode="after")
    def _consistent(self) -> "EveConfig":
        check_size(self.stem, self.image_size, self.patch_size, self.conv)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        wrong = [i for i in self.moe_layers if not 0 <= i < self.layers]
        if wrong:
            raise ValueError(f"moe_layers {wrong}: expected numbers from 0 to {self.layers - 1} (layers - 1)")
        return self

    def published(self) -> "EveConfig":
        """Return a copy whose router behaves as the published code."""
        return self.with_(router=self.router.published(), lower_ignores_mode=True)


def base(image_size: int = 224) -> EveConfig:
    """Return the published base model (475 million parameters)."""
    return EveConfig(image_size=image_size)


def large(image_size: int = 224) -> EveConfig:
    """Return the published large model (1.3 billion parameters)."""
    return EveConfig(
        image_size=image_size, width=1024, layers=24, heads=16, hidden=4096, moe_layers=(21, 22, 23)
    )

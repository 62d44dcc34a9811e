"""Configuration of Uni-Perceiver."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.stem import ConvStemConfig, check_size
from diptych.config.schema import Section
from diptych.systems.protocol import SystemConfig

ATTRIBUTES = 8
"""Bits that tell a part of a sequence from others: what experts are chosen by."""


class ConditionalConfig(Section):
    """A mixture of experts whose choice depends on what a part of a sequence is, not on what it says."""

    layers: Literal["none", "odd", "four", "all"] = Field(
        "none",
        description="Layers with experts. `odd`: the first, third, ... (published name; their indices are "
        "even). `four`: every fourth, from the first on.",
    )
    experts: int = Field(8, ge=2, description="Experts of each linear map.")
    top: int = Field(2, ge=1, description="Experts whose weights are mixed.")
    noise: float = Field(
        1.0, ge=0, description="Noise on the gate in training: its standard deviation times `experts`."
    )


class PromptConfig(Section):
    """What prompt tuning adds to a model."""

    shallow: int = Field(
        0, ge=0, description="Learned tokens behind the start token of every sequence; 0: none."
    )
    shallow_targets: int = Field(
        0, ge=0, description="Learned tokens of targets; 0: they share those of `shallow`."
    )
    deep: int = Field(0, ge=0, description="Learned keys and values of each layer; 0: none.")
    deep_targets: int = Field(
        0, ge=0, description="Learned keys and values of each layer for targets; 0: they share `deep`."
    )
    slot_bias: bool = Field(False, description="A learned vector is added to the slot token everywhere.")
    labels: int = Field(
        0, ge=0, description="Classes with a learned vector each in front of their names; 0: none."
    )
    classes: int = Field(0, ge=0, description="Classes of a linear layer beside the likelihood; 0: none.")


class UniPerceiverConfig(SystemConfig):
    """Model sizes and options. The defaults are the published base model."""

    name: Literal["uniperceiver"] = "uniperceiver"
    image_size: int = Field(224, ge=1, description="Side of pictures and frames in pixels.")
    stem: Literal["patch", "conv"] = Field("patch", description="patch: published. conv: ours, see `conv`.")
    patch_size: int = Field(16, ge=1, description="Side of a patch in pixels (stem patch).")
    conv: ConvStemConfig = Field(
        ConvStemConfig(norm="group"), description="The convolutional stem (stem conv), for tiny models."
    )
    max_frames: int = Field(8, ge=1, description="Rows of the table of frames.")
    width: int = Field(768, ge=4, description="Width of the transformer.")
    layers: int = Field(12, ge=1, description="Layers.")
    heads: int = Field(12, ge=1, description="Attention heads; the width must be a multiple.")
    hidden: int = Field(3072, ge=1, description="Hidden width of the feed-forward networks.")
    vocab_size: int = Field(49411, ge=2, description="Rows of the word table.")
    max_text_tokens: int = Field(512, ge=2, description="Rows of the text position table.")
    slot: int = Field(
        49410, ge=0, description="Id of the token that starts sequences and stands for answers."
    )
    end: int = Field(49407, ge=0, description="Id of the token that ends texts.")
    share_norm: bool = Field(True, description="Words and patches share their norm (published but for VQA).")
    visual_type: bool = Field(
        False, description="Add the type row to patches (published weights have it in the bias already)."
    )
    grid_scale: float = Field(
        1.0,
        gt=0,
        description="Factor on the coordinates of the grid's fixed table: published 160 / size, so that they "
        "are those of the first stage.",
    )
    random_frames: bool = Field(
        True, description="In training frames start at a random row of their table, pictures too (published)."
    )
    layer_scale: float = Field(1e-3, gt=0, description="Start of the scales of sublayers.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Stochastic depth, equal in all layers.")
    temperature: float = Field(0.07, gt=0, description="Start of the temperatures.")
    learn_temperatures: bool = Field(True, description="Train them (published but for VQA).")
    experts: ConditionalConfig = Field(ConditionalConfig(), description="The conditional mixture.")
    prompts: PromptConfig = Field(PromptConfig(), description="Prompt tuning.")

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 (sine and cosine of two directions)")
        check_size(self.stem, self.image_size, self.patch_size, self.conv)
        for name in ("slot", "end"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{name} {getattr(self, name)} is no row of {self.vocab_size} words")
        return self

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.image_size // (self.patch_size if self.stem == "patch" else self.conv.cell)

    def has_experts(self, layer: int) -> bool:
        """Tell whether a layer has experts."""
        step = {"none": 0, "odd": 2, "four": 4, "all": 1}[self.experts.layers]
        return step > 0 and layer % step == 0

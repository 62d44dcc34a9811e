"""From pictures to tokens: the published patch projection, and a small convolutional stem (ours).

Legend: B batch, H x W pixels, G tokens a side, N = G * G tokens (rows first), D width.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from diptych.blocks.activations import ACTIVATIONS, Activation
from diptych.blocks.batch_norm import BatchNorm
from diptych.blocks.init import Init, draw_matrix
from diptych.config.schema import Section

Norm = Literal["batch", "group", "layer", "none"]


class ConvStemConfig(Section):
    """A convolutional stem: each stage is a strided 3x3 convolution, norm, activation, residual blocks."""

    channels: tuple[int, ...] = Field((32, 64, 128, 192), description="Channels of each stage.")
    strides: tuple[int, ...] = Field(
        (2, 2, 2, 2), description="Stride of each stage; their product is one token's side."
    )
    blocks: tuple[int, ...] = Field((0, 0, 0, 0), description="Residual 3x3 blocks behind each stage.")
    norm: Norm = Field(
        "batch", description="batch, group (8 channels a group), layer (over channels) or none."
    )
    activation: Activation = Field("relu", description="Activation of the stages.")
    channels_last: bool = Field(
        True, description="Memory order of the pictures inside the stem (faster on CPUs)."
    )

    @model_validator(mode="after")
    def _stages(self) -> "ConvStemConfig":
        stages = len(self.channels)
        if not stages or len(self.strides) != stages or len(self.blocks) != stages:
            raise ValueError(
                f"channels {self.channels}, strides {self.strides} and blocks {self.blocks}: "
                "expected one entry a stage in each"
            )
        if min(self.channels) < 1 or min(self.strides) < 1 or min(self.blocks) < 0:
            raise ValueError("channels and strides must be positive, blocks not negative")
        if self.norm == "group" and any(c % 8 for c in self.channels):
            raise ValueError(f"norm group needs channels that are multiples of 8, got {self.channels}")
        return self

    @property
    def cell(self) -> int:
        """Pixels along one side of a token."""
        return math.prod(self.strides)


class PatchStem(nn.Module):
    """One linear projection per square patch (published form)."""

    def __init__(self, image_size: int, patch_size: int, width: int, init: Init) -> None:
        super().__init__()
        self.cell = patch_size
        self.overlaps = False
        self.side = image_size // patch_size
        self.projection = nn.Conv2d(3, width, patch_size, patch_size)
        draw_matrix(self.projection.weight, init, 3 * patch_size**2)
        nn.init.zeros_(_bias(self.projection))

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into tokens [B, N, D]."""
        tokens: Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens


class ConvStem(nn.Module):
    """Convolutions down to a few tokens, then a linear projection to the width."""

    def __init__(self, image_size: int, width: int, config: ConvStemConfig, init: Init) -> None:
        super().__init__()
        self.cell = config.cell
        self.overlaps = True  # a token sees pixels beyond its own cell
        self.side = image_size // config.cell
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        stages: list[nn.Module] = []
        before = 3
        for channels, stride, blocks in zip(config.channels, config.strides, config.blocks, strict=True):
            stages.append(_Convolution(before, channels, stride, config))
            stages += [_Residual(channels, config) for _ in range(blocks)]
            before = channels
        self.stages = nn.Sequential(*stages)
        if config.channels_last:
            self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projection = nn.Linear(before, width)
        draw_matrix(self.projection.weight, init, before)
        nn.init.zeros_(self.projection.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into tokens [B, N, D]."""
        y = self.stages(images.contiguous(memory_format=self.memory_format))  # [B, C, G, G]
        tokens: Tensor = self.projection(y.flatten(2).transpose(1, 2))
        return tokens


class _Convolution(nn.Module):
    """3x3 convolution, norm, activation; torch's own (Kaiming) start, which suits convolutions."""

    def __init__(self, before: int, channels: int, stride: int, config: ConvStemConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 3, stride, padding=1, bias=config.norm == "none")
        self.norm = _norm(config.norm, channels)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class _Residual(nn.Module):
    """`activation(x + norm(conv(x)))`."""

    def __init__(self, channels: int, config: ConvStemConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=config.norm == "none")
        self.norm = _norm(config.norm, channels)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.norm(self.conv(x)))


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class _GroupNorm(nn.GroupNorm):
    """torch's, which (2.13) crashes in the backward pass of channels-last input that needs no gradient.

    That is what it gets behind frozen convolutions.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.weight.requires_grad and not input.requires_grad:
            input = input.contiguous()
        out: Tensor = super().forward(input)
        return out


def _norm(name: Norm, channels: int) -> nn.Module:
    if name == "batch":
        return BatchNorm(channels)
    if name == "group":
        return _GroupNorm(channels // 8, channels)
    return _ChannelNorm(channels) if name == "layer" else nn.Identity()


def _bias(module: nn.Conv2d) -> Tensor:
    assert module.bias is not None
    return module.bias


def build_stem(
    stem: Literal["patch", "conv"],
    image_size: int,
    patch_size: int,
    width: int,
    conv: ConvStemConfig,
    init: Init,
) -> PatchStem | ConvStem:
    """Build the stem that a configuration names: `stem.side` tokens a side, each `stem.cell` pixels wide."""
    if stem == "patch":
        return PatchStem(image_size, patch_size, width, init)
    return ConvStem(image_size, width, conv, init)


def check_size(
    stem: Literal["patch", "conv"], image_size: int, patch_size: int, conv: ConvStemConfig
) -> None:
    """Raise `ValueError` unless the stem divides the picture evenly (for validators of configurations)."""
    cell, key = (patch_size, "patch_size") if stem == "patch" else (conv.cell, "the product of conv.strides")
    if image_size % cell:
        raise ValueError(f"image_size {image_size} is not a multiple of {key} ({cell})")

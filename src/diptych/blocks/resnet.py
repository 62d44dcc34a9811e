"""Residual convolutional networks, with the layout and the parameter names of torchvision.

Why not torchvision's own: its widths are fixed, it cannot leave stages frozen in eval mode, and it cannot be
imported beside builds of torch without CUDA. Its weights load into this one unchanged.

Legend: B batch, C channels, H and W height and width.
"""

from collections.abc import Callable
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.config.schema import Section

Depth = Literal[18, 34, 50, 101, 152]
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNetConfig(Section):
    """A residual network."""

    depth: Depth = Field(18, description="Layers: 18 and 34 have plain blocks, the others bottlenecks.")
    stem_channels: int = Field(64, ge=1, description="Channels of the first convolution.")
    base_channels: int = Field(
        64, ge=1, description="Channels of the first stage; each next has twice as many."
    )
    stem: Literal["published", "small"] = Field(
        "published",
        description="published: a 7x7 convolution and a pooling, a cell of the last map is 32 pixels wide. "
        "small (ours): a 3x3 convolution alone, 16 pixels: for small pictures.",
    )
    frozen_stages: int = Field(
        -1,
        ge=-1,
        le=4,
        description="Stages that are not trained and keep their batch statistics: -1 none, 0 the stem, 1 the "
        "stem and the first stage, ...",
    )
    norm: Literal["batch", "frozen"] = Field(
        "batch",
        description="`frozen`: norms are constants (as detectors use them); nothing of them is trained.",
    )
    widths: tuple[int, int, int, int] | None = Field(
        None, description="Inner channels of each stage instead of those of `base_channels`."
    )
    blocks: tuple[int, int, int, int] | None = Field(
        None, description="Blocks of each stage instead of those of `depth`."
    )
    recompute: bool = Field(
        False,
        description="Run blocks again in the backward pass to save memory, as published: their batch "
        "statistics then move twice a step.",
    )

    @property
    def stride(self) -> int:
        """Pixels along the side of a cell of the last map."""
        return 32 if self.stem == "published" else 16


def _expansion(depth: int) -> int:
    return 1 if depth < 50 else 4


class FrozenNorm(nn.Module):
    """A batch norm as a constant: scale and shift of each channel, all in buffers."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W]."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module | None, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', H', W']."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum, which starts at zero."""
        return self.bn2


class Projection(nn.Conv2d):
    """A 1x1 convolution with a stride, of the places that it looks at.

    The same as `nn.Conv2d`, whose backward pass (torch 2.13, CPU, channels last, several threads) writes
    outside its memory for some small numbers of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)
        self._every = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        return F.conv2d(x[:, :, :: self._every, :: self._every], self.weight)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 (with the stride) and a 1x1 convolution beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module | None, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 4C', H', W']."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum, which starts at zero."""
        return self.bn3


Block = BasicBlock | Bottleneck


class ResNet(nn.Module):
    """Pictures to the map of the last stage, 1/32 of their size (1/16 with the small stem).

    Batch norms are those of each rank by itself, as published. Weights are drawn as usual: He's normal over
    the outputs for convolutions, and zero for the last norm of each block.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        kernel = 7 if config.stem == "published" else 3
        self.conv1 = nn.Conv2d(3, config.stem_channels, kernel, 2, kernel // 2, bias=False)
        self.bn1 = _norm(config)(config.stem_channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.stem == "published" else nn.Identity()
        channels = config.stem_channels
        for stage, blocks in enumerate(config.blocks or BLOCKS[config.depth], start=1):
            made, channels = _stage(config, stage, blocks, channels)
            self.add_module(f"layer{stage}", made)
        self.out_channels = channels
        self._draw()
        for part in self._frozen():
            part.requires_grad_(False)
        self.train()

    def _draw(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and isinstance(module.last_norm, nn.BatchNorm2d):
                nn.init.zeros_(module.last_norm.weight)

    def stage(self, number: int) -> nn.Sequential:
        """Return stage 1 to 4."""
        return cast(nn.Sequential, self.get_submodule(f"layer{number}"))

    def _frozen(self) -> list[nn.Module]:
        """Return the parts that are not trained."""
        count = self.config.frozen_stages
        if count < 0:
            return []
        return [self.conv1, self.bn1, *(self.stage(number) for number in range(1, count + 1))]

    def train(self, mode: bool = True) -> Self:
        """Switch to training; what is frozen stays in eval mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, H, W] to [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        x: Tensor = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        for number in range(1, 5):
            for block in self.stage(number):
                x = self._run(block, x)
        return x

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # As published: a block whose input needs no gradient is not run again.
        if self.config.recompute and x.requires_grad:
            return cast(Tensor, checkpoint(block, x, use_reentrant=False))
        return block(x)


def _norm(config: ResNetConfig) -> Norm:
    return FrozenNorm if config.norm == "frozen" else nn.BatchNorm2d


def _stage(config: ResNetConfig, stage: int, blocks: int, inputs: int) -> tuple[nn.Sequential, int]:
    """Return a stage and the number of its output channels."""
    width = config.widths[stage - 1] if config.widths else config.base_channels * 2 ** (stage - 1)
    grown, norm = _expansion(config.depth), _norm(config)
    kind: type[Block] = BasicBlock if grown == 1 else Bottleneck
    made: list[nn.Module] = []
    for number in range(blocks):
        stride = 2 if stage > 1 and number == 0 else 1
        shortcut = None
        if stride != 1 or inputs != width * grown:
            shortcut = nn.Sequential(Projection(inputs, width * grown, stride), norm(width * grown))
        made.append(kind(inputs, width, stride, shortcut, norm))
        inputs = width * grown
    return nn.Sequential(*made), inputs

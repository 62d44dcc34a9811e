"""Video Swin: a transformer over a clip whose attention stays in windows of frames, rows and columns.

Liu et al., "Video Swin Transformer" (CVPR 2022), with the patch embedding of SNP-S3, which keeps every frame.

Legend: B clips, T frames, h and w rows and columns, C channels, N positions in a window, W windows.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.blocks.drop_path import DropPath
from diptych.blocks.products import Linear, LinearGradient, joined, linear, plain
from diptych.blocks.window_attention import (
    ROWS,
    Sizes,
    WindowAttention,
    WindowPlan,
    plan_windows,
    reorder,
)
from diptych.config.schema import Section

STRIDE = 32
"""Pixels along the side of a cell of the last map."""


class VideoSwinConfig(Section):
    """A video transformer with windows. The defaults are those of SNP-S3."""

    width: int = Field(96, ge=1, description="Channels of the first stage; each next one doubles them.")
    depths: tuple[int, ...] = Field((2, 2, 18, 2), description="Blocks of each stage.")
    heads: tuple[int, ...] = Field((3, 6, 12, 24), description="Attention heads of each stage.")
    window: Sizes = Field((8, 7, 7), description="Frames, rows and columns of a window.")
    patch: Sizes = Field(
        (2, 4, 4), description="Frames, rows and columns of a patch; rows and columns do not overlap."
    )
    frame_stride: int = Field(
        1, ge=1, description="Every n-th frame starts a patch; 1 as SNP-S3, 2 as Kinetics models have it."
    )
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of the perceptrons over their input.")
    drop_path: float = Field(0.2, ge=0, lt=1, description="Stochastic depth of the last block.")
    eps: float = Field(1e-5, gt=0, description="Of the norms.")


class SwinMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., C]."""
        if plain(x) and torch.is_grad_enabled():
            parameters = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
            found: Tensor = _Perceived.apply(x, *parameters)  # type: ignore[no-untyped-call]
            return found
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Perceived(torch.autograd.Function):
    """A perceptron with its own backward pass, for float32 on a CPU; some rows at a time, as caches hold."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, bias: Tensor, second: Tensor, bias2: Tensor) -> Tensor:
        inside, outside = [], []
        for rows in _pieces(x):
            inside.append(linear(rows, first, bias))
            outside.append(linear(F.gelu(inside[-1]), second, bias2))
        ctx.save_for_backward(x, first, second, *inside)
        out: Tensor = torch.ops.aten._unsafe_view(joined(outside), x.shape)  # no view: it may be changed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, first, second, *inside = ctx.saved_tensors
        needed = ctx.needs_input_grad
        to_first, to_second = LinearGradient(*needed[1:3]), LinearGradient(*needed[3:])
        to_rows = []
        for rows, hidden, given in zip(_pieces(x), inside, _pieces(gradients[0]), strict=True):
            to_second.add(given, F.gelu(hidden))
            to_hidden = linear(given, second.t())
            torch.ops.aten.gelu_backward.grad_input(to_hidden, hidden, grad_input=to_hidden)
            to_first.add(to_hidden, rows)
            to_rows.append(linear(to_hidden, first.t()))
        to_x = joined(to_rows).view(x.shape)
        return to_x, to_first.weight, to_first.bias, to_second.weight, to_second.bias


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x.reshape(-1, x.shape[-1]), ROWS * torch.get_num_threads())


class SwinBlock(nn.Module):
    """Attention in windows, shifted or not, then a perceptron, each with its norm before it."""

    def __init__(self, width: int, heads: int, config: VideoSwinConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = WindowAttention(width, heads, config.window)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = SwinMlp(width, int(width * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """Return [B, T h w, C]; `plan` puts the cells into windows."""

        def attend(some: Tensor) -> Tensor:
            return plan.out_of(self.attn(plan.into(self.norm1(some)), plan.mask), len(some))

        x = self.drop_path.add(x, attend)
        return self.drop_path.add(x, lambda some: self.mlp(self.norm2(some)))


class PatchMerging(nn.Module):
    """Joins squares of four cells."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.reduction = Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, T, h, w, C] into [B, T, h / 2, w / 2, 2C]."""
        h, w = x.shape[2:4]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        B, T, h, w, C = x.shape
        squares = x.view(B, T, h // 2, 2, w // 2, 2, C)  # [B, T, h / 2, 2, w / 2, 2, C]
        parts = squares.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # cells of the left column first
        out: Tensor = self.reduction(self.norm(parts))
        return out


class SwinStage(nn.Module):
    """Blocks, every second one shifted, then the join."""

    def __init__(
        self, width: int, heads: int, config: VideoSwinConfig, drops: list[float], *, last: bool
    ) -> None:
        super().__init__()
        self.window = config.window
        self.blocks = nn.ModuleList(SwinBlock(width, heads, config, drop) for drop in drops)
        self.downsample = None if last else PatchMerging(width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, T, h, w, C] into the next stage's input."""
        shape = x.shape
        size = (shape[1], shape[2], shape[3])
        halves = (self.window[0] // 2, self.window[1] // 2, self.window[2] // 2)
        plans = [plan_windows(size, self.window, shift, x.device) for shift in ((0, 0, 0), halves)]
        x = self._in_windows(x.flatten(1, 3), plans).view(shape)
        return x if self.downsample is None else self.downsample(x)

    def _in_windows(self, x: Tensor, plans: list[WindowPlan]) -> Tensor:
        """Run the blocks; rows [B, T h w, C] stay in windows between them unless windows have padding.

        Only attention cares how rows stand, so that one move from block to block does for two in each.
        """
        if not all(plan.whole for plan in plans):
            for number, block in enumerate(self.blocks):
                x = block(x, plans[number % 2])
            return x
        stand: WindowPlan | None = None
        for number, block in enumerate(self.blocks):
            plan = plans[number % 2]
            x = block(reorder(x, stand, plan), plan.standing())
            stand = plan
        return reorder(x, stand, None)


class FramePatches(nn.Module):
    """Patches of every n-th frame; one sees its frame and the next ones, black ones behind the last."""

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.patch, self.stride = config.patch, config.frame_stride
        self.proj = nn.Conv3d(3, config.width, config.patch, stride=(self.stride, *config.patch[1:]))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, frames: Tensor) -> Tensor:
        """Turn [B, 3, T, H, W] into [B, T / stride, h, w, C]."""
        T, H, W = frames.shape[-3:]
        last = (T - 1) // self.stride * self.stride
        behind = max(0, last + self.patch[0] - T)
        frames = F.pad(frames, (0, -W % self.patch[2], 0, -H % self.patch[1], 0, behind))
        out: Tensor = self.norm(self.proj(frames).permute(0, 2, 3, 4, 1))
        return out


class VideoSwin(nn.Module):
    """Clips to one map a frame, 1/32 of its size. Parameters have the names of published checkpoints."""

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = FramePatches(config)
        total = sum(config.depths)
        drops = [config.drop_path * i / max(total - 1, 1) for i in range(total)]
        self.layers = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            own, drops = drops[:depth], drops[depth:]
            last = stage == len(config.depths) - 1
            self.layers.append(SwinStage(config.width * 2**stage, heads, config, own, last=last))
        self.out_channels = config.width * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(self.out_channels, eps=config.eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Turn normalised clips [B, T, 3, H, W] into [B, T / frame_stride, C, H / 32, W / 32]."""
        x = self.patch_embed(frames.transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x).permute(0, 1, 4, 2, 3)
        return out


_BLOCK = r"features\.(\d+)\.(\d+)\."
_THEIRS: tuple[tuple[str, str], ...] = (
    (_BLOCK + r"mlp\.0\.", "blocks.{1}.mlp.fc1."),
    (_BLOCK + r"mlp\.3\.", "blocks.{1}.mlp.fc2."),
    (_BLOCK, "blocks.{1}."),
    (r"features\.(\d+)\.", "downsample."),
)
"""Beginnings of torchvision's names (stages and joins take turns), and how ours go on behind the stage."""


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's swin3d_t, swin3d_s or swin3d_b; its classifier is left out.

    The model to load them into has `frame_stride` 2 to see what theirs sees, or 1 for a map a frame.
    """
    kept = {name: value for name, value in state.items() if not name.startswith("head.")}
    return {_our_name(n): value for n, value in kept.items() if not n.endswith("relative_position_index")}


def _our_name(name: str) -> str:
    for pattern, ours in _THEIRS:
        if found := re.match(pattern, name):
            numbers = found.groups()
            return f"layers.{int(numbers[0]) // 2}." + ours.format(*numbers) + name[found.end() :]
    return name

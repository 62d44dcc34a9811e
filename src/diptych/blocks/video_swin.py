"""Video Swin: a transformer over a clip whose attention stays in windows of frames, rows and columns.

Liu et al., "Video Swin Transformer" (CVPR 2022), with the patch embedding of SNP-S3, which keeps every frame.

Legend: B clips, T frames, h and w rows and columns, C channels, N positions in a window, W windows.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from diptych.blocks.drop_path import DropPath
from diptych.config.schema import Section

STRIDE = 32
"""Pixels along the side of a cell of the last map."""
_NEVER = -100.0
"""Added to scores between positions that a shift brought together, as published."""

Sizes = tuple[int, int, int]
"""Along frames, rows and columns."""


class VideoSwinConfig(Section):
    """A video transformer with windows. The defaults are those of SNP-S3."""

    width: int = Field(96, ge=1, description="Channels of the first stage; each next one doubles them.")
    depths: tuple[int, ...] = Field((2, 2, 18, 2), description="Blocks of each stage.")
    heads: tuple[int, ...] = Field((3, 6, 12, 24), description="Attention heads of each stage.")
    window: Sizes = Field((8, 7, 7), description="Frames, rows and columns of a window.")
    patch: Sizes = Field(
        (2, 4, 4), description="Frames, rows and columns of a patch; every frame starts one."
    )
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of the perceptrons over their input.")
    drop_path: float = Field(0.2, ge=0, lt=1, description="Stochastic depth of the last block.")
    eps: float = Field(1e-5, gt=0, description="Of the norms.")


class WindowAttention(nn.Module):
    """Attention within windows, with a bias for where one position lies from another."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: Sizes) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(math.prod(2 * side - 1 for side in window), heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _offsets(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows [B W, N, C]; `mask` [W, N, N] is added to the scores.

        A window smaller than the configured one takes the biases of the first N positions of that one, as
        published, also where rows or columns are fewer and other offsets would be meant.
        """
        rows, N, C = x.shape
        q, k, v = self.qkv(x).view(rows, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index[:N, :N]
        bias = self.relative_position_bias_table[index.reshape(-1)].view(N, N, -1).permute(2, 0, 1)
        if mask is None:
            shown = bias[None]  # [1, heads, N, N]
        else:
            both = bias[None] + mask[:, None].to(bias.dtype)  # [W, heads, N, N]
            shown = both.repeat(rows // len(mask), 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=shown.to(q.dtype))
        out: Tensor = self.proj(y.transpose(1, 2).reshape(rows, N, C))
        return out


def _offsets(window: Sizes) -> Tensor:
    """Return [N, N] int64: the row of the bias table for each pair of positions of a window."""
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")
    places = torch.stack(axes).flatten(1)  # [3, N]
    apart = places[:, :, None] - places[:, None] + torch.tensor(window)[:, None, None] - 1
    scale = torch.tensor([(2 * window[1] - 1) * (2 * window[2] - 1), 2 * window[2] - 1, 1])
    return (apart * scale[:, None, None]).sum(0)


class SwinMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., C]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Attention in windows, shifted or not, then a perceptron, each with its norm before it."""

    def __init__(
        self, width: int, heads: int, config: VideoSwinConfig, drop_path: float, *, shifted: bool
    ) -> None:
        super().__init__()
        self.window = config.window
        self.shift: Sizes = _halves(config.window) if shifted else (0, 0, 0)
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = WindowAttention(width, heads, config.window)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = SwinMlp(width, int(width * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return [B, T, h, w, C]; `mask` is that of `shift_mask`, for shifted blocks."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        _, T, h, w, C = x.shape
        window, shift = fitting((T, h, w), self.window, self.shift)
        missing = [-side % step for side, step in zip((T, h, w), window, strict=True)]
        x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        moved = any(shift)
        if moved:
            x = x.roll([-s for s in shift], (1, 2, 3))
        whole = x.shape[1:4]
        y = self.attn(into_windows(x, window), mask if moved else None)
        y = out_of_windows(y, window, (whole[0], whole[1], whole[2]), C)
        if moved:
            y = y.roll(shift, (1, 2, 3))
        return y[:, :T, :h, :w]


def _halves(window: Sizes) -> Sizes:
    return window[0] // 2, window[1] // 2, window[2] // 2


def fitting(size: Sizes, window: Sizes, shift: Sizes) -> tuple[Sizes, Sizes]:
    """Return window and shift for a clip: along sides that fit into a window it shrinks and stays put."""
    used = [(s, 0) if s <= w else (w, by) for s, w, by in zip(size, window, shift, strict=True)]
    return (used[0][0], used[1][0], used[2][0]), (used[0][1], used[1][1], used[2][1])


def into_windows(x: Tensor, window: Sizes) -> Tensor:
    """Cut [B, T, h, w, C] into windows [B W, N, C]; sides are multiples of the window's."""
    B, T, h, w, C = x.shape
    t, r, c = window
    x = x.view(B, T // t, t, h // r, r, w // c, c, C).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, t * r * c, C)


def out_of_windows(x: Tensor, window: Sizes, size: Sizes, channels: int) -> Tensor:
    """Undo `into_windows` for clips of T x h x w."""
    T, h, w = size
    t, r, c = window
    x = x.view(-1, T // t, h // r, w // c, t, r, c, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(-1, T, h, w, channels)


def shift_mask(size: Sizes, window: Sizes, shift: Sizes, device: torch.device) -> Tensor | None:
    """Return [W, N, N] float32: what keeps positions apart that only the shift brought into one window.

    `size` is that of the padded clip. Padding counts as ordinary, as published. None without a shift.
    """
    if not any(shift):
        return None
    regions = torch.zeros(1, *size, 1, device=device)
    number = 0
    cuts = [
        (slice(-side), slice(-side, -by if by else None), slice(-by, None)) if by else (slice(None),)
        for side, by in zip(window, shift, strict=True)
    ]
    for t in cuts[0]:
        for r in cuts[1]:
            for c in cuts[2]:
                regions[:, t, r, c] = number
                number += 1
    flat = into_windows(regions, window).squeeze(-1)  # [W, N]
    return torch.where(flat[:, None] == flat[:, :, None], 0.0, _NEVER)


class PatchMerging(nn.Module):
    """Joins squares of four cells."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, T, h, w, C] into [B, T, h / 2, w / 2, 2C]."""
        h, w = x.shape[2:4]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        parts = [x[:, :, r::2, c::2] for c in (0, 1) for r in (0, 1)]
        out: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return out


class SwinStage(nn.Module):
    """Blocks, every second one shifted, then the join."""

    def __init__(
        self, width: int, heads: int, config: VideoSwinConfig, drops: list[float], *, last: bool
    ) -> None:
        super().__init__()
        self.window = config.window
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, config, drop, shifted=number % 2 == 1)
            for number, drop in enumerate(drops)
        )
        self.downsample = None if last else PatchMerging(width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, T, h, w, C] into the next stage's input."""
        size = (x.shape[1], x.shape[2], x.shape[3])
        window, shift = fitting(size, self.window, _halves(self.window))
        whole = tuple(-(-side // step) * step for side, step in zip(size, window, strict=True))
        mask = shift_mask((whole[0], whole[1], whole[2]), window, shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x if self.downsample is None else self.downsample(x)


class FramePatches(nn.Module):
    """Patches for every frame: one sees its frame and the next one, the last one a black one."""

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Conv3d(3, config.width, config.patch, stride=(1, *config.patch[1:]))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, frames: Tensor) -> Tensor:
        """Turn [B, 3, T, H, W] into [B, T, h, w, C]."""
        H, W = frames.shape[-2:]
        missing = (-W % self.patch[2], -H % self.patch[1])
        frames = F.pad(frames, (0, missing[0], 0, missing[1], 0, self.patch[0] - 1))
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
        """Turn normalised clips [B, T, 3, H, W] into [B, T, C, H / 32, W / 32]."""
        x = self.patch_embed(frames.transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x).permute(0, 1, 4, 2, 3)
        return out

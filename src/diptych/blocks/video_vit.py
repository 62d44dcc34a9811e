"""The video transformer of UMT: patches of all frames attend to each other, with fixed sine positions.

VideoChat2 sees with it. Legend: B clips, T frames, P patches a side, N = P * P patches a frame, D width.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from diptych.blocks.attention import SelfAttention
from diptych.blocks.drop_path import DropPath
from diptych.config.schema import Section

EPS = 1e-6


class VideoVitConfig(Section):
    """Sizes of the video transformer. The defaults are UMT-L/16 as VideoChat2 uses it."""

    width: int = Field(1024, ge=2, description="Width of the patch vectors; even.")
    layers: int = Field(
        23, ge=1, description="Layers. UMT-L has 24, of which VideoChat2 leaves out the last."
    )
    heads: int = Field(16, ge=1, description="Attention heads; they divide the width.")
    hidden: int = Field(4096, ge=1, description="Hidden width of the feed-forward networks.")
    patch_size: int = Field(16, ge=1, description="Side of a patch in pixels.")
    table_frames: int = Field(
        4, ge=1, description="Frames that the sine table is made for; for others it is interpolated."
    )
    table_side: int = Field(
        14, ge=1, description="Patches a side that the sine table is made for; for others it is resized."
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="Stochastic depth of the last layer.")

    @model_validator(mode="after")
    def _shapes(self) -> "VideoVitConfig":
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width}: expected an even multiple of heads {self.heads}")
        return self


def sine_table(rows: int, width: int) -> Tensor:
    """Return the fixed positions of a sequence, [rows, width] float32: sines at even places, cosines at odd.

    Place j of row p turns by p / 10000^(2 (j // 2) / width).
    """
    slots = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] / 10000 ** (2 * (slots // 2) / width)
    return torch.where(slots % 2 == 0, angles.sin(), angles.cos()).float()


@lru_cache(maxsize=16)
def video_positions(frames: int, side: int, width: int, table_frames: int, table_side: int) -> Tensor:
    """Return the positions of the patches of a clip, [T * N, D] float32, frame after frame.

    A table over all patches of `table_frames` frames is resized: each frame bicubically, then linearly along
    time. A single picture has a table of its own, which is that of one frame.

    Args:
        frames: T.
        side: P.
        width: D.
        table_frames: frames of the table.
        table_side: patches a side of the table.
    """
    first = 1 if frames == 1 else table_frames
    table = sine_table(first * table_side**2, width).view(first, table_side, table_side, width)
    if side != table_side:
        moved = F.interpolate(
            table.permute(0, 3, 1, 2), size=(side, side), mode="bicubic", align_corners=False
        )
        table = moved.permute(0, 2, 3, 1)
    if frames != first:
        along = table.flatten(1, 2).permute(1, 2, 0)  # [N, D, first]
        table = F.interpolate(along, size=frames, mode="linear", align_corners=False).permute(2, 0, 1)
    return table.reshape(frames * side**2, width).contiguous()


class VideoVitBlock(nn.Module):
    """A pre-norm layer without layer scale."""

    def __init__(self, width: int, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next states [B, S, D]."""
        x = x + self.drop_path(self.attn(self.norm1(x), None))
        out: Tensor = x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return out


class VideoVit(nn.Module):
    """Clips in, patch vectors out: no class token, and no norm behind the last layer."""

    def __init__(self, config: VideoVitConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.patch_embed = nn.Conv3d(3, config.width, (1, patch, patch), stride=(1, patch, patch))
        steps = max(config.layers - 1, 1)
        self.blocks = nn.ModuleList(
            VideoVitBlock(config.width, config.heads, config.hidden, config.drop_path * i / steps)
            for i in range(config.layers)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode normalised clips [B, T, 3, H, W], H = W a multiple of the patch; [B, T, N, D]."""
        B, T = clips.shape[:2]
        x = self.patch_embed(clips.transpose(1, 2))  # [B, D, T, P, P]
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2)  # [B, T * N, D]
        config = self.config
        table = video_positions(T, side, config.width, config.table_frames, config.table_side)
        x = x + table.to(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = x.view(B, T, side * side, -1)
        return out


_PARTS = {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}


def our_video_name(name: str) -> str | None:
    """Return our name of a weight of a UMT encoder (`patch_embed.proj.*`, `blocks.N.*`); None: none."""
    if name.startswith("patch_embed.proj."):
        return f"patch_embed.{name.removeprefix('patch_embed.proj.')}"
    if not name.startswith("blocks."):
        return None
    for theirs, ours in _PARTS.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    return name


def published_video_name(name: str) -> str | None:
    """Undo `our_video_name`."""
    if name.startswith("patch_embed."):
        return f"patch_embed.proj.{name.removeprefix('patch_embed.')}"
    if not name.startswith("blocks."):
        return None
    for theirs, ours in _PARTS.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name

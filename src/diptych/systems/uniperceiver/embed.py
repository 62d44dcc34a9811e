"""Words and patches as inputs of the transformer.

Legend: B batch, T frames, L text tokens, h and w rows and columns of patches, D width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.stem import ConvStem
from diptych.systems.uniperceiver.config import UniPerceiverConfig

TEMPERATURE = 10000.0


class WordEmbedding(nn.Module):
    """Words, positions and a type added up, normalised."""

    def __init__(self, config: UniPerceiverConfig) -> None:
        super().__init__()
        D = config.width
        self.slot = config.slot
        self.words = nn.Embedding(config.vocab_size, D)
        self.positions = nn.Embedding(config.max_text_tokens, D)
        self.types = nn.Embedding(2, D)
        self.norm = nn.LayerNorm(D)
        self.slot_bias = nn.Parameter(torch.zeros(1, D)) if config.prompts.slot_bias else None
        for table in (self.words, self.positions, self.types):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed ids [B, L] int64 at positions [L] int64 (from 0 on, if none are given); [B, L, D]."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        x = self._words(ids) + self.positions(positions) + self.types.weight[0]
        out: Tensor = self.norm(x)
        return out

    def _words(self, ids: Tensor) -> Tensor:
        x: Tensor = self.words(ids)
        if self.slot_bias is None:
            return x
        return x + (ids == self.slot)[..., None] * self.slot_bias

    def start(self, count: int) -> Tensor:
        """Return the token that starts sequences, [B, 1, D]: normalised, without position and type."""
        ids = torch.tensor([[self.slot]], device=self.words.weight.device)
        out: Tensor = self.norm(self._words(ids)).expand(count, -1, -1)
        return out


def halves(length: int, device: torch.device) -> Tensor:
    """Return positions of a caption and its slots, which both start at 0, [length] int64."""
    half = torch.arange(length // 2, device=device)
    return torch.cat([half, half])


class PatchEmbedding(nn.Module):
    """Patches of pictures and frames, with fixed positions in the picture and learned ones in time."""

    spatial: Tensor

    def __init__(self, config: UniPerceiverConfig, shared_norm: nn.LayerNorm) -> None:
        super().__init__()
        D, patch = config.width, config.patch_size
        self.config = config
        self.stem: ConvStem | None = None
        if config.stem == "conv":
            self.stem = ConvStem(config.image_size, D, config.conv, "fan_in")
        else:
            self.patches = nn.Conv2d(3, D, patch, patch)
            nn.init.xavier_uniform_(self.patches.weight.view(D, -1))
            nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        self.register_buffer("spatial", sine_grid(config.side, D, config.grid_scale))
        self.temporal = nn.Embedding(config.max_frames, D)
        self.types = nn.Embedding(1, D)
        nn.init.normal_(self.temporal.weight, std=0.02)
        nn.init.normal_(self.types.weight, std=0.02)
        self.norm: nn.LayerNorm | None = None if config.share_norm else nn.LayerNorm(D)
        self._shared = [shared_norm]

    def forward(self, frames: Tensor) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] or clips [B, T, 3, H, W] into [B, T h w, D]."""
        if frames.dim() == 4:
            frames = frames[:, None]
        B, T = frames.shape[:2]
        x = self._tokens(frames.flatten(0, 1))
        start = 0
        if self.training and self.config.random_frames and self.config.max_frames > T:
            start = int(torch.randint(self.config.max_frames - T + 1, ()))
        x = x.view(B, T, -1, self.config.width) + self.spatial
        x = x + self.temporal.weight[start : start + T, None]
        if self.config.visual_type:
            x = x + self.types.weight[0]
        norm = self.norm if self.norm is not None else self._shared[0]
        out: Tensor = norm(x.flatten(1, 2))
        return out

    def _tokens(self, pictures: Tensor) -> Tensor:
        """Turn [B T, 3, H, W] into [B T, h w, D]."""
        if self.stem is not None:
            tokens: Tensor = self.stem(pictures)
            return tokens
        patches: Tensor = self.patches(pictures).flatten(2).transpose(1, 2)
        return patches


def sine_grid(side: int, width: int, scale: float = 1.0) -> Tensor:
    """Return the fixed table of a square grid, [side^2, D] float32, row by row.

    The first half of the channels holds sine and cosine of the row, the second of the column (published).
    """
    quarter = width // 4
    waves = TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * scale * waves  # [side, D / 4]
    both = torch.cat([angles.sin(), angles.cos()], 1)  # [side, D / 2]
    rows = both[:, None].expand(side, side, -1)
    columns = both[None].expand(side, side, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1).float()


def resize_grid(table: Tensor, side: int) -> Tensor:
    """Resize a table of a square grid [g^2, D] to [side^2, D], bilinear (published)."""
    old = round(len(table) ** 0.5)
    grid = table.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    sized = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    return sized.permute(0, 2, 3, 1).reshape(side * side, -1).to(table.dtype)


def resize_frames(table: Tensor, frames: int) -> Tensor:
    """Resize a table of frames [T, D] to another number of them, linear (published)."""
    sized = F.interpolate(table.float().t()[None], size=frames, mode="linear", align_corners=False)
    return sized[0].t().to(table.dtype)


def fit_tables(
    state: Mapping[str, Tensor], side: int, frames: int, *, grid: bool = True
) -> dict[str, Tensor]:
    """Return weights with the tables of places fitted to another picture size or number of frames.

    Args:
        state: of a model.
        side: patches along a side.
        frames: rows of the table of frames.
        grid: resize the fixed table too; else one of another size is left out, for the model's own to stay.
    """
    out = dict(state)
    for name in [n for n in state if n.endswith("visual.spatial")]:
        if len(out[name]) != side**2:
            table = out.pop(name)
            if grid:
                out[name] = resize_grid(table, side)
    for name in [n for n in state if n.endswith("visual.temporal.weight")]:
        if len(out[name]) != frames:
            out[name] = resize_frames(out[name], frames)
    return out

"""Pictures of any size as tiles for a vision encoder of one size.

Legend: S side of a tile, h and w rows and columns of the grid, n views (tiles, and the whole picture).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.data.config import parse_colour
from diptych.data.image import Picture, lay_on
from diptych.data.tiling_config import TilingConfig, count_tokens

__all__ = ["Plan", "Tiled", "TilingConfig", "count_tokens", "global_view", "plan_tiles", "tile_picture"]


class Plan(NamedTuple):
    """Where a picture will lie on its grid of tiles."""

    rows: int
    columns: int
    width: int
    """Of the resized picture."""
    height: int
    left: int
    """Of the resized picture on the grid; what it does not cover is background."""
    top: int


@dataclass(frozen=True)
class Tiled:
    """A picture as the vision encoder gets it."""

    tiles: Tensor
    """[n, 3, S, S] uint8: the whole view first, where there is one, then the tiles row by row."""
    rows: int
    columns: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns


def plan_tiles(
    width: int, height: int, config: TilingConfig, draw: float | None = None, *, training: bool = False
) -> Plan:
    """Say how a picture will be resized and cut, from its size alone.

    Args:
        width: of the picture as shown, at least 1.
        height: of the picture as shown, at least 1.
        config: of the tiling.
        draw: in 0..1, chooses the size where `random_size` is on; None: the largest.
        training: whether `hd_num` counts instead of `eval_hd_num`.
    """
    if width < 1 or height < 1:
        raise ValueError(f"expected a picture of at least 1 x 1 pixels, got {width} x {height}")
    limit = config.limit(training)
    if config.kind == "hd":
        return _plan_hd(width, height, config, limit, draw)
    if config.kind == "closest":
        rows, columns = _closest_grid(width, height, config.tile, limit)
        return Plan(rows, columns, columns * config.tile, rows * config.tile, 0, 0)
    if config.kind == "nanovlm":
        rows, columns = _whole_tiles(width, height, config)
        return Plan(rows, columns, columns * config.tile, rows * config.tile, 0, 0)
    return _plan_one(width, height, config)


def _plan_hd(width: int, height: int, config: TilingConfig, limit: int, draw: float | None) -> Plan:
    """Follow the fine-tuning code of 4KHD: portrait pictures are transposed, planned, and turned back."""
    side, portrait = config.tile, width < height
    long, short = (height, width) if portrait else (width, height)
    ratio = long / short
    scale = 1
    while scale * math.ceil(scale / ratio) <= limit:
        scale += 1
    scale -= 1
    own = max(1, min(math.ceil(long / side), scale))
    if not config.enlarge:
        scale = own
    if config.random_size and draw is not None:
        scale = own + min(int(draw * (scale - own + 1)), scale - own)
    new_long = scale * side
    new_short = max(1, int(new_long / ratio))
    across = math.ceil(new_short / side)
    before = (across * side - new_short) // 2
    if portrait:
        return Plan(scale, across, new_short, new_long, before, 0)
    return Plan(across, scale, new_long, new_short, 0, before)


def _closest_grid(width: int, height: int, side: int, limit: int) -> tuple[int, int]:
    """Return (rows, columns) of the grid whose shape is nearest; of equally near ones a larger, if it fills.

    As in InternVL: a larger grid is taken where the picture has more than half of its pixels.
    """
    grids = [(c, r) for c in range(1, limit + 1) for r in range(1, limit // c + 1)]
    best, nearest = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - columns / rows)
        filled = width * height > 0.5 * side * side * columns * rows
        if distance < nearest or (distance == nearest and filled):
            best, nearest = (rows, columns), distance
    return best


def _whole_tiles(width: int, height: int, config: TilingConfig) -> tuple[int, int]:
    """Return (rows, columns) with both sides rounded up to whole tiles.

    In floating point, as nanoVLM was trained: a shape that fits exactly may get a tile more across.
    """
    side = config.tile
    long, short = max(width, height), min(width, height)
    target = config.max_side if config.to_max_side else min(config.max_side, math.ceil(long / side) * side)
    along = target // side
    across = max(1, math.ceil(short * (target / long) / side))
    return (across, along) if width >= height else (along, across)


def _plan_one(width: int, height: int, config: TilingConfig) -> Plan:
    side = config.tile
    if config.fit == "squash":
        return Plan(1, 1, side, side, 0, 0)
    bound = max if config.fit == "pad" else min
    scale = side / bound(width, height)
    new_width, new_height = (max(1, round(pixels * scale)) for pixels in (width, height))
    return Plan(1, 1, new_width, new_height, (side - new_width) // 2, (side - new_height) // 2)


def tile_picture(
    picture: Picture, config: TilingConfig, draw: float | None = None, *, training: bool = False
) -> Tiled:
    """Cut a picture into tiles.

    Args:
        picture: [H, W, 3] uint8, or of Pillow; what is transparent shows `background`.
        config: of the tiling.
        draw: as `plan_tiles`.
        training: as `plan_tiles`.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = lay_on(image, config.background).convert("RGB")
    plan = plan_tiles(*image.size, config, draw, training=training)
    canvas = _canvas(image, plan, config)
    side, rows, columns = config.tile, plan.rows, plan.columns
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)  # [3, hS, wS]
    tiles = pixels.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
    if config.has_global_view(rows, columns):
        tiles = torch.cat([_whole(canvas, pixels, config)[None], tiles])
    return Tiled(tiles.contiguous(), rows, columns)


def _canvas(image: Image.Image, plan: Plan, config: TilingConfig) -> Image.Image:
    """Return the resized picture on its grid."""
    size = (plan.width, plan.height)
    published = config.kind == "hd"
    resized = _resize_hd(image, size) if published else image.resize(size, Image.Resampling.BICUBIC)
    whole = (plan.columns * config.tile, plan.rows * config.tile)
    if resized.size == whole:
        return resized
    canvas = Image.new("RGB", whole, parse_colour(config.background))
    canvas.paste(resized, (plan.left, plan.top))
    return canvas


def _resize_hd(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize as published: bilinear with Pillow, portrait pictures transposed.

    Pillow rounds between its passes over columns and rows, so their order shows in the last bit.
    """
    if image.width >= image.height:
        return image.resize(size, Image.Resampling.BILINEAR)
    turned = image.transpose(Image.Transpose.TRANSPOSE).resize(size[::-1], Image.Resampling.BILINEAR)
    return turned.transpose(Image.Transpose.TRANSPOSE)


def _whole(canvas: Image.Image, pixels: Tensor, config: TilingConfig) -> Tensor:
    """Return the view of the whole picture [3, S, S] uint8."""
    side = config.tile
    if config.kind == "hd":
        return global_view(pixels[None].float(), side)[0].round_().clamp_(0, 255).to(torch.uint8)
    small = canvas.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def global_view(pixels: Tensor, side: int) -> Tensor:
    """Shrink pictures [B, 3, H, W] float to [B, 3, side, side] as 4KHD does: bicubic, no smoothing."""
    return F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)

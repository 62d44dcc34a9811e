"""Pictures and videos of a user's program as views for models that converse.

Legend: n views of a picture or video, S side of a view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.animated import is_animated
from diptych.data.config import DataConfig
from diptych.data.decode import JpegDecoder
from diptych.data.pictures import Picture, clips_of, content_of, pixels_of, square_pictures
from diptych.data.raw.video import HEAD, container_of
from diptych.data.tiling import tile_picture

FRAMES = 8
"""Frames of a video for models whose settings do not say how many (`data.video.frames`)."""


@dataclass(frozen=True)
class Medium:
    """A picture or a video as a model sees it."""

    kind: Literal["image", "video"]
    views: Tensor
    """[n, 3, S, S] uint8"""
    grids: list[tuple[int, int, int]]
    """Rows and columns of the tiles of each picture (frame), and how many views they make."""


def media_of(pictures: Sequence[Picture], data: DataConfig, frames: int = 0) -> list[Medium]:
    """Return pictures and videos as an evaluation shows them.

    Args:
        pictures: paths, encoded bytes, PIL pictures or arrays; videos as paths, bytes or [V, H, W, 3].
        data: the settings that the model was trained with.
        frames: of videos; 0: as many as in training, or `FRAMES`.

    Raises:
        DataError: one cannot be read; the message names it.
    """
    return [_medium(picture, data, frames) for picture in pictures]


def is_video(picture: Picture) -> bool:
    """Tell whether a user's picture is a video.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(picture, np.ndarray):
        return picture.ndim == 4
    if isinstance(picture, Image.Image):
        return False
    _, data = content_of(picture)
    return bool(container_of(data[:HEAD])) or is_animated(data)


def _medium(picture: Picture, data: DataConfig, frames: int) -> Medium:
    if is_video(picture):
        count = frames or data.video.frames or FRAMES
        square = data.image if data.image.resize != "tiles" else data.image.with_(resize="squash")
        clip = clips_of([picture], square, data.video.with_(frames=count))[0][0]
        return Medium("video", clip, [(1, 1, 1)] * len(clip))
    if data.image.resize == "tiles":
        tiled = tile_picture(pixels_of(picture, data.image, JpegDecoder()), data.image.tiling)
        return Medium("image", tiled.tiles, [(tiled.rows, tiled.columns, len(tiled.tiles))])
    return Medium("image", square_pictures([picture], data.image), [(1, 1, 1)])


def joined(media: Sequence[Medium]) -> tuple[Tensor | None, list[tuple[int, int, int]]]:
    """Return the views of all media behind each other, and their grids."""
    views = torch.cat([medium.views for medium in media]) if media else None
    return views, [grid for medium in media for grid in medium.grids]

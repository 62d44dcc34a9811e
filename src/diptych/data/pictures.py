"""Pictures of a user's program: paths, bytes, PIL pictures or arrays, made ready as in an evaluation."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diptych.data.config import ImageConfig
from diptych.data.decode import JpegDecoder, Pixels
from diptych.data.fit import frame_side, pad_batch
from diptych.data.image import (
    as_rgb,
    decode_fast,
    fit_into,
    lay_on,
    open_image,
    smallest_side,
    square_into,
)
from diptych.errors import DataError

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, encoded bytes, a PIL picture, or pixels [H, W], [H, W, 3] or [H, W, 4] uint8."""


def picture_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """Return one picture or several as a list."""
    if isinstance(pictures, str | os.PathLike | bytes | Image.Image | np.ndarray):
        return [pictures]
    return list(pictures)


def square_pictures(pictures: Sequence[Picture], config: ImageConfig) -> Tensor:
    """Return pictures as an evaluation batch holds them: [N, 3, size, size] uint8, channels last in memory.

    Raises:
        DataError: a picture cannot be read; the message names it.
    """
    out = np.empty((len(pictures), config.size, config.size, 3), dtype=np.uint8)
    decoder = JpegDecoder()
    for place, picture in zip(out, pictures, strict=True):
        square_into(place, _pixels(picture, config, decoder), config)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def framed_pictures(pictures: Sequence[Picture], config: ImageConfig) -> tuple[Tensor, Tensor | None]:
    """Return pictures as an evaluation batch holds them, by `config.resize`.

    Returns:
        [N, 3, H, W] uint8, and their sizes [N, 2] int64 (height, width) where they keep their shapes (`fit`);
        None where they fill their squares.

    Raises:
        DataError: a picture cannot be read; the message names it.
    """
    if config.resize != "fit":
        return square_pictures(pictures, config), None
    side = frame_side(config)
    decoder = JpegDecoder()
    frame = np.empty((side, side, 3), dtype=np.uint8)
    shown = []
    for picture in pictures:
        height, width = fit_into(frame, _pixels(picture, config, decoder), config)
        shown.append(torch.from_numpy(frame[:height, :width].copy()).permute(2, 0, 1))
    return pad_batch(shown, config.multiple)


def _pixels(picture: Picture, config: ImageConfig, decoder: JpegDecoder) -> Pixels:
    """Return the whole picture, [H, W, 3]; it may lie in memory that the decoder uses again."""
    if isinstance(picture, Image.Image):
        return np.array(lay_on(as_rgb(picture), config.background))
    if isinstance(picture, np.ndarray):
        return np.array(lay_on(as_rgb(_from_array(picture)), config.background))
    name = "a picture" if isinstance(picture, bytes) else os.fspath(picture)
    data = picture if isinstance(picture, bytes) else _read(Path(picture))
    try:
        limit = smallest_side(config)
        pixels = decode_fast(data, decoder, limit)
        if pixels is None:
            pixels = np.array(lay_on(open_image(data, limit), config.background))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return pixels


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error.strerror})") from error


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.size == 0 or (pixels.shape[2:] not in ((), (3,), (4,))):
        raise DataError(
            f"an array of {pixels.dtype}, {list(pixels.shape)}: expected uint8 pixels [H, W], "
            "[H, W, 3] (RGB) or [H, W, 4] (RGBA)"
        )
    return Image.fromarray(pixels)

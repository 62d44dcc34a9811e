"""Pictures and videos of a user's program: paths, bytes, PIL pictures or arrays, as in an evaluation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diptych.data.animated import decode_animated, is_animated
from diptych.data.clips import Choose, ClipReader, Footage, Use, decode_video
from diptych.data.config import DataConfig, ImageConfig
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
from diptych.data.look import Look, PictureDecoder
from diptych.data.raw.video import HEAD, container_of
from diptych.data.video_config import VideoConfig
from diptych.errors import DataError, UsageError

Item = TypeVar("Item")
Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, encoded bytes, a PIL picture, or pixels [H, W], [H, W, 3] or [H, W, 4] uint8. For models of clips
also a video as a path, as bytes or as its frames [V, H, W, 3] uint8."""


def picture_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """Return one picture or several as a list."""
    if isinstance(pictures, str | os.PathLike | bytes | Image.Image | np.ndarray):
        return [pictures]
    return list(pictures)


def paired(pictures: list[Item], texts: list[str]) -> tuple[list[Item], list[int], list[str]]:
    """Return pictures, which of them each text is about, and the texts; one of either goes with all.

    Raises:
        UsageError: several of both, and not as many.
    """
    if len(pictures) == 1:
        return pictures, [0] * len(texts), texts
    if len(texts) == 1:
        texts = texts * len(pictures)
    if len(pictures) != len(texts):
        raise UsageError(
            f"{len(pictures)} pictures and {len(texts)} texts: expected equal numbers, or one of either for "
            "all"
        )
    return pictures, list(range(len(texts))), texts


def text_list(texts: str | Sequence[str]) -> list[str]:
    """Return one text or several as a list."""
    return [texts] if isinstance(texts, str) else list(texts)


def square_pictures(pictures: Sequence[Picture], config: ImageConfig) -> Tensor:
    """Return pictures as an evaluation batch holds them: [N, 3, size, size] uint8, channels last in memory.

    Raises:
        DataError: a picture cannot be read; the message names it.
    """
    out = np.empty((len(pictures), config.size, config.size, 3), dtype=np.uint8)
    decoder = JpegDecoder()
    for place, picture in zip(out, pictures, strict=True):
        square_into(place, pixels_of(picture, config, decoder), config)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def framed_pictures(
    pictures: Sequence[Picture], config: ImageConfig, video: VideoConfig | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return pictures as an evaluation batch holds them, by `config.resize`.

    Args:
        pictures: N of them.
        config: how they become squares, or fit.
        video: with `frames`, all become clips of F frames, as `clips_of` makes them.

    Returns:
        [N, 3, H, W] uint8 (clips: [N, F, 3, H, W]), and their sizes [N, 2] int64 (height, width; clips:
        [N, F, 2]) where they keep their shapes (`fit`); None where they fill their squares.

    Raises:
        DataError: a picture cannot be read; the message names it.
    """
    if video is not None and video.frames:
        return clips_of(pictures, config, video)
    if config.resize != "fit":
        return square_pictures(pictures, config), None
    side = frame_side(config)
    decoder = JpegDecoder()
    frame = np.empty((side, side, 3), dtype=np.uint8)
    shown = []
    for picture in pictures:
        height, width = fit_into(frame, pixels_of(picture, config, decoder), config)
        shown.append(torch.from_numpy(frame[:height, :width].copy()).permute(2, 0, 1))
    return pad_batch(shown, config.multiple)


def clips_of(
    pictures: Sequence[Picture], config: ImageConfig, video: VideoConfig
) -> tuple[Tensor, Tensor | None]:
    """Return one clip of each video as an evaluation batch holds it; a picture is a video of one frame.

    Frames in an array count as one a second. Arguments, result and errors as `framed_pictures`.
    """
    settings = DataConfig(image=config, video=video.with_(clips=1, crops=1))
    fits = config.resize == "fit"
    side = frame_side(config) if fits else config.size
    shape = (side, side, 3)
    decoder = JpegDecoder()
    decode = PictureDecoder(config, 3, decoder)
    reader = ClipReader(settings, np.ones(1, dtype=np.int64), shape, decode, budget=0, training=False)
    made, sizes = [], []
    for picture in pictures:
        out, look = np.zeros((video.frames, *shape), dtype=np.uint8), Look(None)
        reader.fill(0, _footage(picture, config, decoder), {}, out, look)
        height, width = look.sizes[0]
        made.append(torch.from_numpy(out[:, :height, :width].copy()).permute(0, 3, 1, 2))
        sizes.append(look.sizes)
    if not fits:
        return torch.stack(made), None
    frames, _ = pad_batch([clip.flatten(0, 1) for clip in made], config.multiple)
    return frames.view(len(made), video.frames, 3, *frames.shape[2:]), torch.tensor(sizes, dtype=torch.int64)


def _footage(picture: Picture, config: ImageConfig, decoder: JpegDecoder) -> Footage:
    """Return what hands over frames of a video, or the only one of a picture."""

    def of_video(choose: Choose, use: Use) -> None:
        try:
            decode_video(data, choose, use)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def of_arrays(choose: Choose, use: Use) -> None:
        frames = np.asarray(picture)
        for number in sorted(set(choose(np.arange(len(frames), dtype=np.float64)).tolist())):
            use(number, pixels_of(frames[number], config, decoder))

    def of_picture(choose: Choose, use: Use) -> None:
        choose(np.zeros(1))
        use(0, pixels_of(picture, config, decoder))

    if isinstance(picture, np.ndarray) and picture.ndim == 4 and len(picture):
        return of_arrays
    if isinstance(picture, np.ndarray | Image.Image):
        return of_picture

    def of_animated(choose: Choose, use: Use) -> None:
        decode_animated(data, config.background, choose, use)

    name, data = content_of(picture)
    if container_of(data[:HEAD]):
        return of_video
    return of_animated if is_animated(data) else of_picture


def pixels_of(picture: Picture, config: ImageConfig, decoder: JpegDecoder) -> Pixels:
    """Return the whole picture, [H, W, 3]; it may lie in memory that the decoder uses again."""
    if isinstance(picture, Image.Image):
        return np.array(lay_on(as_rgb(picture), config.background))
    if isinstance(picture, np.ndarray):
        return np.array(lay_on(as_rgb(_from_array(picture)), config.background))
    name, data = content_of(picture)
    if container_of(data[:HEAD]):
        raise DataError(f"{name}: a video, but the model reads pictures (data.video.frames = 0)")
    try:
        limit = smallest_side(config)
        pixels = decode_fast(data, decoder, limit)
        if pixels is None:
            pixels = np.array(lay_on(open_image(data, limit), config.background))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return pixels


def content_of(picture: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return a name for messages and the content."""
    if isinstance(picture, bytes):
        return "a picture", picture
    path = Path(picture)
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error.strerror})") from error


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.size == 0 or (pixels.shape[2:] not in ((), (3,), (4,))):
        raise DataError(
            f"an array of {pixels.dtype}, {list(pixels.shape)}: expected uint8 pixels [H, W], "
            "[H, W, 3] (RGB) or [H, W, 4] (RGBA)"
        )
    return Image.fromarray(pixels)

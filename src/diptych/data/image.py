"""Pictures: from encoded bytes to `size` x `size` uint8 pixels, with Pillow alone.

Resizing is Pillow's antialiased bicubic. JPEG decoding scales down only where a reduction of 3 or more is
left. Colour profiles are ignored; of animations the first frame is read.
"""

import io
import math
import warnings
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from diptych.data.config import ImageConfig, parse_colour
from diptych.errors import DataError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Pictures with more pixels are refused (Pillow's threshold for decompression bombs)."""

CROP_DRAWS = 40
"""How many draws a random crop takes."""

_LEAST_REDUCTION = 3
_ORIENTATION = 0x0112


class PictureError(DataError):
    """A picture that cannot be used; `cause` is the short name under which it is counted."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause} ({detail})")
        self.cause = cause


class Normalisation(Protocol):
    """What `normalise` needs to know (`systems.protocol.ImageSpec`)."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Per channel, of values in 0..1."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """Per channel, of values in 0..1."""
        ...


def open_image(data: bytes, reduce_to: int | None = None) -> Image.Image:
    """Decode a picture upright, as mode `RGB`, or `RGBA` if it has transparency.

    Args:
        data: encoded bytes of any format that Pillow reads.
        reduce_to: the side it will be resized to; a large JPEG is then decoded at a half, quarter or eighth.

    Raises:
        PictureError: empty, unreadable, truncated, too large, or of floating-point pixels.
    """
    if not data:
        raise PictureError("unreadable picture", "the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow's other warnings (odd metadata) do not matter for pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, reduce_to)
    except PictureError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError("picture too large", str(error)) from error
    except Exception as error:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error, ...
        cause = "truncated picture" if "truncated" in str(error).lower() else "unreadable picture"
        detail = "no known picture format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise PictureError(cause, detail) from error


def _decode(data: bytes, reduce_to: int | None) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError("picture too large", f"{width} x {height} pixels, at most {MAX_PIXELS} are read")
    if reduce_to is not None:
        image.draft(None, (_LEAST_REDUCTION * reduce_to, _LEAST_REDUCTION * reduce_to))
    orientation = _orientation(image)
    image.load()
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    return _eight_bit(image)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata raises almost anything and does not make the pixels useless
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise PictureError("unreadable picture", "floating-point pixels have no defined range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def lay_on(image: Image.Image, background: str) -> Image.Image:
    """Return the picture as `RGB`, with `background` behind transparent pixels."""
    if image.mode != "RGBA":
        return image
    base = Image.new("RGBA", image.size, (*parse_colour(background), 255))
    return Image.alpha_composite(base, image).convert("RGB")


def decode_image(data: bytes, background: str = "white") -> Pixels:
    """Decode a picture to [H, W, 3] uint8, RGB, upright, transparency laid on `background`.

    Raises:
        PictureError: as `open_image`.
    """
    return np.array(lay_on(open_image(data), background))


def make_square(
    image: Image.Image, config: ImageConfig, draws: NDArray[np.float64] | None = None
) -> Image.Image:
    """Resize to `config.size` x `config.size` by `config.resize`.

    Args:
        image: `RGB` or `RGBA` (colours are then weighted by opacity).
        config: size and rule.
        draws: CROP_DRAWS numbers in 0..1 for `random_crop`; without them it is `squash` (evaluation).
    """
    square = (config.size, config.size)
    if config.resize == "pad":
        fill = (0, 0, 0, 0) if image.mode == "RGBA" else parse_colour(config.background)
        return ImageOps.pad(image, square, Image.Resampling.BICUBIC, color=fill)
    box: tuple[float, float, float, float] = (0, 0, *image.size)
    if config.resize == "crop":
        box = _central_square(*image.size)
    elif config.resize == "random_crop" and draws is not None:
        box = random_box(*image.size, config.scale, config.ratio, draws)
    return image.resize(square, Image.Resampling.BICUBIC, box=box)


def _central_square(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: NDArray[np.float64],
) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a random part: area uniform in `scale`, shape log-uniform.

    Ten tries take four of the CROP_DRAWS draws each; if none fits into the picture, it is the largest central
    part whose width / height is within `ratio`.
    """
    for area_draw, ratio_draw, x, y in draws[:CROP_DRAWS].reshape(-1, 4):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def smallest_side(config: ImageConfig) -> int:
    """Return the `reduce_to` that leaves every part the loader may cut out large enough."""
    if config.resize != "random_crop":
        return config.size
    return math.ceil(
        config.size / math.sqrt(config.scale[0] * min(config.ratio[0], 1 / config.ratio[1], 1.0))
    )


def to_channels_first(image: Image.Image) -> Pixels:
    """Return [3 or 4, H, W] uint8 of an `RGB` or `RGBA` picture."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def normalise(images: Tensor, spec: Normalisation) -> Tensor:
    """Return float32 (value - mean) / std per channel of [B, 3, H, W], uint8 or float in 0..1."""
    mean = torch.tensor(spec.mean, device=images.device, dtype=torch.float32)[:, None, None]
    std = torch.tensor(spec.std, device=images.device, dtype=torch.float32)[:, None, None]
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    return (images.float() - mean * unit) / (std * unit)

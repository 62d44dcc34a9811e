"""Pictures: from encoded bytes to `size` x `size` uint8 pixels.

Plain JPEGs are decoded by libjpeg-turbo directly (`decode`), everything else by Pillow; the pixels are the
same. Resizing is antialiased bicubic as Pillow defines it, computed by torch's kernel for bytes (0.02 grey
levels of mean difference) or, with opacity, by Pillow. JPEG decoding scales down only where a reduction of 3
or more is left. Colour profiles are ignored; of animations the first frame is read.
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
from diptych.data.decode import JpegDecoder, Pixels, jpeg_header, orientation
from diptych.data.fit import fit_size, limits, resize_like_opencv
from diptych.errors import DataError

Picture = Pixels | Image.Image
"""A decoded picture: [H, W, 3] without transparency, mode `RGBA` with it."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

MAX_PIXELS = 89_478_485
"""Pictures with more pixels are refused (Pillow's threshold for decompression bombs)."""

CROP_DRAWS = 40
"""How many draws a random crop takes."""

_LEAST_REDUCTION = 3
_CACHED_VALUES = 2**16
"""float32 values that surely stay in a processor's cache from one step to the next."""


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
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a PIL picture turned as its metadata say, as mode `RGB`, or `RGBA` if it has transparency.

    Raises:
        PictureError: floating-point pixels.
    """
    stored = orientation(image)
    image.load()
    if stored != 1:
        image = ImageOps.exif_transpose(image)
    return _eight_bit(image)


def decode_fast(data: bytes, decoder: JpegDecoder, reduce_to: int | None = None) -> Pixels | None:
    """Return [H, W, 3] uint8, the pixels of `open_image`, of a plain JPEG; None for what Pillow must read.

    The pixels may lie in memory that the decoder's next picture overwrites.
    """
    header = jpeg_header(data)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    reduction = 1
    if reduce_to is not None:
        # The rule of Pillow's `draft`.
        wanted = min(header.width, header.height) // (_LEAST_REDUCTION * reduce_to)
        reduction = next((r for r in (8, 4, 2) if wanted >= r), 1)
    return decoder.decode(data, header, reduction)


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
    image: Image.Image,
    config: ImageConfig,
    draws: NDArray[np.float64] | None = None,
    crop: int | None = None,
) -> Image.Image:
    """Resize to `config.size` x `config.size` by `config.resize`, with Pillow.

    Args:
        image: `RGB` or `RGBA` (colours are then weighted by opacity).
        config: size and rule.
        draws: CROP_DRAWS numbers in 0..1 for `random_crop` and `zoom_crop`; without them (evaluation)
            `random_crop` is `squash`, and `zoom_crop` cuts out the middle.
        crop: 0, 1 or 2: which of three squares along the longer side `crop` and `zoom_crop` cut out.
    """
    square = (config.size, config.size)
    if config.resize != "pad":
        box = _box(*image.size, config, draws, crop)
        return image.resize(square, Image.Resampling.BICUBIC, box=box)
    left, top, right, bottom = _inside(*image.size, config.size)
    fill = (0, 0, 0, 0) if image.mode == "RGBA" else parse_colour(config.background)
    padded = Image.new(image.mode, square, fill)
    padded.paste(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
    return padded


def square_into(
    out: Pixels,
    picture: Picture,
    config: ImageConfig,
    draws: NDArray[np.float64] | None = None,
    crop: int | None = None,
) -> None:
    """Write into `out` [size, size, 3 or 4] what `make_square` gives; arguments as there."""
    if not isinstance(picture, Image.Image) and out.shape[2] == 4:
        if config.resize != "pad":
            square_into(out[..., :3], picture, config, draws, crop)
            out[..., 3] = 255
            return
        picture = Image.fromarray(picture).convert("RGBA")  # its bars are transparent
    if isinstance(picture, Image.Image):
        out[:] = np.asarray(make_square(picture, config, draws, crop))
        return
    height, width, _ = picture.shape
    if config.resize == "pad":
        left, top, right, bottom = _inside(width, height, config.size)
        out[:] = parse_colour(config.background)
        resize_into(out[top:bottom, left:right], picture)
        return
    left, top, right, bottom = _box(width, height, config, draws, crop)
    resize_into(out, picture[top:bottom, left:right])


def fit_into(
    out: Pixels, picture: Picture, config: ImageConfig, draw: float | None = None
) -> tuple[int, int]:
    """Write a picture in its own shape into the upper left of `out` [H, W, 3 or 4]; return height and width.

    What is right of it and below stays as it was.

    Args:
        out: a frame that holds it (`fit.frame_side`).
        picture: three or four channels.
        config: the limits, and how to resize.
        draw: in 0..1, chooses the limits of training; None: evaluation.
    """
    pixels = np.asarray(picture)
    width, height = fit_size(pixels.shape[1], pixels.shape[0], *limits(config, draw))
    place = out[:height, :width]
    if pixels.shape[2] < place.shape[2]:
        place[..., 3] = 255
        place = place[..., :3]
    if config.interpolation == "opencv":
        place[:] = resize_like_opencv(pixels, width, height)
    elif isinstance(picture, Image.Image):
        place[:] = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    else:
        resize_into(place, picture)
    return height, width


def resize_into(out: Pixels, pixels: Pixels) -> None:
    """Resize [H, W, 3] uint8 to the size of `out`, and into it: bicubic, antialiased when it gets smaller."""
    target = out if out.flags.c_contiguous else np.empty(out.shape, dtype=np.uint8)
    # Bytes with the channels last have a kernel of their own; `out` spares a copy, but must be in one piece.
    torch.ops.aten._upsample_bicubic2d_aa.out(
        torch.from_numpy(pixels).permute(2, 0, 1)[None],
        list(out.shape[:2]),
        False,
        None,
        None,
        out=torch.from_numpy(target).permute(2, 0, 1)[None],
    )
    if target is not out:
        out[:] = target


def mirror(pixels: Pixels) -> None:
    """Swap left and right of [H, W, C], or of frames [N, H, W, C], in place."""
    # numpy copies a reversed run of three bytes one byte at a time, ten times slower.
    given = torch.from_numpy(pixels)
    given.copy_(given.flip(-2))


def _box(
    width: int, height: int, config: ImageConfig, draws: NDArray[np.float64] | None, crop: int | None
) -> Box:
    """Return the part of a picture that is resized."""
    if config.resize in ("crop", "zoom_crop"):
        return _square_part(width, height, config, draws, crop)
    if config.resize == "random_crop" and draws is not None:
        return random_box(width, height, config.scale, config.ratio, draws)
    return 0, 0, width, height


def _square_part(
    width: int, height: int, config: ImageConfig, draws: NDArray[np.float64] | None, crop: int | None
) -> Box:
    """Return a square: the largest one, or for `zoom_crop` one that many times smaller."""
    zoom, shift_x, shift_y = 1.0, 0.5, 0.5
    if config.resize == "zoom_crop":
        zoom = config.zoom_eval
        if draws is not None:
            low, high = config.zoom
            share, shift_x, shift_y = draws[:3].tolist()
            zoom = low + (high - low) * share
    side = max(1, round(min(width, height) / zoom))
    if crop is not None:
        shift_x, shift_y = (crop / 2, 0.5) if width >= height else (0.5, crop / 2)
    if draws is None or config.resize == "crop":
        left, top = int((width - side) * shift_x), int((height - side) * shift_y)
    else:
        left, top = int((width - side + 1) * shift_x), int((height - side + 1) * shift_y)
    return left, top, left + side, top + side


def _inside(width: int, height: int, side: int) -> Box:
    """Return where a picture lies in a square that it is padded to."""
    w = max(1, min(side, round(side * width / height)))
    h = max(1, min(side, round(side * height / width)))
    left, top = round((side - w) / 2), round((side - h) / 2)
    return left, top, left + w, top + h


def random_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: NDArray[np.float64],
) -> Box:
    """Return (left, top, right, bottom) of a random part: area uniform in `scale`, shape log-uniform.

    Ten tries take four of the CROP_DRAWS draws each; if none fits into the picture, it is the largest central
    part whose width / height is within `ratio`.
    """
    numbers = draws[:CROP_DRAWS].tolist()  # one by one out of an array they are slow
    for area_draw, ratio_draw, x, y in zip(*(numbers[i::4] for i in range(4)), strict=True):
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


def smallest_side(config: ImageConfig) -> int | None:
    """Return the `reduce_to` that leaves every part the loader may cut out large enough; None: none does."""
    if config.resize == "tiles":
        return None
    if config.resize == "fit":
        largest = config.short if config.train_short is None else max(config.short, config.train_short[1])
        return largest if config.interpolation == "bicubic" else None
    if config.resize == "zoom_crop":
        return math.ceil(config.size * max(config.zoom[1], config.zoom_eval))
    if config.resize != "random_crop":
        return config.size
    return math.ceil(
        config.size / math.sqrt(config.scale[0] * min(config.ratio[0], 1 / config.ratio[1], 1.0))
    )


def normalise(images: Tensor, spec: Normalisation) -> Tensor:
    """Return float32 (value - mean) / std per channel of [B, 3, H, W], uint8 or float in 0..1.

    The result lies in memory as `images` do (the loader's have the channels last). Clips [B, N, 3, H, W] are
    taken too, by what the model wants of them (`ImageSpec.of_clips`) if that is something else.
    """
    if images.ndim == 5:
        own = getattr(spec, "of_clips", None) or spec
        return normalise(images.flatten(0, 1), own).view(images.shape)
    mean = torch.tensor(spec.mean, device=images.device, dtype=torch.float32)[:, None, None]
    std = torch.tensor(spec.std, device=images.device, dtype=torch.float32)[:, None, None]
    if images.dtype != torch.uint8:
        return (images.float() - mean) / std
    if images.device.type != "cpu":
        return (images.float() - mean * 255.0) / (std * 255.0)
    return _normalise_bytes(images, mean * 255.0, std * 255.0)


def _normalise_bytes(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Do what `normalise` does a few pictures at a time: they stay in the cache between the three steps."""
    given = images
    last = images.is_contiguous(memory_format=torch.channels_last)
    if last:
        # Three values a pixel are too short a run for the processor: whole rows of pixels instead.
        count, channels, height, width = images.shape
        given = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        mean, std = (x.reshape(channels).repeat(width) for x in (mean, std))
    # numpy asks the system for huge pages, which halves the time of all this; torch does not.
    made = torch.from_numpy(np.empty(given.shape, dtype=np.float32))
    step = max(1, _CACHED_VALUES // max(1, images[0].numel())) if len(images) else 1
    for start in range(0, len(given), step):
        made[start : start + step].copy_(given[start : start + step]).sub_(mean).div_(std)
    return made.view(count, height, width, channels).permute(0, 3, 1, 2) if last else made

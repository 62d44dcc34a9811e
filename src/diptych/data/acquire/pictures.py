"""Fetched bytes -> stored pictures: checked by decoding, upright, in sRGB, resized, encoded where needed.

Plain JPEGs that only get smaller stay what they are inside, brightness and colour planes, from decoding to
encoding, which takes half the time of going through RGB; all others go through Pillow.
"""

import functools
import io
import json
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from diptych.data.acquire.options import PictureOptions
from diptych.data.acquire.planes import PlaneScaler
from diptych.data.acquire.problems import MediumProblemError
from diptych.data.decode import JpegHeader, jpeg_header, orientation

Size = tuple[int, int]
"""Width, height."""

_SIGNS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_PROFILE = b"ICC_PROFILE\0"
_EXIF, _START_OF_SCAN = b"Exif\0", b"\xff\xda"
_HEAD = 2**17
"""Bytes from the start of a JPEG in which metadata are looked for."""
_LEAST_REDUCTION = 3
"""JPEGs are decoded at a part of their size where at least such a reduction is left."""
_LONGEST_EXIF = 16_384


@dataclass(frozen=True)
class Stored:
    """A picture as it goes into a shard."""

    extension: str
    data: bytes
    width: int
    height: int
    original_width: int
    """Upright, before resizing."""
    original_height: int
    exif: str | None
    """JSON object of texts."""
    dhash: int
    """Near-duplicate hash, see `difference_hash`."""
    frames: int | None = None
    """Of an animation, whose first one is stored; None: it is a still picture."""


def store_picture(data: bytes, options: PictureOptions) -> Stored:
    """Return a picture as it is to be stored.

    Raises:
        MediumProblemError: it is none, broken, or outside the limits.
    """
    header = jpeg_header(data)
    try:
        with warnings.catch_warnings():
            # Odd metadata do not matter for pixels; sizes are looked at before decoding.
            warnings.simplefilter("ignore")
            if header is not None and not _coloured(data) and not _is_turned(data, header):
                found = _store_plain(data, header, options)
                if found is not None:
                    return found
            return _store_any(data, options)
    except MediumProblemError:
        raise
    except Image.DecompressionBombError as error:
        raise MediumProblemError("picture too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise MediumProblemError("not a picture", f"no known format, it starts with {data[:12]!r}") from error
    except Exception as error:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error, ...
        raise MediumProblemError(
            "broken picture", " ".join(str(error).split()) or type(error).__name__
        ) from error


def _is_turned(data: bytes, header: JpegHeader) -> bool:
    return header.may_be_turned and orientation(data) != 1


def _store_plain(data: bytes, header: JpegHeader, options: PictureOptions) -> Stored | None:
    """Store a JPEG that only has to become smaller, or to stay; None if that is not the case."""
    size = (header.width, header.height)
    check_size(size, options)
    target = target_size(size, options)
    if options.format != "jpg" or options.mode in ("border", "center_crop"):
        return None
    if target == size and options.encode == "always":
        return None
    if min(size) // (_LEAST_REDUCTION * min(target)) >= 2:
        return None
    if target == size:
        try:
            # Stricter than what makes planes: damage would stay in the bytes.
            grey = simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
        except ValueError:
            return None
        return Stored("jpg", data, *size, *size, _exif(data, None), difference_hash(Image.fromarray(grey)))
    planes = _scaler().scale(data, size, target)
    if planes is None:
        return None
    stored = simplejpeg.encode_jpeg_yuv_planes(*planes, options.quality)
    # Without a copy, which `fromarray` makes.
    grey = Image.frombuffer("L", target, planes[0], "raw", "L", 0, 1)
    grey_hash = difference_hash(grey)
    return Stored("jpg", stored, *target, *size, _exif(data, None), grey_hash)


@functools.cache
def _scaler() -> PlaneScaler:
    return PlaneScaler()


def _store_any(data: bytes, options: PictureOptions) -> Stored:
    with Image.open(io.BytesIO(data)) as image:
        kind = _SIGNS.get(image.format or "", "")
        stored_as = image.size
        turn = orientation(image)
        size = stored_as if turn < 5 else (stored_as[1], stored_as[0])
        check_size(size, options)
        target = target_size(size, options)
        frames = int(getattr(image, "n_frames", 1)) if getattr(image, "is_animated", False) else None
        exif = _exif(data, image)
        if image.format == "JPEG" and target < size:
            least = _LEAST_REDUCTION * min(target)
            image.draft(None, (least, least))
        plain = (
            turn == 1 and frames is None and image.mode in ("RGB", "L") and not image.info.get("icc_profile")
        )
        keep = options.encode == "never" or (
            options.encode == "needed"
            and plain
            and target == size
            and options.mode != "border"
            and kind == options.format
        )
        upright = as_srgb(image)
    if keep:
        if not kind and options.encode == "never":
            kind = (image.format or "bin").lower()
        return Stored(kind, data, *size, *size, exif, difference_hash(upright.convert("L")), frames)
    shaped = _shaped(upright, options)
    return Stored(
        options.format,
        _encoded(shaped, options),
        *shaped.size,
        *size,
        exif,
        difference_hash(shaped.convert("L")),
        frames,
    )


def check_size(size: Size, options: PictureOptions) -> None:
    """Raise a `MediumProblemError` for a picture outside the limits; (width, height) from its header."""
    short, long = min(size), max(size)
    shown = f"{size[0]} x {size[1]} pixels"
    if short < 1:
        raise MediumProblemError("broken picture", shown)
    if size[0] * size[1] > options.max_pixels:
        raise MediumProblemError("picture too large", f"{shown}, at most {options.max_pixels} are read")
    if short < options.min_side:
        raise MediumProblemError(
            "picture too small", f"{shown}, the shorter side is below {options.min_side}"
        )
    if options.max_aspect and long > options.max_aspect * short:
        raise MediumProblemError("too elongated", f"{shown}, more than {options.max_aspect:g} to 1")


def target_size(size: Size, options: PictureOptions) -> Size:
    """Return the size a picture is stored in.

    Args:
        size: upright.
        options: mode, size, and whether smaller ones are enlarged.
    """
    width, height = size
    if options.mode == "no":
        return size
    if options.mode in ("center_crop", "border"):
        return options.size, options.size
    side = min(size) if options.mode == "keep_ratio" else max(size)
    if side == options.size or (side < options.size and not options.enlarge):
        return size
    # Rounded by whole numbers, halves up: the same everywhere.
    return (
        max((2 * width * options.size + side) // (2 * side), 1),
        max((2 * height * options.size + side) // (2 * side), 1),
    )


def _shaped(image: Image.Image, options: PictureOptions) -> Image.Image:
    """Resize, crop or pad an upright picture."""
    if options.mode == "center_crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return _resized(image, (options.size, options.size), box)
    if options.mode == "border":
        share = options.size / max(image.size)
        inner = image
        if share < 1 or options.enlarge:
            inner = _resized(image, (max(round(image.width * share), 1), max(round(image.height * share), 1)))
        square = Image.new("RGB", (options.size, options.size), "white")
        square.paste(inner, ((options.size - inner.width) // 2, (options.size - inner.height) // 2))
        return square
    target = target_size(image.size, options)
    return image if target == image.size else _resized(image, target)


def _resized(
    image: Image.Image, size: Size, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def as_srgb(image: Image.Image) -> Image.Image:
    """Return a picture upright, with 8 bits a channel, grey or sRGB, on white where it is transparent."""
    profile = image.info.get("icc_profile")
    turned = orientation(image) != 1
    image.load()
    if turned:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise MediumProblemError("broken picture", "floating-point pixels have no defined range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        base = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(base, image).convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if profile and not _is_srgb(profile):
        image = _from_profile(image, profile)
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours to sRGB; a profile that does not fit the picture is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGB" if image.mode != "L" else "L"
        if mode == "L":
            return image
        converted = ImageCms.profileToProfile(image, source, _srgb(), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.lru_cache(64)
def _is_srgb(profile: bytes) -> bool:
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return True  # unreadable: there is nothing to convert by
    return "srgb" in name.lower()


def _coloured(data: bytes) -> bool:
    """Tell whether a JPEG has a colour profile other than sRGB."""
    at = data.find(_PROFILE, 0, _metadata_end(data))
    if at < 4:
        return False
    length = int.from_bytes(data[at - 2 : at])
    number, count = data[at + len(_PROFILE) : at + len(_PROFILE) + 2].ljust(2, b"\0")
    whole = number == count == 1
    return not whole or not _is_srgb(data[at + len(_PROFILE) + 2 : at - 2 + length])


def _metadata_end(data: bytes) -> int:
    """Return where the metadata of a JPEG end at the latest: behind a thumbnail, or where pixels begin."""
    pixels = data.find(_START_OF_SCAN, 0, _HEAD)
    return _HEAD if data.find(_EXIF, 0, pixels) >= 0 or pixels < 0 else pixels


def _exif(data: bytes, image: Image.Image | None) -> str | None:
    """Return the EXIF entries as a JSON object of texts; None if there are none."""
    if image is None:
        # A thumbnail comes behind the word.
        if data.find(_EXIF, 0, data.find(_START_OF_SCAN, 0, _HEAD)) < 0:
            return None
        with Image.open(io.BytesIO(data)) as opened:
            return _exif(data, opened)
    try:
        entries = dict(image.getexif())
    except Exception:  # damaged metadata raises almost anything
        return None
    found = {ExifTags.TAGS.get(tag, str(tag)): _as_text(value) for tag, value in sorted(entries.items())}
    text = json.dumps(found) if found else None
    return text if text is None or len(text) <= _LONGEST_EXIF else None


def _as_text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _encoded(image: Image.Image, options: PictureOptions) -> bytes:
    if options.format == "jpg":
        pixels = np.ascontiguousarray(np.asarray(image))
        if image.mode == "L":
            grey: bytes = simplejpeg.encode_jpeg(pixels[:, :, None], options.quality, "GRAY", "Gray")
            return grey
        encoded: bytes = simplejpeg.encode_jpeg(pixels, options.quality, "RGB", "420")
        return encoded
    out = io.BytesIO()
    if options.format == "webp":
        image.convert("RGB").save(out, "WEBP", quality=options.quality)
    else:
        image.save(out, "PNG")
    return out.getvalue()


def difference_hash(grey: Image.Image) -> int:
    """Return 64 bits, as a signed number: whether each of 8 x 8 places is darker than the one to its right.

    Pictures that differ in few bits look alike; resizing and another encoding change few of them or none.
    """
    small = grey.resize((9, 8), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.frombuffer(small.tobytes(), np.uint8).reshape(8, 9)
    bits = np.packbits(pixels[:, :-1] < pixels[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def hash_distance(a: int, b: int) -> int:
    """Return in how many bits two difference hashes differ."""
    return ((a ^ b) & (2**64 - 1)).bit_count()

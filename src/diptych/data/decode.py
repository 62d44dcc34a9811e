"""JPEG pictures by libjpeg-turbo, straight into memory that is used again.

Only pictures for which this gives Pillow's pixels, bit for bit; the caller leaves all others to Pillow.
"""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[H, W, channels]."""

ORIENTATION = 0x0112
"""The EXIF field that says how a camera was held."""

_KEPT = 64 * 2**20
"""Bytes of the largest picture whose memory is kept for the next one."""
_START_OF_IMAGE = b"\xff\xd8\xff"
_START_OF_SCAN, _APP0, _APP1, _APP14 = 0xDA, 0xE0, 0xE1, 0xEE
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive; arithmetic and lossless coding is left to Pillow."""
_ORIENTATION_MARKS = (b"\x01\x12", b"\x12\x01", b"rientation")
"""One of them is in any metadata (EXIF of either byte order, XMP) that turns the picture."""


@dataclass(frozen=True)
class JpegHeader:
    """What decides how a JPEG is decoded."""

    width: int
    """As stored, before it is turned upright."""
    height: int
    may_be_turned: bool
    """Whether its metadata could say that it stands otherwise than it is stored."""


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Return the header of a grey or YCbCr JPEG of 8 bits; None for anything else, or if it looks odd."""
    if not data.startswith(_START_OF_IMAGE):
        return None
    at, turned, jfif = 2, False, False
    size: tuple[int, int] | None = None
    components = b""
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        length = data[at + 2] << 8 | data[at + 3]
        body = at + 4
        if marker == _START_OF_SCAN:
            plain = len(components) == 1 or components == b"\1\2\3" or (jfif and len(components) == 3)
            return JpegHeader(*size, turned) if size is not None and min(size) and plain else None
        if marker in _HUFFMAN_FRAMES and size is None and length >= 11 and data[body : body + 1] == b"\x08":
            size = (data[body + 3] << 8 | data[body + 4], data[body + 1] << 8 | data[body + 2])
            components = data[body + 6 : at + 2 + length : 3]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables, reserved, conditioning
            return None
        elif marker == _APP0:
            jfif = jfif or data.startswith(b"JFIF\0", body)
        elif marker == _APP14 and data.startswith(b"Adobe", body) and data[body + 11 : body + 12] != b"\1":
            return None  # RGB, CMYK or unknown colours
        elif marker == _APP1:
            found = data[body : at + 2 + length]
            turned = turned or any(mark in found for mark in _ORIENTATION_MARKS)
        if length < 2 or not 0xC0 <= marker <= 0xFE:
            return None
        at += 2 + length
    return None


class JpegDecoder:
    """Decodes one JPEG after the other into the same memory."""

    def __init__(self) -> None:
        self._memory: Pixels = np.empty(0, dtype=np.uint8)

    def decode(self, data: bytes, header: JpegHeader, reduction: int = 1) -> Pixels | None:
        """Return [H, W, 3] uint8, RGB, upright; None if there is any doubt: Pillow then says what is wrong.

        Args:
            data: the whole file.
            header: its `jpeg_header`.
            reduction: 1, 2, 4 or 8: decode at that part of the size.

        The pixels may lie in memory that the next call overwrites.
        """
        height, width = -(-header.height // reduction), -(-header.width // reduction)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                data,
                "RGB",
                min_height=height if reduction > 1 else 0,
                min_width=width if reduction > 1 else 0,
                min_factor=float(reduction),
                buffer=self._room(height * width * 3),
            )
        except ValueError:  # also for damage that libjpeg would paint over with a warning
            return None
        if pixels.shape != (height, width, 3):
            return None
        if not header.may_be_turned:
            return pixels
        return upright(pixels, orientation(data))

    def _room(self, size: int) -> Pixels:
        if size > _KEPT:
            return np.empty(size, dtype=np.uint8)
        if len(self._memory) < size:
            self._memory = np.empty(size, dtype=np.uint8)
        return self._memory[:size]


def orientation(picture: bytes | Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or where the metadata is damaged."""
    try:
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        found = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata raises almost anything and does not make the pixels useless
        return 1
    return found if 1 <= found <= 8 else 1


def upright(pixels: Pixels, stored: int) -> Pixels:
    """Turn and mirror [H, W, C] stored with an EXIF orientation of 1 to 8 as it should be seen."""
    if stored == 1:
        return pixels
    if stored >= 5:  # stored lying: rows are columns
        pixels = pixels.transpose(1, 0, 2)
    # Whether rows, and columns, run backwards.
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        stored, (1, 1)
    )
    return np.ascontiguousarray(pixels[::rows, ::columns])

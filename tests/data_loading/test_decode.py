"""JPEGs that are decoded directly have the pixels that Pillow gives, and others are left to Pillow."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.decode import JpegDecoder, Pixels, jpeg_header
from diptych.data.image import PictureError, decode_fast, open_image


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes, edges and a little noise in colour."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(
        [
            127 + 120 * np.sin(x / 9.0 + y / 17.0),
            255.0 * ((x // 11 + y // 7) % 2),
            x * 255.0 / width + random.normal(0, 9, x.shape),
        ],
        axis=2,
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def fast(data: bytes, reduce_to: int | None = None) -> Pixels | None:
    return decode_fast(data, JpegDecoder(), reduce_to)


def pillow(data: bytes, reduce_to: int | None = None) -> Pixels:
    return np.asarray(open_image(data, reduce_to))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0", "restart_marker_blocks": 3},
        {"icc_profile": b"\x01\x12 not a profile", "comment": b"orientation", "dpi": (72, 72)},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 48), (61, 37), (1, 1), (7, 200)])
def test_pixels_are_pillows(options: dict[str, Any], size: tuple[int, int]) -> None:
    data = jpeg(scene(*size), **options)
    found = fast(data)
    assert found is not None
    assert np.array_equal(found, pillow(data))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_all_kinds_of_colour_resolution(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(np.asarray(scene(50, 34)), colorsubsampling=subsampling)
    found = fast(data)
    assert found is not None
    assert np.array_equal(found, pillow(data))


def test_grey_becomes_three_channels() -> None:
    data = jpeg(scene(40, 30).convert("L"))
    found = fast(data)
    assert found is not None
    assert found.shape == (30, 40, 3)
    assert np.array_equal(found, pillow(data))


@pytest.mark.parametrize("reduce_to", [10, 20, 26, 27, 40, 60, 200])
@pytest.mark.parametrize("size", [(321, 243), (240, 480)])
def test_reduced_decoding_follows_pillow(reduce_to: int, size: tuple[int, int]) -> None:
    data = jpeg(scene(*size))
    found = fast(data, reduce_to)
    assert found is not None
    assert np.array_equal(found, pillow(data, reduce_to))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("reduce_to", [None, 5])
def test_orientation(orientation: int, reduce_to: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(scene(48, 33), exif=exif)
    header = jpeg_header(data)
    assert header is not None
    assert header.may_be_turned
    assert (header.width, header.height) == (48, 33)
    found = fast(data, reduce_to)
    assert found is not None
    assert np.array_equal(found, pillow(data, reduce_to))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """Put a segment right behind the start of the picture."""
    return data[:2] + segment(marker, content) + data[2:]


def test_orientation_out_of_xmp() -> None:
    packet = b'http://ns.adobe.com/xap/1.0/\0<x><rdf:Description tiff:Orientation="6"/></x>'
    data = with_segment(jpeg(scene(20, 10)), 0xE1, packet)
    found = fast(data)
    assert found is not None
    assert np.array_equal(found, pillow(data))


def test_damaged_metadata_is_ignored() -> None:
    data = jpeg(scene(8, 8), exif=b"Exif\0\0MM\0\x2a\x01\x12\xff\xff\xff\xff")
    found = fast(data)
    assert found is not None
    assert np.array_equal(found, pillow(data))


def test_what_is_left_to_pillow() -> None:
    plain = jpeg(scene(24, 16))
    adobe_rgb = with_segment(plain.replace(b"JFIF", b"none"), 0xEE, b"Adobe\0\x64\0\0\0\0\0")
    arithmetic = plain.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc9\x00\x11\x08")
    for data in (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        jpeg(Image.new("CMYK", (8, 8), (10, 20, 30, 40))),
        adobe_rgb,
        arithmetic,
        plain[:100],
        plain[:2] + b"\x00" + plain[2:],
    ):
        assert jpeg_header(data) is None
        assert fast(data) is None


def test_huge_pictures_are_left_to_pillow_which_refuses_them() -> None:
    data = jpeg(scene(24, 16))
    at = data.index(b"\xff\xc0\x00\x11\x08") + 5
    huge = data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]
    assert fast(huge) is None
    with pytest.raises(PictureError, match="picture too large"):
        open_image(huge)


def test_cut_off_pictures_are_left_to_pillow() -> None:
    data = jpeg(scene(64, 64))
    for keep in (len(data) // 2, len(data) - 200):
        assert fast(data[:keep]) is None


def test_memory_is_used_again_and_grows() -> None:
    decoder = JpegDecoder()
    small, large = jpeg(scene(20, 10, 1)), jpeg(scene(60, 40, 2))
    first = decode_fast(small, decoder)
    assert first is not None
    assert np.array_equal(first, pillow(small))
    second = decode_fast(large, decoder)
    assert second is not None
    assert np.array_equal(second, pillow(large))
    third = decode_fast(small, decoder)
    assert third is not None
    assert np.array_equal(third, pillow(small))
    assert np.shares_memory(second, third)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), progressive=st.booleans())
def test_damage_gives_pillows_pixels_or_is_left_to_pillow(seed: int, progressive: bool) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(jpeg(scene(32, 24, seed), progressive=progressive))
    for at in random.integers(0, len(data), 3):
        data[at] = random.integers(256)
    found = fast(bytes(data))
    if found is not None:
        assert np.array_equal(found, pillow(bytes(data)))

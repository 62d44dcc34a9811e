"""Fetched bytes -> stored pictures."""

import io
import json
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from diptych.data.acquire.options import PictureOptions
from diptych.data.acquire.pictures import Stored, difference_hash, hash_distance, store_picture, target_size
from diptych.data.acquire.problems import MediumProblemError
from diptych.errors import UsageError

RED, BLUE = (200, 30, 30), (30, 30, 200)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def halves(width: int = 400, height: int = 300) -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def store(data: bytes, **options: Any) -> Stored:
    return store_picture(data, PictureOptions(**options))


def pixels(stored: Stored) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB")).astype(int)


def close(found: Any, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool(np.abs(np.asarray(found) - colour).max() <= tolerance)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_become_jpeg(form: str) -> None:
    options = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}.get(form, {})
    found = store(encoded(halves(), form, **options), size=60)
    assert (found.extension, found.width, found.height) == ("jpg", 80, 60)
    assert (found.original_width, found.original_height) == (400, 300)
    shown = pixels(found)
    assert shown.shape == (60, 80, 3)
    assert close(shown[30, 10], RED)
    assert close(shown[30, 70], BLUE)


@pytest.mark.parametrize(
    ("mode", "size", "enlarge", "expected"),
    [
        ("keep_ratio", (400, 300), False, (133, 100)),
        ("keep_ratio", (300, 400), False, (100, 133)),
        ("keep_ratio", (80, 60), False, (80, 60)),
        ("keep_ratio", (80, 60), True, (133, 100)),
        ("keep_ratio_largest", (400, 300), False, (100, 75)),
        ("keep_ratio_largest", (400, 3), False, (100, 1)),
        ("center_crop", (400, 300), False, (100, 100)),
        ("center_crop", (40, 30), False, (100, 100)),
        ("border", (400, 300), False, (100, 100)),
        ("no", (400, 300), False, (400, 300)),
        ("keep_ratio", (100, 350), False, (100, 350)),
        # 1.5 is rounded up, not to the even number: 3 x 50 / 100
        ("keep_ratio_largest", (200, 3), False, (100, 2)),
    ],
)
def test_sizes(mode: str, size: tuple[int, int], enlarge: bool, expected: tuple[int, int]) -> None:
    options = PictureOptions(size=100, mode=mode, enlarge=enlarge)
    assert target_size(size, options) == expected
    found = store_picture(encoded(Image.new("RGB", size, RED)), options)
    assert (found.width, found.height) == expected
    assert pixels(found).shape[:2] == expected[::-1]


def test_borders_are_white_and_crops_come_from_the_middle() -> None:
    bordered = pixels(store(encoded(halves(), quality=95), size=100, mode="border"))
    assert close(bordered[2, 50], (255, 255, 255))
    assert close(bordered[50, 10], RED)
    small = pixels(store(encoded(halves(40, 30), quality=95), size=100, mode="border"))
    assert close(small[50, 20], (255, 255, 255))
    assert close(small[50, 35], RED)
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    assert close(pixels(store(encoded(image, quality=95), size=50, mode="center_crop"))[25, 5:45], BLUE)


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(640, 480), (641, 479), (333, 500)])
def test_planes_give_the_pixels_of_pillow(sampling: int, size: tuple[int, int]) -> None:
    """Of smooth pictures; of all samplings of the colours, and sizes that are no multiples of two."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    smooth = np.stack([x * 200 // size[0] + 20, y * 200 // size[1] + 20, (x + y) * 100 // sum(size) + 50], 2)
    data = encoded(Image.fromarray(smooth.astype(np.uint8)), quality=95, subsampling=sampling)
    found = store(data, size=200)
    plain = Image.open(io.BytesIO(data)).resize((found.width, found.height), Image.Resampling.BICUBIC)
    difference = np.abs(pixels(found) - np.asarray(plain).astype(int))
    assert difference.mean() < 1.0
    assert difference.max() < 12


def test_bytes_stay_where_nothing_changes() -> None:
    for form, name in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        data = encoded(halves(80, 60), form)
        kept = store(data, size=100, format=name)
        assert (kept.data, kept.extension) == (data, name)
        assert store(data, size=60, format=name).data == data
        if form != "PNG":  # which gives the same bytes again
            assert store(data, size=100, format=name, encode="always").data != data
        assert store(data, size=50, format=name).data != data
        same = store(data, mode="no", encode="never")
        assert (same.data, same.extension) == (data, name)
    grey = encoded(Image.new("L", (80, 60), 77))
    assert store(grey, size=100).data == grey


def test_pictures_are_turned_upright() -> None:
    """Orientation 6: what is stored left is shown on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = store(encoded(halves(), exif=exif, quality=95), size=60)
    assert (found.width, found.height, found.original_width, found.original_height) == (60, 80, 300, 400)
    shown = pixels(found)
    assert close(shown[10, 30], RED)
    assert close(shown[70, 30], BLUE)
    assert json.loads(found.exif or "") == {"Orientation": "6"}
    assert Image.open(io.BytesIO(found.data)).getexif().get(0x0112, 1) == 1


def test_pictures_that_say_they_are_upright_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(halves(), exif=exif, quality=95)
    monkeypatch.setattr("diptych.data.acquire.pictures._store_any", None)
    assert json.loads(store(data, size=60).exif or "") == {"Orientation": "1"}


def test_exif_is_told_as_texts() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "Maker", "2020:01:02 03:04:05"
    expected = {"Make": "Maker", "DateTime": "2020:01:02 03:04:05"}
    for data in (encoded(halves(), exif=exif), encoded(halves(), "PNG", exif=exif)):
        assert json.loads(store(data).exif or "") == expected
    assert store(encoded(halves())).exif is None


def test_weird_colours_become_srgb() -> None:
    """Transparent, 16 bits, CMYK, palette, black and white, a profile of its own."""
    clear = Image.new("RGBA", (80, 60), (200, 30, 30, 0))
    assert close(pixels(store(encoded(clear, "PNG"))), (255, 255, 255))
    deep = Image.fromarray(np.full((60, 80), 257 * 100, dtype=np.uint16))
    assert close(pixels(store(encoded(deep, "PNG"))), (100, 100, 100), 1)
    ink = Image.new("CMYK", (80, 60), (0, 255, 255, 0))
    assert close(pixels(store(encoded(ink))), (255, 0, 0), 20)
    assert close(pixels(store(encoded(halves(80, 60).convert("P"), "PNG")))[5, 5], RED, 30)
    assert close(pixels(store(encoded(Image.new("1", (80, 60), 1), "PNG"))), (255, 255, 255))
    floats = Image.fromarray(np.zeros((60, 80), dtype=np.float32))
    with pytest.raises(MediumProblemError, match="floating-point"):
        store(encoded(floats, "TIFF"))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    known = encoded(halves(80, 60), icc_profile=lab)
    assert store(known).data == known


def test_a_profile_is_applied() -> None:
    """XYZ as the profile of the picture: the colours change, and the bytes do not stay."""
    strange = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Red and blue primaries change places; the description is another.
    at_red, at_blue = strange.index(b"rXYZ"), strange.index(b"bXYZ")
    strange[at_red : at_red + 4], strange[at_blue : at_blue + 4] = b"bXYZ", b"rXYZ"
    profile = bytes(strange).replace(b"s\0R\0G\0B\0", b"o\0d\0d\0!\0").replace(b"sRGB", b"odd!")
    data = encoded(Image.new("RGB", (400, 300), RED), icc_profile=profile, quality=95)
    shown = pixels(store(data, size=60))
    assert shown[30, 40, 2] > 150 > shown[30, 40, 0]


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (80, 60), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = store(data)
    assert found.frames == 2
    assert close(pixels(found), RED, 12)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"<html>not found</html>", "not a picture"),
        (b"GIF89a", "not a picture"),
        (b"", "not a picture"),
        (encoded(halves())[:3000], "broken picture"),
        (encoded(halves(), "PNG")[:400], "broken picture"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not a picture"),
    ],
)
def test_what_is_no_picture(data: bytes, cause: str) -> None:
    for mode in ("keep_ratio", "no"):
        with pytest.raises(MediumProblemError) as caught:
            store(data, mode=mode)
        assert caught.value.cause in (cause, "broken picture")


def test_limits_are_checked_before_decoding() -> None:
    data = encoded(halves())
    for options, cause in (
        ({"max_pixels": 119_999}, "picture too large"),
        ({"min_side": 301}, "picture too small"),
        ({"max_aspect": 1.3}, "too elongated"),
    ):
        for form in ("JPEG", "PNG"):
            with pytest.raises(MediumProblemError) as caught:
                store(encoded(halves(), form), **options)
            assert caught.value.cause == cause
    assert store(data, max_pixels=120_000, min_side=300, max_aspect=4 / 3).width == 341
    bomb = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    # Width and height in the header, and its checksum.
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(MediumProblemError) as caught:
        store(bytes(bomb))
    assert caught.value.cause == "picture too large"


def test_difference_hash_by_hand() -> None:
    """Rising from left to right: all 64 bits, which is -1; falling or even: none."""
    ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert difference_hash(Image.fromarray(ramp)) == -1
    assert difference_hash(Image.fromarray(ramp[:, ::-1].copy())) == 0
    assert difference_hash(Image.new("L", (50, 40), 9)) == 0
    # Only the first of the eight steps of the first row rises: the highest bit.
    step = np.zeros((8, 9), dtype=np.uint8)
    step[0, 1:] = 50
    assert difference_hash(Image.fromarray(step)) == -(2**63)
    assert hash_distance(-1, 0) == 64
    assert hash_distance(-(2**63), 1) == 2


def test_near_duplicates_have_near_hashes() -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(2):
        small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        pictures.append(small.resize((600, 450), Image.Resampling.BICUBIC))
    first, other = (store(encoded(p, quality=90)).dhash for p in pictures)
    again = store(encoded(pictures[0].resize((300, 225)), "WEBP", quality=60), size=128).dhash
    assert hash_distance(first, again) <= 6
    assert hash_distance(first, other) >= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "keep_ration"}, r"--mode: unknown value 'keep_ration'; did you mean 'keep_ratio'"),
        ({"format": "bmp"}, "--format: unknown value 'bmp'"),
        ({"size": 0}, "--size: expected at least 1, got 0"),
        ({"quality": 101}, "--quality: expected 1 to 100, got 101"),
        ({"encode": "never"}, "needs --mode no"),
        ({"max_pixels": 10**9}, "--max-pixels"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PictureOptions(**options)

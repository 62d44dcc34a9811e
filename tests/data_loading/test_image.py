import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.config import ImageConfig
from diptych.data.image import (
    CROP_DRAWS,
    PictureError,
    decode_image,
    make_square,
    mirror,
    normalise,
    open_image,
    random_box,
    smallest_side,
    square_into,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8), "RGB"
    )


# What a 2 x 3 picture [[1, 2], [3, 4], [5, 6]] looks like upright for each orientation tag.
UPRIGHT = {
    1: [[1, 2], [3, 4], [5, 6]],
    2: [[2, 1], [4, 3], [6, 5]],
    3: [[6, 5], [4, 3], [2, 1]],
    4: [[5, 6], [3, 4], [1, 2]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[5, 3, 1], [6, 4, 2]],
    7: [[6, 4, 2], [5, 3, 1]],
    8: [[2, 4, 6], [1, 3, 5]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied(orientation: int) -> None:
    image = Image.fromarray(np.array(UPRIGHT[1], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_image(encoded(image, exif=exif))
    assert found[..., 0].tolist() == UPRIGHT[orientation]


def test_damaged_metadata_does_not_matter() -> None:
    data = encoded(gradient(8, 8), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert decode_image(data).shape == (8, 8, 3)


def test_modes() -> None:
    def one(mode: str, value: Any, kind: str = "PNG", **options: Any) -> list[int]:
        found = decode_image(encoded(Image.new(mode, (4, 4), value), kind, **options), "#0000ff")
        assert found.shape == (4, 4, 3)
        assert found.dtype == np.uint8
        pixel: list[int] = found[1, 2].tolist()
        return pixel

    assert one("RGB", (1, 2, 3)) == [1, 2, 3]
    assert one("L", 7) == [7, 7, 7]
    assert one("1", 1) == [255, 255, 255]
    assert one("RGBA", (200, 100, 0, 0)) == [0, 0, 255]
    assert one("RGBA", (200, 100, 0, 255)) == [200, 100, 0]
    # Half of (200, 100, 0) over (0, 0, 255), at 128 / 255 = 0.502.
    assert one("RGBA", (200, 100, 0, 128)) == [100, 50, 127]
    assert one("LA", (80, 0)) == [0, 0, 255]
    # 16 bits: 65535 is white, 257 is one step of 8 bits.
    assert one("I;16", 65535) == [255, 255, 255]
    assert one("I;16", 257 * 9) == [9, 9, 9]
    assert one("CMYK", (0, 0, 0, 0), "TIFF") == [255, 255, 255]
    assert one("CMYK", (0, 255, 255, 0), "TIFF") == [255, 0, 0]


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode_image(encoded(image))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode_image(encoded(image, transparency=1), "black")[0].tolist() == [[10, 20, 30], [0, 0, 0]]
    assert open_image(encoded(image, transparency=1)).mode == "RGBA"


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 100_000])
def test_decompression_bombs_are_refused(side: int) -> None:
    with pytest.raises(PictureError, match="picture too large") as caught:
        open_image(png_header(side, side))
    assert caught.value.cause == "picture too large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for keep in (len(data) // 2, 30):
        with pytest.raises(PictureError) as caught:
            decode_image(data[:keep])
        assert caught.value.cause in {"truncated picture", "unreadable picture"}
    with pytest.raises(PictureError, match="truncated" if kind in {"PNG", "JPEG"} else "picture"):
        decode_image(data[: len(data) // 2])


def test_other_bytes_are_refused() -> None:
    for data, reason in ((b"", "the file is empty"), (b"hello", "no known picture format")):
        with pytest.raises(PictureError, match=f"unreadable picture .{reason}"):
            open_image(data)
    with pytest.raises(PictureError, match="floating-point"):
        open_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
def test_flipped_bytes_decode_or_are_refused(seed: int, kind: str) -> None:
    data = bytearray(encoded(gradient(16, 16), kind))
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(data), 5):
        data[at] = random.integers(256)
    with contextlib.suppress(PictureError):  # anything else is a defect
        assert decode_image(bytes(data)).shape[2] == 3


def test_resizing_is_pillows_bicubic() -> None:
    image = gradient(50, 30)
    found = make_square(image, ImageConfig(size=12))
    assert np.array_equal(found, image.resize((12, 12), Image.Resampling.BICUBIC))
    # The central square of 50 x 30 is x from 10 to 40.
    found = make_square(image, ImageConfig(size=12, resize="crop"))
    assert np.array_equal(found, image.resize((12, 12), Image.Resampling.BICUBIC, box=(10, 0, 40, 30)))
    assert np.array_equal(make_square(image, ImageConfig(size=12, resize="random_crop")),
                          image.resize((12, 12), Image.Resampling.BICUBIC))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    size=st.sampled_from([1, 7, 16, 64]),
    resize=st.sampled_from(["squash", "pad", "crop", "random_crop"]),
    channels=st.sampled_from([3, 4]),
)
def test_bytes_are_resized_as_pillow_does(
    width: int, height: int, size: int, resize: Any, channels: int
) -> None:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 120 * np.sin(x / 5 + y / 9), x * 255 / width, 255 - y * 255 / height], 2)
    picture = pixels.astype(np.uint8)
    config = ImageConfig(size=size, resize=resize, background="#102030")
    draws = np.random.default_rng(width).random(CROP_DRAWS)
    # Filled with something else, and with the neighbours beside it, as in a batch.
    batch = np.full((3, size, size, channels), 77, dtype=np.uint8)
    square_into(batch[1], picture, config, draws)
    image = Image.fromarray(picture)
    if resize in ("crop", "random_crop"):
        # Cut out first: Pillow's `box` would look at pixels outside of it.
        side = min(width, height)
        box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
        if resize == "crop":
            box = (*box[:2], box[0] + side, box[1] + side)
        else:
            box = random_box(width, height, config.scale, config.ratio, draws)
        image = image.crop(box)
        config = config.with_(resize="squash")
    wanted = np.asarray(make_square(image.convert("RGBA") if channels == 4 else image, config))
    difference = np.abs(batch[1].astype(int) - wanted)
    # Both round after each of two passes; torch's weights have 16 bits, Pillow's 22, so that a value near a
    # half may round otherwise each time.
    assert difference.max() <= 2
    assert (difference > 1).mean() <= 0.001 + 1 / difference.size
    assert difference.mean() <= 0.1 + 0.5 * (difference.size < 100)
    assert (batch[[0, 2]] == 77).all()


def test_a_transparent_picture_is_resized_by_pillow() -> None:
    image = gradient(30, 20).convert("RGBA")
    image.putalpha(Image.fromarray(np.mgrid[:20, :30][1].astype(np.uint8) * 8))
    out = np.empty((12, 12, 4), dtype=np.uint8)
    square_into(out, image, ImageConfig(size=12))
    assert np.array_equal(out, np.asarray(make_square(image, ImageConfig(size=12))))


def test_mirror() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    wanted = pixels[:, ::-1].copy()
    mirror(pixels)
    assert np.array_equal(pixels, wanted)


def test_padding_keeps_the_shape_and_shows_the_background() -> None:
    found = np.array(
        make_square(
            Image.new("RGB", (20, 10), "red"), ImageConfig(size=8, resize="pad", background="#00ff00")
        )
    )
    assert (found[[0, 1, 6, 7]] == [0, 255, 0]).all()
    assert (found[2:6] == [255, 0, 0]).all()
    transparent = np.array(make_square(Image.new("RGBA", (20, 10), "red"), ImageConfig(size=8, resize="pad")))
    assert (transparent[[0, 1, 6, 7], :, 3] == 0).all()
    assert (transparent[2:6] == [255, 0, 0, 255]).all()


def test_transparent_pixels_do_not_bleed_when_resizing() -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)
    pixels[:, 4:] = (0, 255, 0, 0)
    found = np.array(make_square(Image.fromarray(pixels), ImageConfig(size=4)))
    visible = found[found[..., 3] > 10]
    assert (visible[:, 0] > 250).all()
    assert (visible[:, 1] < 5).all()


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_random_boxes_keep_their_limits(width: int, height: int, seed: int) -> None:
    draws = np.random.default_rng(seed).random(CROP_DRAWS)
    left, top, right, bottom = random_box(width, height, (0.3, 0.8), (0.5, 2.0), draws)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if min(width, height) > 50 and 0.5 < width / height < 2:
        share = (right - left) * (bottom - top) / (width * height)
        assert 0.28 < share < 0.82
        assert 0.48 < (right - left) / (bottom - top) < 2.1


def test_random_box_by_hand() -> None:
    # A first try of 2:1 at full area does not fit; then 0.25 of 100 x 100, square, at x = 0.5 * 51, y = 0.
    draws = np.zeros(CROP_DRAWS)
    draws[:8] = [1, 1, 0, 0, 0, 0.5, 0.5, 0]
    assert random_box(100, 100, (0.25, 1.0), (0.5, 2.0), draws) == (25, 0, 75, 50)
    # Nothing ever fits a strip: the largest central part within the ratio.
    assert random_box(100, 10, (1.0, 1.0), (0.5, 2.0), np.zeros(CROP_DRAWS)) == (40, 0, 60, 10)


def test_large_jpegs_are_reduced_only_above_three() -> None:
    data = encoded(gradient(960, 720), "JPEG", quality=95)
    assert open_image(data).size == (960, 720)
    assert open_image(data, 224).size == (960, 720)
    assert open_image(data, 200).size == (960, 720)
    assert open_image(data, 120).size == (480, 360)
    assert open_image(data, 60).size == (240, 180)
    exact = np.array(make_square(open_image(data), ImageConfig(size=100))).astype(int)
    reduced = np.array(make_square(open_image(data, 100), ImageConfig(size=100))).astype(int)
    assert np.abs(exact - reduced).max() <= 6
    config = ImageConfig(size=100, resize="random_crop", scale=(0.25, 1.0), ratio=(1.0, 1.0))
    assert smallest_side(config) == 200
    assert smallest_side(ImageConfig(size=100)) == 100


def test_normalise_by_hand() -> None:
    class Spec:
        mean = (0.5, 0.0, 1.0)
        std = (0.5, 1.0, 2.0)

    pixels = torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    wanted = torch.tensor([1.0, 0.2, -0.5]).view(1, 3, 1, 1)
    assert torch.allclose(normalise(pixels, Spec()), wanted, atol=1e-6)
    assert torch.allclose(normalise(pixels / 255, Spec()), wanted, atol=1e-6)
    assert normalise(pixels, Spec()).dtype == torch.float32
    # Many pictures, in either order of memory, which is kept.
    many = torch.randint(0, 256, (9, 3, 90, 80), dtype=torch.uint8)
    wanted = torch.cat([normalise(many[..., x : x + 1], Spec()) for x in range(80)], dim=3)
    assert torch.equal(normalise(many, Spec()), wanted)
    last = many.contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(last, Spec()), wanted)
    assert normalise(last, Spec()).is_contiguous(memory_format=torch.channels_last)
    assert normalise(many[:0], Spec()).shape == (0, 3, 90, 80)


@pytest.mark.parametrize(
    "wrong", [{"background": "blue"}, {"background": "#12345"}, {"scale": (0.9, 0.5)}, {"ratio": (0, 1)}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ImageConfig.model_validate(wrong)

"""Pictures in their own shape: sizes, resizing, frames, and what the loader makes of them."""

import io
import json
import tarfile
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from diptych.data.batch import Batch
from diptych.data.config import DataConfig, ImageConfig
from diptych.data.decode import Pixels
from diptych.data.examples import expand
from diptych.data.fit import fit_size, frame_side, limits, pad_batch, padded, resize_like_opencv, waste
from diptych.data.image import fit_into
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.text import Tokenizer

SIDES = st.integers(1, 3000)


def test_sizes_by_hand() -> None:
    assert fit_size(640, 480, 1000, 600) == (800, 600)  # the shorter side decides
    assert fit_size(480, 640, 1000, 600) == (600, 800)
    assert fit_size(2000, 500, 1000, 600) == (1000, 250)  # the longer one does
    assert fit_size(500, 333, 1000, 600) == (901, 600)  # 500 * 600 / 333 = 900.9
    assert fit_size(10, 10, 1000, 600) == (600, 600)  # small pictures are enlarged
    assert fit_size(10000, 3, 1000, 600) == (1000, 1)  # never without a row


@hypothesis_settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 2000), st.integers(1, 2000))
def test_sizes_keep_within_their_limits_and_the_shape(w: int, h: int, long: int, short: int) -> None:
    width, height = fit_size(w, h, long, short)
    assert max(width, height) <= max(long, 1)
    assert min(width, height) <= max(short, 1)
    # One of the limits is reached, both sides are rounded from the same scale.
    scale = min(Fraction(long, max(w, h)), Fraction(short, min(w, h)))
    assert abs(width - max(1, w * scale)) <= Fraction(51, 100)
    assert abs(height - max(1, h * scale)) <= Fraction(51, 100)
    config = ImageConfig(resize="fit", long=long, short=short, multiple=7)
    assert frame_side(config) >= max(width, height)


def slow_resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize pixel by pixel: bilinear between centres, weights of 11 bits, as OpenCV's integers do."""
    h, w, channels = pixels.shape

    def place(i: int, source: int, target: int) -> tuple[int, np.float32]:
        centre = np.float32((i + 0.5) * (source / target) - 0.5)
        left = int(np.floor(centre))
        return left, np.float32(centre - np.float32(left))

    def pair(share: np.float32) -> tuple[int, int]:
        whole = np.float32(2048)
        return int(np.rint((np.float32(1) - share) * whole)), int(np.rint(share * whole))

    found = np.zeros((height, width, channels), dtype=np.uint8)
    for y in range(height):
        top, down = place(y, h, height)
        b0, b1 = pair(down)
        for x in range(width):
            left, along = place(x, w, width)
            if left < 0 or left >= w - 1:
                along = np.float32(0)
            a0, a1 = pair(along)
            columns = [min(max(left, 0), w - 1), min(max(left, 0) + 1, w - 1)]
            rows = [min(max(top, 0), h - 1), min(max(top + 1, 0), h - 1)]
            for c in range(channels):
                lines = [
                    (int(pixels[r, columns[0], c]) * a0 + int(pixels[r, columns[1], c]) * a1) >> 4
                    for r in rows
                ]
                total = ((b0 * lines[0]) >> 16) + ((b1 * lines[1]) >> 16)
                found[y, x, c] = (total + 2) >> 2
    return found


@pytest.mark.parametrize("size", [(7, 5), (3, 2), (13, 11), (1, 1), (6, 17)])
@pytest.mark.parametrize("source", [(7, 5), (1, 4), (9, 1)])
def test_resizing_like_opencv(source: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    found = resize_like_opencv(pixels, *size)
    assert np.array_equal(found, slow_resize(pixels, *size))
    # Within a grey level or two of the exact bilinear one.
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), size=size[::-1], mode="bilinear"
    )[0].permute(1, 2, 0)
    assert np.abs(found - exact.numpy()).max() < 1.6
    if size == source:
        assert np.array_equal(found, pixels)


def test_limits_of_training_cover_their_range() -> None:
    config = ImageConfig(resize="fit", long=10, short=5, train_long=12, train_short=(4, 6))
    assert limits(config, None) == (10, 5)
    assert [limits(config, draw)[1] for draw in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999999)] == [4, 4, 5, 5, 6, 6]
    assert limits(config, 0.5)[0] == 12
    assert frame_side(config.with_(multiple=8)) == 16
    plain = ImageConfig(resize="fit", long=10, short=5)
    assert limits(plain, 0.9) == limits(plain, None) == (10, 5)
    for wrong in ((0, 4), (5, 4)):
        with pytest.raises(ValidationError, match="train_short: expected 0 < smallest <= largest"):
            ImageConfig(resize="fit", train_short=wrong)


def test_frames_of_a_batch() -> None:
    assert [padded(side, 32) for side in (1, 32, 33, 64)] == [32, 32, 64, 64]
    batch, sizes = pad_batch([torch.ones(3, 2, 5), torch.ones(3, 4, 3)], 4)
    assert batch.shape == (2, 3, 4, 8)
    assert sizes.tolist() == [[2, 5], [4, 3]]
    assert float(batch.sum()) == 3 * (10 + 12)
    assert float(batch[0, 0, :2, :5].sum()) == 10
    assert float(waste(sizes, 4, 8)) == pytest.approx(1 - 22 / 64)
    assert waste(sizes[:0], 4, 8) == 1
    assert waste(torch.tensor([[[4, 8], [4, 8]]]), 4, 8) == 0  # two pictures a sample


@pytest.mark.parametrize("interpolation", ["bicubic", "opencv"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_in_its_frame(interpolation: str, channels: int) -> None:
    config = ImageConfig.model_validate(
        {"resize": "fit", "long": 16, "short": 8, "interpolation": interpolation}
    )
    pixels = np.full((10, 40, 3), 200, dtype=np.uint8)
    out = np.full((16, 16, channels), 77, dtype=np.uint8)
    assert fit_into(out, pixels, config) == (4, 16)
    assert (out[:4, :, :3] == 200).all()
    assert (out[4:] == 77).all()
    if channels == 4:
        assert (out[:4, :, 3] == 255).all()


# --- The loader ---

SHAPES = [(20, 10), (10, 20), (16, 16), (30, 6), (12, 9), (9, 12), (40, 20)]
FIT = {"resize": "fit", "long": 24, "short": 12, "multiple": 8}


def png(number: int, size: tuple[int, int]) -> bytes:
    """A picture whose left half is darker than its right one; no pixel is black."""
    pixels = np.full((size[1], size[0], 3), 60 + number, dtype=np.uint8)
    pixels[:, size[0] // 2 :] = 160 + number
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(path: Path, *, pairs: bool = False, captions: int = 2) -> Path:
    with tarfile.open(path, "w") as tar:
        for i, size in enumerate(SHAPES):
            media = (
                {"0.png": png(i, size), "1.png": png(i + 20, SHAPES[i - 1])}
                if pairs
                else {"png": png(i, size)}
            )
            about: dict[str, Any] = {
                "captions": [f"text {i} {j}" for j in range(captions if i else 1)],
                "match_id": "",
                "meta": {"statements": [{"statement": "yes", "label": True}] * 2} if pairs else {},
            }
            for name, content in {**media, "json": json.dumps(about).encode()}.items():
                info = tarfile.TarInfo(f"s{i}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return ShardDataset.open(write(tmp_path_factory.mktemp("fit") / "a.tar")).select()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    dataset = ShardDataset.open(write(tmp_path_factory.mktemp("pairs") / "a.tar", pairs=True))
    return expand(dataset.select(), "statements")


def settings(image: dict[str, Any] | None = None, **sections: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "image": {**FIT, **(image or {})},
            "loader": {"batch_size": 4, **sections.pop("loader", {})},
            **sections,
        }
    )


def take(selection: Selection, config: DataConfig, count: int = 6, **options: Any) -> list[Batch]:
    loader = Loader(selection, config, options.pop("tokenizer", None), seed=1, **options)
    found = list(islice(loader, count))
    loader.close()
    return found


def test_evaluation_shows_whole_pictures_in_the_smallest_frame(shapes: Selection) -> None:
    batches = list(evaluation_batches(shapes, settings(), 4))
    expected = [[12, 24], [24, 12], [12, 12], [5, 24], [12, 16], [16, 12], [12, 24]]
    found: list[list[int]] = []
    for batch, frame in zip(batches, [(24, 24), (16, 24)], strict=True):
        assert batch.images is not None
        assert batch.image_sizes is not None
        assert tuple(batch.images.shape[2:]) == frame
        found += batch.image_sizes.tolist()
        for image, (height, width) in zip(batch.images, batch.image_sizes.tolist(), strict=True):
            assert int(image[:, :height, :width].min()) > 40
            assert int(image[:, height:].sum()) == int(image[:, :, width:].sum()) == 0
    assert found == expected


def test_training_draws_limits_for_each_sample(shapes: Selection) -> None:
    config = settings({"train_long": 40, "train_short": (8, 16)})
    seen: dict[str, set[int]] = {}
    for batch in take(shapes, config, 60):
        assert batch.images is not None
        assert batch.image_sizes is not None
        sizes = batch.image_sizes
        assert tuple(batch.images.shape[2:]) == tuple(padded(int(s), 8) for s in sizes.max(0).values)
        for key, (height, width) in zip(batch.keys, sizes.tolist(), strict=True):
            seen.setdefault(key, set()).add(min(height, width))
    assert seen["s2"] == set(range(8, 17))  # a square shows the drawn limit itself
    assert seen["s3"] == {8}  # 30 x 6: its longer side decides from 8 on (40 / 30 * 6)
    # Evaluation draws nothing.
    (first, *_), (second, *_) = ([*evaluation_batches(shapes, config, 4)] for _ in range(2))
    assert first.image_sizes is not None
    assert second.image_sizes is not None
    assert torch.equal(first.image_sizes, second.image_sizes)


def same(a: Batch, b: Batch) -> None:
    assert a.keys == b.keys
    assert a.texts == b.texts
    for name in ("images", "image_sizes", "text_ids", "text_mask"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        assert x is None or torch.equal(x, y), name


def test_workers_and_the_cache_change_nothing(shapes: Selection) -> None:
    image = {"train_short": (8, 14), "flip": 0.5}
    here = take(shapes, settings(image))
    for loader in ({"workers": 2}, {"cache_mb": 4}):
        for a, b in zip(here, take(shapes, settings(image, loader=loader)), strict=True):
            same(a, b)
    later = take(shapes, settings(image), 3, start_batch=3)
    for a, b in zip(here[3:], later, strict=True):
        same(a, b)


def test_only_the_picture_is_mirrored(shapes: Selection) -> None:
    plain, mirrored = take(shapes, settings()), take(shapes, settings({"flip": 1.0}))
    for a, b in zip(plain, mirrored, strict=True):
        assert a.images is not None
        assert b.images is not None
        assert a.image_sizes is not None
        for image, other, (height, width) in zip(a.images, b.images, a.image_sizes.tolist(), strict=True):
            inside = image[:, :height, :width]
            assert torch.equal(inside.flip(2), other[:, :height, :width])
            assert int(other[:, height:].sum()) == int(other[:, :, width:].sum()) == 0
            assert int(inside[0, 0, 0]) < int(inside[0, 0, -1])


@pytest.mark.parametrize("loader", [{}, {"workers": 1}, {"cache_mb": 4}])
def test_two_pictures_have_a_size_each(pairs: Selection, loader: dict[str, Any]) -> None:
    (batch, *_) = take(pairs, settings(examples="statements", loader=loader), 4)
    assert batch.images is not None
    assert batch.image_sizes is not None
    assert batch.images.shape[:3] == (4, 2, 3)
    assert batch.image_sizes.shape == (4, 2, 2)
    expected = [[12, 24], [24, 12], [12, 12], [5, 24], [12, 16], [16, 12], [12, 24]]
    for key, frames, sizes in zip(batch.keys, batch.images, batch.image_sizes.tolist(), strict=True):
        number = int(key[1:])
        assert sizes == [expected[number], expected[number - 1]]
        for frame, (height, width) in zip(frames, sizes, strict=True):
            assert int(frame[:, :height, :width].min()) > 40
            assert int(frame[:, height:].sum()) == int(frame[:, :, width:].sum()) == 0


# --- Several captions a picture ---


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_vocabulary(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "text", *"0123456789"])


@pytest.mark.parametrize("padding", ["max_length", "longest"])
def test_several_captions_of_each_picture(tmp_path: Path, tokenizer: Tokenizer, padding: str) -> None:
    selection = ShardDataset.open(write(tmp_path / "a.tar", captions=3)).select()
    text = {"per_picture": 5, "pick": "random", "max_tokens": 6, "padding": padding}
    orders: dict[str, set[tuple[str, ...]]] = {}
    for batch in take(selection, settings(text=text), 20, tokenizer=tokenizer):
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        assert batch.text_ids.shape == batch.text_mask.shape == (4, 5, 6 if padding == "max_length" else 5)
        for key, ids, chosen in zip(batch.keys, batch.text_ids, batch.texts or [], strict=True):
            texts = [tokenizer.decode(row) for row in ids]
            assert texts[0] == chosen
            number = int(key[1:])
            assert {words.split()[1] for words in texts} == {str(number)}
            counts = sorted(texts.count(words) for words in set(texts))
            # Each once before any comes twice; the first picture has one caption alone.
            assert counts == ([1, 2, 2] if number else [5])
            if number:
                assert len(set(texts[:3])) == 3
            orders.setdefault(key, set()).add(tuple(texts))
    assert len(orders["s1"]) > 1
    # In their order, from the first on again, without `pick=random`.
    (batch, *_) = take(selection, settings(text={**text, "pick": "first"}), 1, tokenizer=tokenizer)
    assert batch.text_ids is not None
    for key, ids in zip(batch.keys, batch.text_ids, strict=True):
        if key != "s0":
            assert [tokenizer.decode(row).split()[2] for row in ids] == ["0", "1", "2", "0", "1"]


def test_evaluation_sees_all_captions_once(shapes: Selection, tokenizer: Tokenizer) -> None:
    text = {"per_picture": 4, "pick": "random", "max_tokens": 6}
    (batch,) = evaluation_batches(shapes, settings(text=text), 16, tokenizer)
    assert batch.text_ids is not None
    assert batch.text_ids.shape == (7, 6)
    assert batch.captions is not None
    assert [len(captions) for captions in batch.captions] == [1, 2, 2, 2, 2, 2, 2]


# --- What does not go together ---


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"augment": {"zoom": 0.1}}, r"augment: rotation, zoom, .*image\.resize = fit"),
        ({"augment": {"randaugment_ops": 2}}, "RandAugment's Shear"),
        ({"loader": {"pack": True}, "text": {"per_picture": 2}}, r"text\.per_picture = 2: loader\.pack"),
    ],
)
def test_settings_that_do_not_go_together(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**sections)
    settings(augment={"randaugment_ops": 2, "randaugment_choices": ["Brightness"], "hue": 0.1})

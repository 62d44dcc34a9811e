"""What becomes of odd pictures, videos and texts: when they are prepared, and when they are loaded."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from odd_media import ODD_PICTURES, ODD_TEXTS, ODD_VIDEOS

from diptych.data.columns import Row
from diptych.data.image import PictureError, decode_image
from diptych.data.index import ShardDataset
from diptych.data.members import BadSampleError, named_by_content
from diptych.data.miniatures.media import picture, video
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter

LEFT_OUT = "left out as `"
DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def prepared(folder: Path, sample: Sample) -> tuple[Row, Sample]:
    with ShardWriter(folder, "d") as writer:
        row = writer.write(sample)
    return row, ShardDataset.open(folder).select("all").read(0)


@pytest.mark.parametrize("odd", ODD_PICTURES, ids=lambda odd: odd.name)
def test_odd_pictures(tmp_path, odd):
    sample = Sample("k", {odd.ending: odd.data}, ("c",))
    if odd.prepared.startswith(LEFT_OUT):
        with pytest.raises(BadSampleError) as caught:
            prepared(tmp_path, sample)
        assert odd.prepared.startswith(f"{LEFT_OUT}{caught.value.cause}`")
    else:
        row, stored = prepared(tmp_path, sample)
        (name,) = stored.media
        assert odd.check(name, row), (name, row)
        assert stored.media[name] == odd.data
    if odd.pixels is None:
        with pytest.raises(PictureError) as refused:
            decode_image(odd.data)
        assert refused.value.cause in odd.loaded
    else:
        pixels = decode_image(odd.data)
        assert pixels.shape == (*odd.pixels.shape[:2], 3)
        assert np.abs(pixels.astype(int) - odd.pixels).max() <= 4


@pytest.mark.parametrize("odd", ODD_VIDEOS, ids=lambda odd: odd.name)
def test_odd_videos(tmp_path, odd):
    sample = Sample("k", {odd.ending: odd.data}, ("c",))
    if odd.prepared.startswith(LEFT_OUT):
        with pytest.raises(BadSampleError) as caught:
            prepared(tmp_path, sample)
        assert odd.prepared.startswith(f"{LEFT_OUT}{caught.value.cause}`")
        return
    row, stored = prepared(tmp_path, sample)
    (name,) = stored.media
    assert odd.check(name, row), (name, row)
    assert stored.media[name] == odd.data


@pytest.mark.parametrize("odd", ODD_TEXTS, ids=lambda odd: odd.name)
def test_odd_texts(tmp_path, odd):
    odd.check(tmp_path)


def test_the_page_lists_all_of_them():
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = {tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows}
    for odd in ODD_PICTURES:
        assert (odd.name, odd.prepared, odd.loaded) in cells
    for odd in ODD_VIDEOS:
        assert (odd.name, odd.prepared) in cells
    for odd in ODD_TEXTS:
        assert (odd.name, odd.result) in cells


def test_names_by_content():
    png, jpg, mp4, webm = (
        picture(1, format="png"),
        picture(2),
        video(3, seconds=0.2),
        video(4, seconds=0.2, container="webm"),
    )
    sample = Sample("k", {"0.jpg": png, "1.jpeg": jpg, "mp4": webm, "bin": png, "2.mov": mp4})
    assert named_by_content(sample).media == {
        "0.png": png,
        "1.jpeg": jpg,
        "webm": webm,
        "bin": png,
        "2.mov": mp4,
    }
    # The name of another medium is not taken.
    clash = Sample("k", {"jpg": png, "png": png})
    assert named_by_content(clash) is clash
    same = Sample("k", {"jpg": jpg, "gif": b"?"})
    assert named_by_content(same) is same


def test_a_picture_that_announces_too_much(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(BadSampleError) as caught:
        prepared(tmp_path, Sample("k", {"png": data}))
    assert caught.value.cause == "picture too large"
    with pytest.raises(PictureError, match="picture too large"):
        decode_image(data)


def test_a_sample_with_a_video_and_a_picture_is_measured_by_the_video(tmp_path):
    row, _ = prepared(tmp_path, Sample("k", {"jpg": picture(1, (100, 50)), "mp4": video(1)}))
    assert (row["width"], row["frames"]) == (32, 16)


def test_json_of_odd_facts(tmp_path):
    meta = {"a": float("nan"), "b": [float("inf"), {"c\ud83d": "\ud83d\ude00"}], "d": "x\udc00"}
    row, stored = prepared(tmp_path, Sample("k", {}, ("\udfffcaption",), meta=meta))
    assert stored.meta == {"a": None, "b": [None, {"c\ufffd": "😀"}], "d": "x\ufffd"}
    assert stored.captions == ("\ufffdcaption",)
    assert "a" not in row
    assert row["d"] == "x\ufffd"

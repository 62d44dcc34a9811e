"""Shards: bytes, places, limits, refusals."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_card import png, toy_sample, tree

from diptych.data.members import MAX_KEY, is_key, pack, probe, unpack
from diptych.data.miniatures.media import video
from diptych.data.sample import Sample
from diptych.data.shards import BadSampleError, FinishedShard, KeySet, ShardWriter, clean_key
from diptych.errors import DataError


def test_layout_by_hand(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "d") as writer:
        row = writer.write(Sample("k", {"bin": b"abc"}, ("hello",), meta={"n": 1}))
    side = b'{"captions":["hello"],"match_id":"","split":"train","meta":{"n":1}}'
    # header 512 + content in blocks of 512, three members; then two empty blocks, filled up to 10240
    assert (row["bin_offset"], row["bin_size"]) == (512, 3)
    assert (row["txt_offset"], row["txt_size"]) == (1536, 5)
    assert (row["json_offset"], row["json_size"]) == (2560, len(side))
    assert (row["sample_offset"], row["sample_size"]) == (0, 3072)
    data = (tmp_path / "d-000000.tar").read_bytes()
    assert len(data) == 10240
    assert data[512:515] == b"abc"
    assert data[1536:1541] == b"hello"
    assert data[2560 : 2560 + len(side)] == side
    assert not any(data[3072:])
    with tarfile.open(tmp_path / "d-000000.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (
                0,
                0,
                0,
                "",
                "",
                0o444,
            )


def test_row_by_hand(tmp_path: Path) -> None:
    picture = png(1, width=5, height=2)
    with ShardWriter(tmp_path, "d") as writer:
        row = writer.write(
            Sample("k", {"png": picture}, ("ab", "c"), "m", "val", {"f": 0.5, "ok": True, "no": [1]})
        )
    assert row["captions"] == 2
    assert row["text_chars"] == 2
    assert (row["width"], row["height"], row["frames"], row["duration"]) == (5, 2, None, None)
    assert (row["match_id"], row["split"], row["f"], row["ok"]) == ("m", "val", 0.5, True)
    assert "no" not in row


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, "d", shard_size=3) as writer:
            for i in range(8):
                writer.write(toy_sample(i))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == ["d-000000.tar", "d-000001.tar", "d-000002.tar"]


def test_shards_end_at_either_limit(tmp_path: Path) -> None:
    finished: list[FinishedShard] = []
    # Each sample: png 512 + 512, txt 512 + 512, json 512 + 512 = 3072 bytes; two fit below 7000.
    with ShardWriter(tmp_path, "d", shard_size=100, max_bytes=7000, on_shard=finished.append) as writer:
        for i in range(5):
            writer.write(toy_sample(i))
    assert [shard.samples for shard in finished] == [2, 2, 1]
    assert [len(shard.rows) for shard in finished] == [2, 2, 1]
    assert all((tmp_path / s.file).stat().st_size == s.bytes for s in finished)


def test_long_key_is_found_by_tarfile(tmp_path: Path) -> None:
    key = "k" * MAX_KEY
    with ShardWriter(tmp_path, "d") as writer:
        writer.write(toy_sample(0))
        row = writer.write(Sample(key, {"png": png(9)}, ("x",)))
    with tarfile.open(tmp_path / "d-000000.tar") as tar:
        members = {info.name: info for info in tar}
    assert members[f"{key}.png"].offset_data == row["png_offset"]
    assert members[f"{key}.json"].offset_data == row["json_offset"]


@pytest.mark.parametrize(
    ("sample", "cause"),
    [
        (Sample("a.b", {"png": png(1)}), "bad key"),
        (Sample("", {"png": png(1)}), "bad key"),
        (Sample("k" * (MAX_KEY + 1), {"png": png(1)}), "bad key"),
        (Sample("a/b", {"png": png(1)}), "bad key"),
        (Sample("schön", {"png": png(1)}), "bad key"),
        (toy_sample(0), "repeated key"),
        (Sample("e", {}), "empty sample"),
        (Sample("p", {"png": b"GIF"}), "unreadable picture"),
        (Sample("p", {"jpg": b""}), "unreadable picture"),
    ],
)
def test_bad_samples_leave_the_writer_working(tmp_path: Path, sample: Sample, cause: str) -> None:
    with ShardWriter(tmp_path / "with", "d") as writer:
        writer.write(toy_sample(0))
        with pytest.raises(BadSampleError, match=f"sample '{sample.key}'") as caught:
            writer.write(sample)
        writer.write(toy_sample(1))
    assert caught.value.cause == cause
    with ShardWriter(tmp_path / "without", "d") as writer:
        writer.write(toy_sample(0))
        writer.write(toy_sample(1))
    assert tree(tmp_path / "with") == tree(tmp_path / "without")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("k", {"txt": b"x"}), "'txt' cannot be the extension"),
        (Sample("k", {"PNG": b"x"}), "'PNG' cannot be the extension"),
        (Sample("k", {"bin": b"x"}, meta={"a": b"x"}), "sample 'k': cannot be stored as JSON"),
        (Sample("k", {"bin": b"x"}, meta={"Key": 1}), "fact 'Key' in its meta is named like a column"),
        (Sample("k", {"png": png(1)}, meta={"Width": 1}), "fact 'Width' in its meta"),
        (Sample("k", {"bin": b"x"}, meta={"a_offset": 1}), "fact 'a_offset' in its meta"),
    ],
)
def test_defects_of_a_card_stop(tmp_path: Path, sample: Sample, message: str) -> None:
    with ShardWriter(tmp_path, "d") as writer, pytest.raises(DataError, match=message) as caught:
        writer.write(sample)
    assert not isinstance(caught.value, BadSampleError)
    assert tree(tmp_path) == {}


def test_facts_of_a_medium_that_cannot_be_read_come_from_the_card(tmp_path: Path) -> None:
    meta = {"width": 320, "height": 240, "duration": 1.5, "frames": 36, "fps": 24.0, "audio": True}
    with ShardWriter(tmp_path, "d") as writer:
        row = writer.write(Sample("k", {"bin": b"clip"}, ("c",), meta=meta))
    assert {name: row[name] for name in meta} == meta


def test_what_a_medium_tells_wins_over_the_card(tmp_path: Path) -> None:
    meta = {"width": 320, "duration": 1.5}
    with ShardWriter(tmp_path, "d") as writer:
        row = writer.write(Sample("k", {"mp4": video(1, seconds=2.0, fps=8)}, meta=meta))
        still = writer.write(Sample("p", {"png": png(1, width=5, height=2)}, meta=meta))
    facts = ("width", "height", "duration", "frames", "fps", "audio")
    assert [row[name] for name in facts] == [32, 24, 2.0, 16, 8.0, False]
    assert (still["width"], still["duration"]) == (5, 1.5)
    assert not {"fps", "audio"} & still.keys()


def test_an_error_removes_the_unfinished_shard_only(tmp_path: Path) -> None:
    def fill() -> None:
        with ShardWriter(tmp_path, "d", shard_size=2) as writer:
            for i in range(3):
                writer.write(toy_sample(i))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert sorted(tree(tmp_path)) == ["d-000000.tar"]


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1 sample a shard, got 0"):
        ShardWriter(tmp_path, "d", shard_size=0)
    with pytest.raises(DataError, match="'a/b' cannot name shards"):
        ShardWriter(tmp_path, "a/b")


def test_probe_sees_pictures_upright_and_counts_frames() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg, gif = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (6, 4)).save(jpeg, "JPEG", exif=exif)
    frames = [Image.new("L", (3, 2), shade) for shade in (0, 100, 200)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    upright = probe("k", {"jpg": jpeg.getvalue()})
    moving = probe("k", {"gif": gif.getvalue()})
    assert (upright.width, upright.height, upright.frames) == (4, 6, None)
    assert (moving.width, moving.height, moving.frames) == (3, 2, 3)


def test_probe_refuses_pictures_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    with pytest.raises(BadSampleError, match="exceeds limit") as caught:
        probe("k", {"png": png(1, 4, 3)})
    assert caught.value.cause == "picture too large"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(
    captions=st.lists(TEXT, min_size=1, max_size=3),
    match_id=TEXT,
    meta=st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(st.booleans()), max_size=3),
    media=st.dictionaries(st.sampled_from(["png", "seg.png", "mp4"]), st.binary(max_size=9), max_size=2),
)
def test_unpack_undoes_pack(
    captions: list[str], match_id: str, meta: dict[str, object], media: dict[str, bytes]
) -> None:
    sample = Sample("k", media, tuple(captions), match_id, "val", meta)
    assert unpack("k", pack(sample)) == sample


@given(st.text(max_size=300))
def test_clean_key_makes_keys(text: str) -> None:
    key = clean_key(text)
    assert key == "" or is_key(key)
    assert clean_key(key) == key
    if is_key(text) and not text.startswith("_") and not text.endswith("_"):
        assert key == text


@settings(max_examples=20)
@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("abc", max_size=4)))
def test_key_set_is_a_set(known: list[str], asked: list[str]) -> None:
    keys = KeySet(known)
    assert [key in keys for key in asked] == [key in set(known) for key in asked]


def test_key_set_keeps_many_keys_small() -> None:
    keys = KeySet(str(i) for i in range(70_000))
    assert all(str(i) in keys for i in range(0, 70_000, 997))
    assert not any(str(i) in keys for i in range(70_000, 71_000))
    stored = sum(len(codes) for codes in keys._sorted)
    assert stored == 65_536
    assert len(keys._sorted) == 1
    assert keys._sorted[0].dtype == np.uint64


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from toy_card import toy_sample
from diptych.data.shards import ShardWriter
from diptych.errors import DataError
writer = ShardWriter(Path(sys.argv[1]), "d", shard_size=3)
try:
    for i in range(40):
        if i == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        writer.write(toy_sample(i))
    writer.close()
except DataError as error:
    print(error)
"""


def test_full_disk_is_said_and_finished_shards_stay(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), here],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"cannot write {tmp_path / 'd-000002.tar'}: File too large\n"
    assert done.stderr == ""
    assert sorted(tree(tmp_path)) == ["d-000000.tar", "d-000001.tar"]
    with tarfile.open(tmp_path / "d-000001.tar") as tar:
        assert json.loads(tar.extractfile("toy_005.json").read())["captions"][1] == "Bild 5"  # type: ignore[union-attr]

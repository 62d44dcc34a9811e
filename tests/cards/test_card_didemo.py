"""The `didemo` card on its miniature."""

from pathlib import Path

import pytest
from url_checks import captions, make_raw, prepared

from diptych.data.cards.base import Unread
from diptych.data.cards.didemo import CARD
from diptych.data.index import ShardDataset
from diptych.data.miniatures.media import colour_ids, colour_of
from diptych.data.raw.url_lists import url_list
from diptych.errors import DataError, UsageError

LONG, OTHER = "90000001_N02_90000000002_0abc123456", "12345_N00_11111111111_ffff000001"
AVI, VAL, TEST = (
    "55555_N07_33333333333_ffff000003",
    "99999_N05_55555555555_ffff000005",
    "88888_N05_66666666666_ffff000006",
)


def test_a_paragraph_for_each_video(tmp_path: Path) -> None:
    summary, samples = prepared("didemo", tmp_path)
    assert summary.splits == {"train": 3, "val": 1, "test": 1}
    assert summary.problems == {"bad entry": 2, "missing video": 1}
    assert captions(samples) == {
        LONG: ('the "dog" jumps, twice a man walks in',),
        OTHER: ("ein Ball rollt über die Straße camera pans left",),
        AVI: ("camera pans left",),
        VAL: ("first we see a tree",),
        TEST: ("a tree in the wind",),
    }
    assert summary.examples["missing video"] == [
        "77777_N01_44444444444_ffff000004: 77777@N01_44444444444_ffff000004.mov (train, 1 descriptions)"
    ]
    first = {key: colour_of(sample.media["mp4"]) for key, sample in samples.items()}
    assert first == {LONG: 700, OTHER: 703, AVI: 704, VAL: 705, TEST: 706}


@pytest.mark.slow
def test_videos_end_after_thirty_seconds(tmp_path: Path) -> None:
    _, samples = prepared("didemo", tmp_path, precision="exact")
    # 40 seconds with 2 frames in each: 700 up to 20 s, 701 up to 30 s, then 702.
    assert colour_ids(samples[LONG].media["mp4"]) == [700] * 40 + [701] * 20
    rows = ShardDataset.open(tmp_path / "out").select(where=f"key = '{LONG}'")
    assert rows.column("duration") == [pytest.approx(30.0)]


@pytest.mark.parametrize(
    ("options", "ending", "colours", "late"),
    [
        ({"seconds": "20", "precision": "exact"}, "mp4", [700] * 40, 0),
        ({"seconds": "20"}, "mp4", [700] * 40, 3),
        ({"seconds": "0"}, "mov", [700] * 40 + [701] * 20 + [702] * 20, 0),
    ],
)
def test_another_length(
    tmp_path: Path, options: dict[str, str], ending: str, colours: list[int], late: int
) -> None:
    make_raw("didemo", tmp_path / "raw")
    samples = [made for made in CARD.convert(tmp_path / "raw", options) if isinstance(made, Unread)]
    ((name, ref),) = next(made.refs for made in samples if made.sample.key == LONG).items()
    found = colour_ids(ref.read())
    assert name == ending
    assert found[: len(colours)] == colours
    assert len(found) <= len(colours) + late


def test_times_become_seconds(tmp_path: Path) -> None:
    _, samples = prepared("didemo", tmp_path)
    first, second = samples[LONG].meta["descriptions"]
    # Starts 0 1 1 1, ends 1 1 1 2 in pieces of five seconds, both inside.
    assert (first["start"], first["end"]) == (5.0, 10.0)
    assert first["times"] == [[1, 1], [1, 2], [1, 1], [0, 1]]
    assert (second["text"], second["start"], second["end"]) == ("a man walks in", 0.0, 5.0)
    assert samples[AVI].meta["descriptions"][0]["end"] == 25.0
    assert [described["annotation_id"] for described in samples[LONG].meta["descriptions"]] == [90003, 89989]
    assert samples[TEST].meta["url"] == "https://v.example/88888@N05_66666666666_ffff000006.3gp"


def test_descriptions_by_time(tmp_path: Path) -> None:
    _, samples = prepared("didemo", tmp_path, order="time")
    assert samples[LONG].captions == ('a man walks in the "dog" jumps, twice',)
    assert samples[OTHER].captions == ("ein Ball rollt über die Straße camera pans left",)


def test_lists_of_snps3(tmp_path: Path) -> None:
    summary, samples = prepared("didemo", tmp_path, "snps3")
    assert summary.splits == {"train": 1, "val": 1, "test": 1}
    assert summary.problems == {"missing video": 1}
    assert [(s.captions, list(s.media)) for s in samples.values()] == [
        (("paragraph of train",), ["mov"]),
        (("paragraph of val",), ["mp4"]),
        (("paragraph of test",), ["mp4"]),
    ]


def test_shards_of_a_download_tool(tmp_path: Path) -> None:
    summary, samples = prepared("didemo", tmp_path, "fetched", order="time")
    assert summary.splits == {"train": 1, "val": 1, "test": 0}
    assert captions(samples) == {"one": ("a b",), "train_00000001": ("b a",)}
    assert colour_of(samples["one"].media["mp4"]) == 710


def test_the_list_for_fetching_has_a_row_for_each_video(tmp_path: Path) -> None:
    make_raw("didemo", tmp_path / "raw")
    rows = [row for row in url_list("didemo", tmp_path / "raw") if "problem" not in row]
    assert len(rows) == 6
    assert (rows[0]["start"], rows[0]["end"]) == (0.0, 30.0)
    assert rows[0]["url"] == "https://v.example/90000001@N02_90000000002_0abc123456.mov"


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    make_raw("didemo", tmp_path / "raw")
    with pytest.raises(UsageError, match="seconds=half"):
        list(CARD.convert(tmp_path / "raw", {"seconds": "half"}))
    (tmp_path / "raw/train_data.json").write_text('{"data": []}')
    with pytest.raises(DataError, match=r"train_data.json: expected a JSON list, which begins with '\['"):
        list(CARD.convert(tmp_path / "raw", {}))
    (tmp_path / "raw/train_data.json").unlink()
    with pytest.raises(DataError, match=r"expected train_data.json"):
        list(CARD.convert(tmp_path / "raw", {}))

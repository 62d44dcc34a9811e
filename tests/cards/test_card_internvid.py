"""The `internvid` card on its miniature."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from url_checks import captions, make_raw, prepared

from diptych.data.cards.base import LeftOut
from diptych.data.cards.internvid_sort import Clips
from diptych.data.index import ShardDataset
from diptych.data.miniatures.media import colour_ids, colour_of
from diptych.data.prepare import load_card
from diptych.data.raw.list_video import clip_id, clock_ms
from diptych.data.raw.listed import Listed
from diptych.data.raw.url_lists import url_list
from diptych.errors import UsageError

Z, SEA = "yt_zAAAAAAAAA9_190567_191200", "yt__AAAAAAAAA1_3600000_3602000"
DOG, LATER = "yt_-AAAAAAAAA0_500_2000", "yt_-AAAAAAAAA0_2000_3500"


def test_clips_are_found_or_cut(tmp_path: Path) -> None:
    summary, samples = prepared("internvid", tmp_path)
    assert summary.splits == {"train": 4, "from_1_second": 3}
    assert summary.problems == {"bad entry": 2, "missing video": 1}
    # Sorted by video and time; a clip that is listed twice has both captions.
    assert list(captions(samples).items()) == [
        (DOG, ("a dog runs",)),
        (LATER, ("a dog runs",)),
        (SEA, ("the sea",)),
        (Z, ('A man, "smiling", in a café', "The same clip in other words")),
    ]
    assert {key: list(sample.media) for key, sample in samples.items()} == {
        DOG: ["mp4"],
        LATER: ["mp4"],
        SEA: ["webm"],
        Z: ["mp4"],
    }
    # 0.5 to 2 s and 2 to 3.5 s of a video whose colour changes at 2 s, 8 frames a second.
    assert colour_ids(samples[DOG].media["mp4"]) == [610] * 12
    assert colour_ids(samples[LATER].media["mp4"]) == [611] * 12
    assert colour_of(samples[SEA].media["webm"]) == 602
    assert colour_of(samples[Z].media["mp4"]) == 600
    assert samples[Z].meta == {
        "url": "https://www.youtube.com/watch?v=zAAAAAAAAA9",
        "youtube_id": "zAAAAAAAAA9",
        "clip_start": 190.567,
        "clip_end": 191.2,
        "aesthetic_score": 4.58984375,
        "umt_score": 0.39794921875,
    }
    where = "aesthetic_score >= 5 and clip_end <= 2"
    assert len(ShardDataset.open(tmp_path / "out").select(where=where)) == 1


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    summary, _ = prepared("internvid", tmp_path)
    first, second = summary.examples["bad entry"]
    assert first.startswith("InternVid-10M-flt.jsonl, line 4: no JSON")
    assert second == "InternVid-10M-flt.jsonl, line 5: it ends at 00:00:04.000, before it begins"
    assert summary.examples["missing video"] == [
        "yt_GONEAAAAAA3_1000_4000: GONEAAAAAA3_00:00:01.000_00:00:04.000.mp4"
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_seconds": "1"}, [DOG, LATER, SEA]),
        ({"min_aesthetic": "4.5"}, [DOG, LATER, Z]),
        ({"min_similarity": "0.39"}, [SEA, Z]),
        ({"min_seconds": "1", "min_similarity": "0.39"}, [SEA]),
    ],
)
def test_filters(tmp_path: Path, options: dict[str, str], kept: list[str]) -> None:
    make_raw("internvid", tmp_path / "raw")
    made = list(load_card("internvid").convert(tmp_path / "raw", options))
    left = [m for m in made if isinstance(m, LeftOut)]
    assert [m.sample.key for m in made if not isinstance(m, LeftOut)] == kept
    assert {problem.cause for problem in left} <= {"bad entry", "missing video", "filtered"}


def test_wrong_options(tmp_path: Path) -> None:
    make_raw("internvid", tmp_path / "raw")
    for name, value in (("min_aesthetic", "high"), ("precision", "low"), ("min_score", "1")):
        with pytest.raises(UsageError, match=name):
            list(load_card("internvid").convert(tmp_path / "raw", {name: value}))


def test_shards_of_video2dataset(tmp_path: Path) -> None:
    summary, samples = prepared("internvid", tmp_path, "fetched", min_seconds="1")
    assert summary.problems == {"filtered": 1, "missing video": 1}
    assert {key: colour_of(sample.media["mp4"]) for key, sample in samples.items()} == {
        LATER: 601,
        SEA: 602,
        DOG: 603,
    }
    assert samples[SEA].meta["clip_start"] == 3600.0
    assert samples[SEA].meta["umt_score"] == 0.5
    assert list(samples[SEA].media) == ["mp4"]


def test_the_list_for_fetching_has_times(tmp_path: Path) -> None:
    make_raw("internvid", tmp_path / "raw")
    row = next(iter(url_list("internvid", tmp_path / "raw")))
    assert (row["id"], row["start"], row["end"]) == (Z, 190.567, 191.2)
    assert row["url"] == "https://www.youtube.com/watch?v=zAAAAAAAAA9"


def test_sorting_on_the_disk_equals_sorting_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.cards.internvid_sort._ROWS", 7)
    draw = random.Random(3)
    rows = [
        Listed(
            clip_id(video, start, start + 500),
            "",
            str(i),
            start=start / 1000,
            end=start / 1000 + 0.5,
            more={"youtube_id": video},
        )
        for i in range(100)
        for video, start in [(draw.choice(["-a", "_b", "Z", "z"]), draw.randrange(5) * 250)]
    ]
    with Clips() as clips:
        for row in rows:
            clips.add(row)
        found = list(clips.sorted())
    expected = sorted(rows, key=lambda row: (row.more["youtube_id"], row.start))
    assert [row for group in found for row in group] == expected
    assert len(found) == len({row.id for row in rows})


@given(st.integers(0, 10**9))
def test_times_are_read(ms: int) -> None:
    seconds, rest = divmod(ms, 1000)
    assert clock_ms(f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}") == ms


@pytest.mark.parametrize("text", ["", "1:2:3", "00:60:00.000", "00:00:00.0001", "-00:00:01.000", None, 5])
def test_other_times_are_none(text: object) -> None:
    assert clock_ms(text) is None

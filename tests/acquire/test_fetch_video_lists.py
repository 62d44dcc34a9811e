"""Lists of videos: times in every form, clips of one video together, subtitles."""

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.acquire.chunks import FetchChunk
from diptych.data.acquire.grouping import cut_videos, spread
from diptych.data.acquire.lists import ListRow, read_list
from diptych.data.acquire.options import ListOptions
from diptych.data.acquire.spans import seconds_of, span_of, spans_of
from diptych.data.acquire.subtitles import read_subtitles, within
from diptych.data.shards import KeySet


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (12, 12.0),
        (0.25, 0.25),
        ("12.5", 12.5),
        (" 03:10.567 ", 190.567),
        ("00:03:10.567", 190.567),
        ("00:03:10,5", 190.5),
        ("100:00:00", 360_000.0),
        ("00:60:00", None),
        ("00:00:61", None),
        ("-1", None),
        (-1, None),
        (math.nan, None),
        (10**400, None),
        (True, None),
        ("half", None),
        (None, None),
        ([1], None),
    ],
)
def test_times(value: object, seconds: float | None) -> None:
    assert seconds_of(value) == seconds


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59_999))
def test_clocks(hours: int, minutes: int, milliseconds: int) -> None:
    text = f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
    assert seconds_of(text) == (hours * 3_600_000 + minutes * 60_000 + milliseconds) / 1000


@given(st.text() | st.lists(st.text() | st.floats() | st.none()) | st.dictionaries(st.text(), st.none()))
def test_no_value_is_more_than_a_bad_row(value: object) -> None:
    for reading in (spans_of, lambda value: span_of(value, value)):
        with suppress(ValueError):
            reading(value)


def test_spans() -> None:
    assert span_of(None, "") is None
    assert span_of("nan", math.nan) is None
    assert span_of(3, None) == (3.0, math.inf)
    assert span_of(None, "00:00:02.000") == (0.0, 2.0)
    assert spans_of("[['00:00:01', '00:00:02.5'], [4, 5]]") == ((1.0, 2.5), (4.0, 5.0))
    assert spans_of(None) == ()
    with pytest.raises(ValueError, match="the clip ends at 1, not after its start at 2"):
        span_of(2, 1)
    with pytest.raises(ValueError, match=r"expected seconds or HH:MM:SS\.fff, got 'a' to 'b'"):
        span_of("a", "b")
    for bad in ("[1, 2]", [], [[1]], "{", [[None, None]]):
        with pytest.raises(ValueError, match="expected"):
            spans_of(bad)


def listed(path: Path, *records: dict[str, object]) -> list[ListRow]:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return list(spread(read_list([str(path)], ListOptions(video=True))))


def test_columns_with_times_are_found(tmp_path: Path) -> None:
    rows = listed(
        tmp_path / "a.jsonl",
        {"url": "http://v.example/a.mp4", "start": "00:00:01.500", "end": 3, "fun": 1},
        {"url": "http://v.example/b.mp4", "Start_Time": 2},
        {"video": "ignored", "url": "http://v.example/b.mp4", "clips": [[0, 1], ["00:01", "00:02"]]},
        {"url": "http://v.example/c.mp4", "start": 3, "end": 2},
        {"url": "http://v.example/c.mp4"},
    )
    assert [(row.number, row.start, row.end) for row in rows] == [
        (0, 1.5, 3.0),
        (1, 2.0, None),
        (2, 0.0, 1.0),
        (3, 1.0, 2.0),
        (4, None, None),
        (5, None, None),
    ]
    assert rows[0].more == {"fun": 1}
    assert rows[4].problem == "the clip ends at 2, not after its start at 3"


def test_names_of_several_clips(tmp_path: Path) -> None:
    row = ListRow(7, "a", "http://v.example/a.mp4", "", {}, clips=((0.0, 1.0), (1.0, math.inf)))
    one = ListRow(8, "b", "http://v.example/a.mp4", "", {}, start=1.0)
    assert [(found.id, found.end) for found in spread([row, one])] == [
        ("a_00000", 1.0),
        ("a_00001", None),
        ("b", None),
    ]


def rows_of(*clips: tuple[str, str, float]) -> list[ListRow]:
    return [
        ListRow(n, name, f"http://v.example/{video}", f"caption {n}", {}, start=start, end=start + 1)
        for n, (name, video, start) in enumerate(clips)
    ]


def told(chunks: list[FetchChunk]) -> list[list[tuple[str, int]]]:
    return [[(entry.key, entry.row.number) for entry in chunk.entries] for chunk in chunks]


def test_clips_of_a_video_are_together(tmp_path: Path) -> None:
    rows = rows_of(
        *(("z2", "z", 2), ("y1", "y", 1), ("x1", "x", 1), ("z1", "z", 1), ("y0", "y", 0)),
        *(("w1", "w", 1), ("z2", "z", 2), ("z2", "z", 5)),
    )
    chunks = list(cut_videos(rows, 3, tmp_path))
    found = told(chunks)
    assert [[number for _, number in chunk] for chunk in found] == [[3, 0, 6, 7], [4, 1, 2], [5]]
    # The clip that is listed twice is one sample; its name for another clip is refused.
    assert [key for key, _ in found[0]][:3] == ["z1", "z2", "z2"]
    assert found[0][3][0].startswith("000000007-")
    assert chunks[0].entries[3].row.problem == "the name 'z2' occurred before"
    assert [chunk.number for chunk in chunks] == [0, 1, 2]
    assert not list(tmp_path.iterdir())
    # Again, and some of them.
    assert told(list(cut_videos(rows, 3, tmp_path))) == found
    only = KeySet()
    only.add("z2")
    only.add("w1")
    assert told(list(cut_videos(rows, 3, tmp_path, 5, only))) == [[("z2", 0), ("z2", 6), ("w1", 5)]]


def test_a_video_with_very_many_clips_is_split(tmp_path: Path) -> None:
    rows = rows_of(*((f"k{n}", "x", n) for n in range(9)), ("y", "y", 0))
    assert [len(chunk.entries) for chunk in cut_videos(rows, 2, tmp_path)] == [8, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30), st.integers(1, 7))
def test_every_row_is_in_one_chunk(
    tmp_path_factory: pytest.TempPathFactory, clips: list[tuple[str, int]], size: int
) -> None:
    rows = rows_of(*(("", video, start) for video, start in clips))
    chunks = list(cut_videos(rows, size, tmp_path_factory.getbasetemp()))
    assert sorted(entry.row.number for chunk in chunks for entry in chunk.entries) == list(range(len(rows)))
    assert len({entry.key for chunk in chunks for entry in chunk.entries}) == len(rows)
    assert all(0 < len(chunk.entries) <= max(size, min(len(rows), 4 * size)) for chunk in chunks)


VTT = """WEBVTT
Kind: captions

00:00:01.000 --> 00:00:02.500 align:start position:0%
hello<00:00:01.500><c> world</c>

2
00:02.500 --> 00:04.000
hello world
again

00:00:04.000 --> 00:00:05.000
again

NOTE 00:00:09.000 is no time

bad --> 00:00:10.000
never
"""


def test_subtitles() -> None:
    shown = read_subtitles(VTT)
    assert shown == [
        {"start": 1.0, "end": 2.5, "lines": ["hello world"]},
        {"start": 2.5, "end": 4.0, "lines": ["again"]},
    ]
    assert within(shown, 2.0, 3.0) == [
        {"start": 0.0, "end": 0.5, "lines": ["hello world"]},
        {"start": 0.5, "end": 1.0, "lines": ["again"]},
    ]
    assert within(shown, 4.0, 9.0) == []
    srt = "1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>hi</i>\r\n\r\n"
    assert read_subtitles(srt) == [{"start": 1.0, "end": 2.0, "lines": ["hi"]}]


@given(st.text(alphabet="0123456789:.->\n WEBVT<c>", max_size=200))
def test_subtitles_of_any_text(text: str) -> None:
    for one in read_subtitles(text):
        assert 0 <= one["start"] <= one["end"]
        assert one["lines"]

"""The `howto100m` card on its miniature, and how pieces of speech become clips."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from url_checks import captions, make_raw, prepared

from diptych.data.cards.howto100m import split_of
from diptych.data.miniatures.media import colour_of
from diptych.data.prepare import load_card
from diptych.data.raw.transcripts import Spoken, clips_of, read_transcript
from diptych.errors import DataError, UsageError


def test_speech_becomes_clips(tmp_path: Path) -> None:
    summary, samples = prepared("howto100m", tmp_path, min_seconds="4")
    assert summary.problems == {"bad entry": 1, "missing video": 1}
    # 0 to 3 is too short, with the next piece it is 4 s; 4.5 to 7 stays too short and goes to the last clip.
    assert captions(samples) == {
        "aB3_first-01_0_7000": ("first we cut the bread and then eat",),
        "whole_0_2000": ("so short",),
    }
    first = samples["aB3_first-01_0_7000"]
    assert first.meta == {"video": "aB3_first-01", "clip_start": 0.0, "clip_end": 7.0}
    assert colour_of(first.media["mp4"]) == 700


def test_shorter_clips(tmp_path: Path) -> None:
    _, samples = prepared("howto100m", tmp_path, min_seconds="2", precision="exact")
    assert captions(samples) == {
        "aB3_first-01_0_3000": ("first we cut",),
        "aB3_first-01_3000_7000": ("the bread and then eat",),
        "whole_0_2000": ("so short",),
    }


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    card = load_card("howto100m")
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match=r"transcripts\.zip"):
        list(card.convert(tmp_path, {}))
    make_raw("howto100m", tmp_path / "raw")
    for path in (tmp_path / "raw/videos").iterdir():
        path.unlink()
    (tmp_path / "raw/videos").rmdir()
    with pytest.raises(DataError, match="none of videos"):
        list(card.convert(tmp_path / "raw", {}))
    with pytest.raises(UsageError, match="min_seconds=long"):
        list(card.convert(tmp_path / "raw", {"min_seconds": "long"}))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "no JSON"),
        ("[]", "expected lists"),
        ('{"start": [1], "end": [2]}', "expected lists"),
        ('{"start": [1], "end": [2, 3], "text": ["a"]}', "1, 2, 1 entries"),
        ('{"start": ["x"], "end": [2], "text": ["a"]}', "start 'x'"),
    ],
)
def test_damaged_transcripts(text: str, wrong: str) -> None:
    told = read_transcript(text)
    assert isinstance(told, str)
    assert wrong in told


def test_pieces_without_text_or_length_are_left_out() -> None:
    told = {"start": [-1, 2, 3], "end": [1, 2, 4], "text": [" a  b ", "c", " "]}
    assert read_transcript(json.dumps(told)) == [Spoken(0.0, 1.0, "a b")]


PIECES = st.lists(st.tuples(st.floats(0.1, 9), st.sampled_from(["a", "bcd", "efghij klm"])), max_size=12)


@given(PIECES, st.floats(0, 12), st.integers(1, 15))
def test_every_piece_is_in_one_clip(drawn: list[tuple[float, str]], seconds: float, characters: int) -> None:
    pieces, at = [], 0.0
    for length, text in drawn:
        pieces.append(Spoken(at, at + length, text))
        at += length
    clips = list(clips_of(pieces, seconds, characters))
    assert " ".join(clip.text for clip in clips) == " ".join(piece.text for piece in pieces)
    assert [clip.start for clip in clips[1:]] == [clip.end for clip in clips[:-1]]
    for clip in clips if len(clips) > 1 else []:
        assert clip.end - clip.start >= seconds
        assert len(clip.text) >= characters


def test_one_video_in_five_hundred_is_held_out() -> None:
    held = sum(split_of(f"video{number}") == "val" for number in range(20_000))
    assert 20 <= held <= 60

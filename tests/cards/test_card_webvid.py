"""The `webvid` card on its miniature."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from url_checks import captions, make_raw, prepared

from diptych.data.cards.base import Unread
from diptych.data.miniatures.media import colour_of
from diptych.data.miniatures.webvid import make_parts
from diptych.data.prepare import load_card
from diptych.data.raw.list_video import iso_seconds
from diptych.data.raw.url_lists import url_list
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

CAPTIONS = {
    "1066674784": ('Horse running, in "slow motion" at dawn',),
    "21179416": ("Über den Wolken",),
    "7730000": ("aerial of a coast",),
    "555": ("also for validation",),
    "12": ("aerial of a coast",),
}
COLOURS = {"1066674784": 500, "21179416": 501, "7730000": 502, "555": 504, "12": 506}


def colours(samples: dict[str, Sample]) -> dict[str, int]:
    return {key: colour_of(sample.media["mp4"]) for key, sample in samples.items()}


def test_rows_meet_their_videos(tmp_path: Path) -> None:
    summary, samples = prepared("webvid", tmp_path)
    assert summary.splits == {"train": 3, "val": 2}
    assert summary.problems == {
        "bad entry": 2,
        "in the validation part": 1,
        "missing video": 1,
        "unreadable video": 1,
    }
    assert captions(samples) == CAPTIONS
    assert colours(samples) == COLOURS
    assert samples["555"].split == "val"
    assert samples["21179416"].meta == {
        "url": "https://stock.example/shutter%20stock/21179416/preview/stock-footage-21179416.mp4",
        "page_dir": "079401_079450",
        "listed_seconds": 62.0,
    }
    assert summary.examples["missing video"] == ["3000001: 000001_000050/3000001.mp4"]
    assert summary.examples["bad entry"][0].startswith("results_2M_train.csv, record 7: page_dir is")


def test_shards_of_video2dataset(tmp_path: Path) -> None:
    summary, samples = prepared("webvid", tmp_path, "fetched")
    assert summary.splits == {"train": 3, "val": 2}
    assert summary.problems == {"missing video": 1, "repeated key": 1, "unreadable video": 1}
    # The video of both parts stays in the one for validation.
    assert samples["555"].split == "val"
    assert captions(samples) == CAPTIONS
    assert colours(samples) == COLOURS
    assert samples["12"].meta["listed_seconds"] == 3600.0
    assert "failed_to_download: HTTP Error 404" in summary.examples["missing video"][0]


def test_lists_of_snps3(tmp_path: Path) -> None:
    summary, samples = prepared("webvid", tmp_path, "snps3")
    assert summary.splits == {"train": 3, "val": 2}
    assert summary.problems == {"missing video": 1, "unreadable video": 1}
    assert {key.rpartition("_")[2]: texts for key, texts in captions(samples).items()} == CAPTIONS


def test_the_copy_in_parts_has_the_same_rows(tmp_path: Path) -> None:
    make_raw("webvid", tmp_path / "raw")
    make_parts(tmp_path / "parts")
    ours = [row for row in url_list("webvid", tmp_path / "raw") if row["id"]]
    assert list(url_list("webvid", tmp_path / "parts")) == ours
    assert len(ours) == 8
    assert [row["id"] for row in ours if "problem" in row] == ["555"]


def test_one_size_and_one_split(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_raw("webvid", raw)
    text = (raw / "results_2M_train.csv").read_text().split("\n1066")[0]
    (raw / "results_10M_train.csv").write_text(
        f"{text}\n7730000,b,0,030001_030050,PT00H00M18S,http://x.example\n"
    )
    card = load_card("webvid")
    made = list(card.convert(raw, {"splits": "train"}))
    assert [m.sample.captions for m in made if isinstance(m, Unread)] == [("b",)]
    assert len(list(card.convert(raw, {"size": "2M", "splits": "val"}))) == 2
    with pytest.raises(UsageError, match="size=1M"):
        list(card.convert(raw, {"size": "1M"}))
    (raw / "videos").rename(raw / "films")
    with pytest.raises(DataError, match="none of videos"):
        list(card.convert(raw, {}))


def test_a_list_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results_2M_train.csv").write_text("videoid,name\n1,x\n")
    with pytest.raises(DataError, match="no column contentUrl, page_dir; it has videoid, name"):
        list(url_list("webvid", tmp_path))


@given(st.integers(0, 400_000))
def test_durations_are_read(seconds: int) -> None:
    text = f"PT{seconds // 3600:02d}H{seconds // 60 % 60:02d}M{seconds % 60:02d}S"
    assert iso_seconds(text) == float(seconds)


@pytest.mark.parametrize(
    "text", ["", "PT9S", "PT00H00M60S", "PT00H61M00S", "00:00:09", "PT00H00M09.5S", "P1D"]
)
def test_other_durations_are_none(text: str) -> None:
    assert iso_seconds(text) is None

"""The page of `diptych data report` says what a dataset lacks."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from quality_sets import encoded, make_set, pattern

from diptych.data.cards.base import Card, LeftOut, Split
from diptych.data.index import ShardDataset
from diptych.data.miniatures.media import video
from diptych.data.phash import COLUMN
from diptych.data.prepare import prepare
from diptych.data.sample import Sample
from diptych.report.data import describe, inspect, write_data_report
from diptych.report.data_quality import script_of, text_view

LONG = "Zwei Hunde laufen im Garten hinter einem roten Ball her"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    yield Sample("cat", {"png": encoded(pattern(1))}, ("a cat & a <dog>", "the cat sleeps"))
    yield Sample("film", {"mp4": video(7)}, (LONG,))
    yield Sample("copy", {"png": encoded(pattern(1, side=90))}, ("кошка",))
    yield LeftOut("missing picture", "lost", "images/<lost>.jpg")
    yield Sample("small", {"gif": encoded(pattern(2), "GIF")}, ("dog's bone",), split="test")


CARD = Card(
    name="pets",
    title="Pets & films",
    description="",
    licence="CC BY 4.0 <of the owners>",
    convert=convert,
    splits={
        "train": Split("split = 'train'", 3, "all that bark", texts=5),
        "test": Split("split = 'test'", 100, about=True),
    },
    needs_raw=False,
)


class Page(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += re.sub(r"\s+", " ", data)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pets")
    prepare(CARD, None, out)
    return out


@pytest.mark.slow
def test_the_page_needs_nothing_else(pets: Path, tmp_path: Path) -> None:
    page = Page(write_data_report(pets, tmp_path / "page.html"))
    # Four tiles and a group of two.
    assert len(page.sources) == 6
    assert all(source.startswith("data:image/") for source in page.sources)
    for said in (
        "Pets & films",
        "CC BY 4.0 <of the owners>",
        "missing picture",
        "lost: images/<lost>.jpg",
        "about 100",
        "differs",
        "all that bark",
        "1 of 4 samples are like one that comes before them: 1 look alike.",
        "of videos, the frame in the middle",
    ):
        assert said in page.text, said


@pytest.mark.slow
def test_what_is_said_of_a_dataset(pets: Path) -> None:
    quality = inspect(ShardDataset.open(pets))
    train, test = quality.splits
    assert (train.samples, train.expected, train.texts, train.expected_texts) == (3, 3, 4, 5)
    assert train.wrong == ["split 'train' has 4 texts, 5 were expected"]
    assert (test.samples, test.expected, test.about) == (1, 100, True)
    assert quality.warnings == [*train.wrong, "split 'test' has 1 samples, about 100 were expected"]
    assert [(c.name, c.count, c.examples) for c in quality.causes] == [
        ("missing picture", 1, ["lost: images/<lost>.jpg"])
    ]
    assert quality.fetch is None
    twice = quality.duplicates
    assert twice is not None
    assert (twice.found, twice.counts, twice.hashed) == (1, [("look alike", 1)], True)
    (group,) = twice.groups
    assert [(key, how) for key, _, how in group.pictures] == [("cat", "stays"), ("copy", "0 bits")]
    assert group.more == 0


@pytest.mark.slow
def test_texts(pets: Path) -> None:
    texts = text_view(ShardDataset.open(pets))
    assert texts is not None
    assert (texts.kind, texts.samples, texts.texts, texts.distinct) == ("captions", 4, 5, 5)
    assert texts.words[0] == ("cat", 2)
    assert ("dog's", 1) in texts.words
    assert not {"a", "the"} & {word for word, _ in texts.words}
    letters = {text: sum(map(str.isalpha, text)) for text in ("acatadog", "thecatsleeps", LONG, "dogsbone")}
    assert texts.scripts == [("Latin", sum(letters.values())), ("Cyrillic", 5)]
    assert texts.examples == ["a cat & a <dog>", "the cat sleeps", LONG, "кошка", "dog's bone"]


@pytest.mark.slow
def test_languages(pets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    texts = text_view(ShardDataset.open(pets))
    assert texts is not None
    # Only one text is long enough.
    assert (texts.guesses, texts.classified, texts.languages) == (True, 1, [("de", 1)])
    monkeypatch.setitem(sys.modules, "py3langid", None)
    without = text_view(ShardDataset.open(pets))
    assert without is not None
    assert (without.guesses, without.languages) == (False, [])
    assert "Install py3langid" in Page(write_data_report(pets, tmp_path / "page.html")).text


@pytest.mark.parametrize(
    ("letter", "script"),
    [
        ("a", "Latin"),
        ("é", "Latin"),
        ("Ａ", "Latin"),
        ("ª", "Latin"),
        ("ж", "Cyrillic"),
        ("猫", "Han"),
        ("ね", "Hiragana"),
        ("ก", "Thai"),
    ],
)
def test_writing_systems(letter: str, script: str) -> None:
    assert script_of(letter) == script


def test_what_was_fetched(tmp_path: Path) -> None:
    out = make_set(tmp_path / "d", [Sample("a", {"png": encoded(pattern(1))}, ("a",))])
    hosts = [
        {"host": f"h{n}.example", "rows": 10, "fetched": n, "p50": 0.5, "p95": 1, "cause": "404"}
        for n in range(15)
    ]
    known = {"rows": 150, "fetched": 100, "causes": {"404": 20, "timeout": 30}, "hosts": hosts}
    (out / "fetch.json").write_text(json.dumps({**known, "examples": {"404": ["k: not there"]}}))
    fetch = inspect(ShardDataset.open(out)).fetch
    assert fetch is not None
    assert [(cause.name, cause.count) for cause in fetch.causes] == [("timeout", 30), ("404", 20)]
    assert [host["host"] for host in fetch.hosts] == [f"h{n}.example" for n in range(12)]
    text = Page(write_data_report(out, tmp_path / "page.html")).text
    assert "100 of 150 rows of the list were fetched (66.7 %)" in text
    assert "k: not there" in text
    (out / "fetch.json").write_text("{")
    assert inspect(ShardDataset.open(out)).fetch is None


def test_questions_and_no_texts(tmp_path: Path) -> None:
    asked = {"question": "Is it red?", "answer": "no"}
    png = encoded(pattern(1))
    out = make_set(tmp_path / "q", [Sample("a", {"png": png}, meta={"questions": [asked, asked]})])
    texts = text_view(ShardDataset.open(out))
    assert texts is not None
    assert (texts.kind, texts.texts, texts.distinct) == ("questions", 2, 1)
    mute = make_set(tmp_path / "mute", [Sample("a", {"png": png})])
    assert text_view(ShardDataset.open(mute)) is None
    write_data_report(mute, tmp_path / "mute.html")


def test_large_sets_are_hashed_only_before(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.report.data_quality.HASHED", 1)
    out = tmp_path / "d"
    prepare(CARD, None, out)
    twice = inspect(ShardDataset.open(out)).duplicates
    assert twice is not None
    assert (twice.hashed, twice.found) == (False, 0)
    assert not list((out / ".diptych").glob(f"{COLUMN}-*"))
    # Those of `pets` are there from the tests before, or from this call.
    monkeypatch.setattr("diptych.report.data_quality.HASHED", 100)
    inspect(ShardDataset.open(pets))
    monkeypatch.setattr("diptych.report.data_quality.HASHED", 1)
    assert getattr(inspect(ShardDataset.open(pets)).duplicates, "found", 0) == 1


@pytest.mark.slow
def test_far_values_do_not_flatten_a_histogram(tmp_path: Path) -> None:
    png = encoded(pattern(1, side=1))
    samples = [
        Sample(f"s{n}", {"png": png}, ("x",), meta={"weight": 1e6 if n == 7 else n % 10}) for n in range(300)
    ]
    out = make_set(tmp_path / "d", samples, shard_size=300)
    columns = {column.name: column for column in describe(ShardDataset.open(out)).columns}
    assert columns["weight"].summary == "0 to 1e+06, mean 3338; shown up to 9, which 0.5% exceed"
    assert np.isclose((sum(n % 10 for n in range(300) if n != 7) + 1e6) / 300, 3338, atol=1)

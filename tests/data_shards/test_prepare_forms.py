"""Preparation: layouts of raw files, where sources may lie, expected numbers, miniatures."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from test_data_commands import call
from toy_card import png, toy_card, tree

from diptych.data import cards
from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.prepare import make_miniature, prepare
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError


def reader(folder: str):  # type: ignore[no-untyped-def]
    """Return a conversion of `list.txt` and the pictures in `folder`."""

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
        assert raw is not None
        media = RawFolder(raw).media(folder)
        for line in (raw / "list.txt").read_text().splitlines():
            name, caption = line.split("\t")
            ref = media.get(name)
            if ref is None:
                yield LeftOut("missing picture", name, caption)
            else:
                yield Unread(Sample(Path(name).stem, {}, (caption, "again")), {"png": ref})

    return convert


def make_toy(raw: Path, layout: str = "") -> None:
    """What the cards of this file read."""
    folder = raw / ("their" if layout else "own")
    folder.mkdir()
    for i in range(5):
        (folder / f"p{i}.png").write_bytes(png(i))
    (raw / "list.txt").write_text("".join(f"p{i}.png\tcaption {i}\n" for i in range(6)))


CARD: Card = toy_card(
    name="forms",
    needs_raw=True,
    convert=reader("own"),
    sources=(Source("list.txt", "there"), Source("own", "there", alternatives=("own.zip", "own-*.zip"))),
    layouts={"theirs": Layout("as theirs", reader("their"), (Source("list.txt", "x"), Source("their", "x")))},
    splits={"train": Split("true", 5, texts=10)},
    miniature=f"{__name__}:make_toy",
    shard_size=2,
)


def test_layouts(tmp_path: Path) -> None:
    make_miniature(CARD, tmp_path / "raw")
    make_miniature(CARD, tmp_path / "theirs", "theirs")
    own = prepare(CARD, tmp_path / "raw", tmp_path / "a")
    theirs = prepare(CARD, tmp_path / "theirs", tmp_path / "b", layout="theirs")
    assert own.samples == theirs.samples == 5
    # The card's own number of samples in a shard.
    assert own.shards == 3
    assert own.problems == {"missing picture": 1}
    assert own.examples == {"missing picture": ["p5.png: caption 5"]}
    assert own.warnings == theirs.warnings == []
    infos = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in "ab"]
    assert [info.pop("layout") for info in infos] == ["", "theirs"]
    assert infos[0] == infos[1]
    with pytest.raises(DataError, match="holds another dataset: layout is theirs, wanted none"):
        prepare(CARD, tmp_path / "raw", tmp_path / "b")
    with pytest.raises(UsageError, match="no layout 'thiers'; did you mean 'theirs'"):
        prepare(CARD, tmp_path / "raw", tmp_path / "c", layout="thiers")
    with pytest.raises(UsageError, match="needs its raw files"):
        prepare(toy_card(layouts=CARD.layouts), None, tmp_path / "c", layout="theirs")
    with pytest.raises(DataError, match="lacks their of card 'forms'"):
        prepare(CARD, tmp_path / "raw", tmp_path / "c", layout="theirs")


def test_sources_may_lie_elsewhere(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_miniature(CARD, raw)
    (raw / "own").rename(raw / "own[1]")
    with pytest.raises(DataError, match=r"lacks own or own\.zip or own-\*\.zip of card 'forms'"):
        prepare(CARD, raw, tmp_path / "out")
    (raw / "own-2.zip").write_bytes(b"second")
    (raw / "own-1.zip").write_bytes(b"first")
    # The archives are there, and hold nothing that the list names.
    with pytest.raises(DataError, match=r"no usable sample \(missing picture 6\)"):
        prepare(CARD, raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    inside = toy_card(needs_raw=True, sources=(Source("own-1.zip@/x/", "there"),))
    prepare(inside, raw, tmp_path / "out")


def test_archives_that_change_are_noticed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(3):
        (raw / f"part_{i}.zip").write_bytes(bytes(10))

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        yield from (Sample(f"s{i}", {}, ("c",)) for i in range(3))
        raise OSError("here")

    card = toy_card(needs_raw=True, sources=(Source("part_*.zip", "there"),), convert=convert)
    with pytest.raises(OSError, match="here"):
        prepare(card, raw, tmp_path / "out", shard_size=1)
    (raw / "part_3.zip").write_bytes(b"more")
    with pytest.raises(DataError, match=r"the raw files changed \(part_\*\.zip\)"):
        prepare(card, raw, tmp_path / "out", shard_size=1)


def counted(tmp_path: Path, **split: object) -> list[str]:
    samples = [
        Sample(f"s{i}", {}, ("a", "b")[: 1 + i % 2], meta={"questions": [{}] * i} if i else {})
        for i in range(4)
    ]
    card = toy_card(convert=lambda raw, options: iter(samples), splits={"s": Split("true", **split)})
    summary = prepare(card, None, tmp_path, force=True)
    return summary.warnings


def test_expected_numbers(tmp_path: Path) -> None:
    # 4 samples; 1 + 2 + 1 + 2 captions and 0 + 1 + 2 + 3 questions.
    assert counted(tmp_path, expected=4, texts=12) == []
    assert counted(tmp_path, expected=5, texts=13) == [
        "split 's' has 4 samples, 5 were expected",
        "split 's' has 12 texts, 13 were expected",
    ]
    # At most 5 % away: 12 of 12.63, and 4 of 4.2.
    assert counted(tmp_path, texts=12, about=True) == []
    assert counted(tmp_path, expected=5, texts=13, about=True) == [
        "split 's' has 4 samples, about 5 were expected",
        "split 's' has 12 texts, about 13 were expected",
    ]
    samples = [Sample(f"s{i}", {}, ("c",)) for i in range(100)]
    for expected, warned in ((95, True), (96, False), (105, False), (106, True)):
        card = toy_card(
            convert=lambda raw, options: iter(samples), splits={"s": Split("true", expected, about=True)}
        )
        assert bool(prepare(card, None, tmp_path, force=True).warnings) == warned, expected


def test_miniatures(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(DataError, match="full is not empty"):
        make_miniature(CARD, tmp_path / "full")
    with pytest.raises(UsageError, match="card 'toy' has no tiny raw files"):
        make_miniature(toy_card(), tmp_path / "new")
    with pytest.raises(UsageError, match=r"no layout 'x' \(layouts: theirs\)"):
        make_miniature(CARD, tmp_path / "new", "x")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in reversed(list(cards.CARDS)):  # undone the other way round, which keeps their order
        monkeypatch.delitem(cards.CARDS, name)
    monkeypatch.setitem(cards.CARDS, "forms", f"{__name__}:CARD")
    raw, out = tmp_path / "raw", tmp_path / "out"
    assert call("miniature", "forms", "--out", raw, "--layout", "theirs").output.splitlines() == [
        f"forms: tiny raw files are in {raw}; prepare them with:",
        f"  diptych data prepare forms --raw {raw} --out DIR --layout theirs",
    ]
    command = ["prepare", "forms", "--raw", raw, "--layout", "theirs"]
    said = call(*command, "--out", out, "--workers", "2").output.splitlines()
    assert said == [
        f"forms: 5 samples in 3 shards in {out}",
        "  split train: 5",
        "  problem: missing picture: 1",
        "    p5.png: caption 5",
    ]
    call(*command, "--out", tmp_path / "one", "--workers", "1", "--engine", "local")
    assert tree(out) == tree(tmp_path / "one")
    error = call(*command, "--out", tmp_path / "x", "--engine", "spark", fails=UsageError).exception
    assert "unknown engine 'spark'" in str(error)

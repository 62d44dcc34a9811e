"""`diptych data ...` as a user sees it."""

import sys
import types
from pathlib import Path

import pytest
import typer
from toy_card import toy_card
from typer.testing import CliRunner, Result

from diptych.cli import data as commands
from diptych.data import cards
from diptych.data.cards.base import Source
from diptych.data.prepare import prepare
from diptych.errors import DataError, UsageError

TOY = toy_card()
RAW_TOY = toy_card(
    name="rawtoy",
    needs_raw=True,
    sources=(Source("list.txt", "https://example.org/list.txt"), Source("extra", "there", required=False)),
)


@pytest.fixture(autouse=True)
def _cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in reversed(list(cards.CARDS)):  # undone the other way round, which keeps their order
        monkeypatch.delitem(cards.CARDS, name)
    monkeypatch.setitem(cards.CARDS, "toy", f"{__name__}:TOY")
    monkeypatch.setitem(cards.CARDS, "rawtoy", f"{__name__}:RAW_TOY")


def call(*arguments: str | Path, fails: type[Exception] | None = None) -> Result:
    app = typer.Typer()
    commands.register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if fails is None:
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    else:
        assert type(result.exception) is fails, result.output
    return result


def test_list_and_show() -> None:
    lines = [line.split() for line in call("list").output.splitlines()]
    assert lines == [
        ["card", "what", "it", "is", "media", "raw", "layouts"],
        ["toy", "Toy", "image", "none"],
        ["rawtoy", "Toy", "image", "needed"],
    ]
    shown = call("show", "rawtoy").output
    for text in (
        "RAW/list.txt\n      from https://example.org/list.txt",
        "RAW/extra  (optional)",
        "odd_test: 3 samples, where split = 'test' AND parity = 'odd'",
        "count: number of pictures (default 30)",
        "diptych data prepare rawtoy --raw RAW --out data/rawtoy",
    ):
        assert text in shown
    assert "  diptych data prepare toy --out data/toy " in call("show", "toy").output
    error = call("show", "tay", fails=UsageError).exception
    assert str(error) == "unknown dataset card 'tay'; did you mean 'toy'? (known: rawtoy, toy)"


@pytest.mark.slow
def test_prepare_twice(tmp_path: Path) -> None:
    first = call("prepare", "toy", "--out", tmp_path / "d", "-o", "count=10")
    assert first.output.splitlines()[:3] == [
        f"toy: 10 samples in 1 shard in {tmp_path / 'd'}",
        "  split train: 8",
        "  split odd_test: 1",
    ]
    assert "  problem: repeated key: 1\n    toy_001: the key is already in the dataset\n" in first.output
    assert "  warning: split 'odd_test' has 1 samples, 3 were expected" in first.output
    again = call("prepare", "toy", "--out", tmp_path / "d", "-o", "count=10")
    assert again.output.startswith(
        f"toy: already prepared in {tmp_path / 'd'} (10 samples in 1 shard); nothing to do"
    )
    call("prepare", "toy", "--out", tmp_path / "d", fails=DataError)
    assert (
        "31 samples in 4 shards"
        in call("prepare", "toy", "--out", tmp_path / "d", "--force", "--shard-size", "8").output
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "count"], "-o count: expected NAME=VALUE"),
        (["-o", "=3"], "-o =3: expected NAME=VALUE"),
        (["-o", "count=3", "-o", "count=4"], "-o count=4: 'count' is given twice"),
        (["-o", "cont=3"], "card 'toy' has no option 'cont'; did you mean 'count'? (options: count)"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], message: str) -> None:
    error = call("prepare", "toy", "--out", tmp_path / "d", *options, fails=UsageError).exception
    assert str(error) == message
    assert not (tmp_path / "d").exists()


def test_usage_errors_end_with_status_2(tmp_path: Path) -> None:
    assert call("prepare", "toy").exit_code == 2
    assert call("query", tmp_path).exit_code == 2
    assert call("query", tmp_path, "x > 1", "--limit", "0").exit_code == 2
    assert call("nosuch").exit_code == 2


@pytest.mark.slow
def test_verify(tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path, shard_size=7)
    good = call("verify", tmp_path)
    assert (good.exit_code, good.output) == (
        0,
        f"{tmp_path}: 31 samples in 5 shards (133.1 kB), all as written\n",
    )
    path = tmp_path / "toy-000000.tar"
    path.write_bytes(path.read_bytes().replace(b"picture number 2", b"picture number 3"))
    bad = call("verify", tmp_path)
    assert bad.exit_code == 1
    assert bad.output.splitlines() == [
        "damaged: toy-000000.tar: toy_002: its texts, headers or padding are damaged "
        "(CRC-32 differs from the index)",
        f"{tmp_path}: 31 samples in 5 shards (133.1 kB), 1 damages found",
    ]


def test_query(tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path, shard_size=7)
    table = call(
        "query",
        tmp_path,
        "select parity, avg(score) as s from samples where number < 4 group by 1 order by 1",
    )
    assert [line.split() for line in table.output.splitlines()] == [
        ["parity", "s"],
        ["even", "0.25"],
        ["odd", "0.5"],
    ]
    short = call("query", tmp_path, "select key from samples order by key", "--limit", "2").output
    assert short.split() == ["key", "toy_000", "toy_001", "...", "29", "more", "rows", "(--limit)"]
    for condition in ("number > 27", "where number > 27", " WHERE number > 27"):
        lines = call("query", tmp_path, condition).output.splitlines()
        assert lines[0] == "2 of 31 samples"
        assert [line.split()[0] for line in lines[1:]] == ["key", "toy_028", "toy_029"]
    assert call("query", tmp_path, "number > 99").output == "0 of 31 samples\n"
    error = call("query", tmp_path, "nmber > 27", fails=DataError).exception
    assert "no column 'nmber' in `nmber > 27`; did you mean 'number'?" in str(error)
    call("query", tmp_path / "missing", "number > 27", fails=DataError)


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, Path]] = []

    def write(dataset: Path, out: Path) -> Path:
        asked.append((dataset, out))
        return out

    fake = types.ModuleType("diptych.report.data")
    fake.write_data_report = write  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diptych.report.data", fake)
    assert call("report", tmp_path).output == f"{tmp_path / 'report.html'}\n"
    call("report", tmp_path, "--out", tmp_path / "x.html")
    (tmp_path / "d.tar").touch()
    call("report", tmp_path / "d.tar")
    assert asked == [
        (tmp_path, tmp_path / "report.html"), (tmp_path, tmp_path / "x.html"),
        (tmp_path / "d.tar", tmp_path / "d.html"),
    ]  # fmt: skip

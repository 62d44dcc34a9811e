import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from config_example import Run

import diptych
from diptych.cli import main
from diptych.config.layers import resolve
from diptych.errors import DataError

DEFAULTS = {"data": {"path": "x"}}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put the example's configuration in place of a run's; have no command but `diptych config`."""
    fake = SimpleNamespace(
        RunConfig=Run, resolve_run=lambda recipe, arguments=(): resolve(Run, recipe, arguments)
    )
    monkeypatch.setitem(sys.modules, "diptych.train.config", fake)
    monkeypatch.setattr(main, "MODULES", ("config",))
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("data: {path: x}\noptim:\n  lr: 3e-4\n")
    Path("b.yaml").write_text("extends: a.yaml\nsystem: {name: pair}\n")


def test_show_tells_each_value_and_its_layer(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "config",
        "show",
        "a.yaml",
        "train.steps=5",
        "--changed",
        "--",
        "name=mine",
        "train.precision=bf16",
    ]
    assert main.run(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name: mine         # command line",
        "data:",
        "  path: x          # a.yaml:1",
        "optim:",
        "  lr: 0.0003       # a.yaml:3",
        "train:",
        "  steps: 5         # script",
        "  precision: bf16  # command line",
    ]


@pytest.mark.parametrize("option", ["--sources", "--plain"])
def test_what_show_prints_is_a_recipe(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main.run(["config", "show", option, "b.yaml", "data.where=a  # b"]) == 0
    text = capsys.readouterr().out
    assert ("# a.yaml:3" in text) == (option == "--sources")
    Path("c.yaml").write_text(text)
    assert resolve(Run, "c.yaml").config == resolve(Run, "b.yaml", ["data.where=a  # b"]).config


def test_keys_are_listed_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "keys", "optim.lr"]) == 0
    assert capsys.readouterr().out == "optim.lr: float > 0 = 0.001\n    Peak learning rate.\n"
    assert main.run(["config", "keys"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 40  # 20 settings, two lines each


def test_diff_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "diff", "a.yaml", "b.yaml"]) == 0
    assert "system.name: big -> pair\n" in capsys.readouterr().out
    assert main.run(["config", "diff", "a.yaml", "a.yaml"]) == 0
    assert capsys.readouterr().out == "no differences\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["config", "show", "a.yaml", "optim.lrr=1", "train.steps=many"],
            [
                "error: optim.lrr: unknown key (script); did you mean 'optim.lr'?",
                "error: train.steps: expected an integer >= 1, got 'many' (script)",
            ],
        ),
        (["config", "diff", "a.yaml", "c"], ["error: recipe 'c': no such file and no packaged recipe"]),
        (["config", "keys", "lr"], ["error: lr: no such key or section; did you mean 'optim.lr'?"]),
    ],
)
def test_mistakes_are_lines_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], lines: list[str]
) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [found[: len(line)] for found, line in zip(captured.err.splitlines(), lines, strict=True)] == lines


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["config", "show"], ["--nothing"], ["config", "show", "--no", "a"]]
)
def test_bad_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("error: ")
    assert captured.err.endswith(" --help)\n")


def test_a_group_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config"]) == 2
    captured = capsys.readouterr()
    assert "diff" in captured.out + captured.err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    assert "config" in capsys.readouterr().out
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"diptych {diptych.__version__}\n"


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (DataError("a.tar: broken"), 1, "error: a.tar: broken\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(7), 7, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("why"), 1, ""),
    ],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    message: str,
) -> None:
    def fail() -> None:
        raise raised

    fake = SimpleNamespace(register=lambda app: app.command("fail")(fail))
    monkeypatch.setitem(sys.modules, "diptych.cli.fake", fake)
    monkeypatch.setattr(main, "MODULES", ("config", "fake"))
    assert main.run(["fail"]) == status
    assert capsys.readouterr().err == message


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    fake = SimpleNamespace(register=lambda app: app.command("fail")(fail))
    monkeypatch.setitem(sys.modules, "diptych.cli.fake", fake)
    monkeypatch.setattr(main, "MODULES", ("config", "fake"))
    with pytest.raises(ZeroDivisionError):
        main.run(["fail"])

"""`diptych targets ...` as a user sees it."""

import pickle
from pathlib import Path

import pytest

from diptych.cli.main import run
from diptych.data.text import Tokenizer


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = run(["targets", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_build_and_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Tokenizer.train(["yes no maybe"] * 2, 100).save(tmp_path / "tok")
    status, out, _ = call(capsys, "build", "mnli", "--out", tmp_path / "m", "--tokenizer", tmp_path / "tok")
    assert (status, out) == (0, f"mnli: 3 classes, 3 rows of tokens, in {tmp_path / 'm'}\n")
    status, out, _ = call(capsys, "show", tmp_path / "m", "--limit", "1")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[:3] == ["mnli", "classes: 3", "different names: 3"]
    assert lines[-1].startswith("0 no  [")
    assert lines[-1].endswith(", 3]")
    status, _, err = call(capsys, "build", "mnli", "--out", tmp_path / "m")
    assert (status, err) == (
        2,
        f"error: {tmp_path / 'm'} holds a target set; choose another folder or give --force\n",
    )
    status, out, _ = call(capsys, "build", "mnli", "--out", tmp_path / "m", "--force")
    assert out == f"mnli: 3 classes, no tokens, in {tmp_path / 'm'}\n"


def test_glue_fills_a_folder_for_each_task(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(capsys, "build", "glue", "--out", tmp_path)[0] == 0
    assert len(list(tmp_path.iterdir())) == 9
    assert "1 yes" in call(capsys, "show", tmp_path / "rte")[1]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in call(capsys, "list")[1].splitlines()]
    assert lines[1][:3] == ["imagenet-1k", "1000", "tench,"]
    assert ["mnli", "3", "no,", "maybe,", "yes"] in lines


def test_show_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert "400" in call(capsys, "show", "k400", "--limit", "2")[1]


def test_import(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "trainval_label2ans.pkl"
    path.write_bytes(pickle.dumps(["", "yes"]))
    status, out, _ = call(capsys, "import", path, "--out", tmp_path / "vqa", "--name", "vqa")
    assert (status, out) == (0, f"vqa: 2 classes, no tokens, in {tmp_path / 'vqa'}\n")
    path.write_bytes(pickle.dumps(print))
    status, _, err = call(capsys, "import", path, "--out", tmp_path / "x")
    assert status == 1
    assert "builtins.print" in err
    assert "nothing was run" in err
    assert not (tmp_path / "x").exists()


def test_wrong_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(capsys, "build", "mnli", "--out", tmp_path, "--end", "x")[2] == (
        "error: --end names a token of a tokenizer: give --tokenizer too\n"
    )
    assert call(capsys, "build", "nothing", "--out", tmp_path)[0] == 2
    (tmp_path / "a.pkl").write_bytes(b"")
    assert "targets import" in call(capsys, "build", tmp_path / "a.pkl", "--out", tmp_path)[2]

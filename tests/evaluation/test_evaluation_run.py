"""`evaluate` and `diptych eval` on an export of a toy model and a tar of real pictures."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.ranks import run_ranks

from diptych.blocks.collective import World
from diptych.cli.main import run
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, ConfigError, DataError, RunError
from diptych.evaluation.run import evaluate, folder_name, read_metrics, write_evaluation
from diptych.systems.task import Evaluation
from diptych.train.build import build_task
from diptych.train.config import resolve_run
from diptych.train.export import write_export

WORDS = ("red cat", "blue dog", "small house", "green tree", "old car", "white moon")
RECIPE: dict[str, Any] = {
    "data": {"image": {"size": 16}, "text": {"max_tokens": 6}},
    "system": {
        "name": "eve",
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "hidden": 24,
        "vocab_size": 100,
        "max_text_tokens": 8,
        "moe_layers": [1],
        "experts": 2,
    },
    "task": {"name": "retrieval", "k_test": 3},
    "evaluate": {"split": None},
}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noisy pictures and one that is no picture, as a plain WebDataset tar."""
    path = tmp_path_factory.mktemp("toy") / "toy.tar"
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i, word in enumerate(WORDS):
            data = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(data, "PNG")
            add(tar, f"p{i}.png", data.getvalue())
            add(tar, f"p{i}.txt", word.encode())
        add(tar, "broken.png", b"\x89PNG\r\n\x1a\n" + bytes(40))
        add(tar, "broken.txt", b"no picture")
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    config = resolve_run(RECIPE, []).config
    tokenizer = Tokenizer.train([*WORDS, *WORDS], 100)
    task = build_task(config, tokenizer)
    return write_export(tmp_path / "export", task.state_dict(), tokenizer, config, step=42)


def test_an_export_is_evaluated(export: Path, pictures: Path) -> None:
    stages: set[str] = set()
    folder = evaluate(export, [f"evaluate.path={pictures}"], lambda stage, done, total: stages.add(stage))
    assert folder == export / "eval" / "retrieval_toy_all"
    assert sorted(p.name for p in folder.iterdir()) == ["experts.json", "metrics.json", "predictions.jsonl"]
    assert stages == {"pictures", "texts", "re-ranking"}
    metrics = read_metrics(folder)
    assert (metrics["images"], metrics["texts"], metrics["step"]) == (6, 6, 42)
    assert sum(metrics["skipped"].values()) == 1
    assert metrics["where"] is None
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert {row["key"] for row in rows if row["direction"] == "image_to_text"} == {f"p{i}" for i in range(6)}
    assert [p.name for p in (export / "eval").iterdir()] == ["retrieval_toy_all"]  # nothing left aside


def test_settings_of_the_evaluation_can_change(export: Path, pictures: Path) -> None:
    before = read_metrics(evaluate(export, [f"evaluate.path={pictures}"]))
    after = read_metrics(
        evaluate(
            export,
            [f"evaluate.path={pictures}", "task.k_test=5", "evaluate.batch_size=2", "evaluate.threads=1"],
        )
    )
    assert (before["candidates"]["k"], after["candidates"]["k"]) == (3, 5)
    assert after["scores"]["contrastive"] == before["scores"]["contrastive"]


def test_a_condition_has_a_folder_of_its_own(export: Path, pictures: Path) -> None:
    folder = evaluate(export, [f"evaluate.path={pictures}", "evaluate.where=key < 'p3' and key > 'c'"])
    assert folder.name.startswith("retrieval_toy_all-")
    assert read_metrics(folder)["images"] == 3
    assert folder_name("retrieval", "my data/x", None, None) == "retrieval_my-data-x_all"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("evaluate.path=", ConfigError, r"evaluate\.path: no dataset to evaluate on"),
        ("evaluate.path=/nowhere/at/all", DataError, r"/nowhere/at/all"),
        ("evaluate.split=tset", DataError, r"no split 'tset' .*known: "),
        ("evaluate.where=key = 'x'", DataError, r"selects 0 of 7 samples"),
        ("evaluate.where=kye = 'x'", DataError, r"kye"),
        ("train.steps=3", ConfigError, r"train\.steps=3: decided when the model was trained"),
        (
            "task.itc_dim=5",
            ConfigError,
            r"need other weights than the trained ones \(itc\.text\.weight, itc\.visual",
        ),
        ("task.matching=false", ConfigError, r"need other weights .*itm\.classifier\.bias"),
        ("task.k_tset=3", ConfigError, r"k_test"),
    ],
)
def test_what_cannot_be_evaluated(
    export: Path, pictures: Path, setting: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(export, [f"evaluate.path={pictures}", setting])
    assert not (export / "eval").exists()


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        evaluate(tmp_path / "missing")


def test_results_of_a_run_lie_in_the_run(export: Path, pictures: Path) -> None:
    (export.parent / "config.yaml").write_text("name: toy\n")
    for path in (export.parent, export):
        folder = evaluate(path, [f"evaluate.path={pictures}"])
        assert folder == export.parent / "eval" / "retrieval_toy_all"


def test_a_failed_write_keeps_the_earlier_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eval" / "x"
    write_evaluation(folder, Evaluation({"n": 1}, [{"rank": 1}]))
    write_evaluation(folder, Evaluation({"n": 2}, [], {"experts": {"layers": []}}))
    assert json.loads((folder / "metrics.json").read_text()) == {"n": 2}

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("diptych.evaluation.run.sync_tree", full)
    with pytest.raises(
        RunError, match=r"cannot write the evaluation \(No space left on device\); free some space"
    ):
        write_evaluation(folder, Evaluation({"n": 3}, []))
    assert json.loads((folder / "metrics.json").read_text()) == {"n": 2}
    assert [p.name for p in folder.parent.iterdir()] == ["x"]


def test_command_prints_a_table(export: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(export), f"evaluate.path={pictures}", "--", "evaluate.batch_size=4"]) == 0
    out = capsys.readouterr().out
    assert "toy · all: 6 pictures, 6 texts" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["chance", "picture", "→", "text", "16.67", "83.33", "100.00", "3"] in lines
    assert any(line[:1] == ["reranked"] for line in lines)
    assert "candidates: 3 texts of each picture hold a right one for" in " ".join(out.split())
    assert "left out: 1 " in out
    assert f"written to {export / 'eval' / 'retrieval_toy_all'}" in out


def test_command_reports_one_line(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(export), "optim.lr=1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: optim.lr=1: decided when the model was trained")
    assert captured.err.count("\n") == 1


def evaluated(world: World, export: Path, settings: list[str]) -> str:
    """Evaluate as one of the ranks."""
    return str(evaluate(export, settings))


@pytest.mark.slow
def test_a_rank_whose_pictures_are_all_damaged_only_counts_them(tmp_path: Path, export: Path) -> None:
    path = tmp_path / "half.tar"
    with tarfile.open(path, "w") as tar:
        for i, word in enumerate(WORDS[:4]):
            data = io.BytesIO()
            Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(data, "PNG")
            add(tar, f"p{i}.png", data.getvalue() if i < 2 else b"\x89PNG\r\n\x1a\n" + bytes(40))
            add(tar, f"p{i}.txt", word.encode())
    settings = [f"evaluate.path={path}", "evaluate.device=cpu", "evaluate.split=null"]
    expected = read_metrics(evaluate(export, settings))
    folders = run_ranks(evaluated, export, settings)
    assert folders == [str(export / "eval" / "retrieval_half_all")] * 2
    found = read_metrics(Path(folders[0]))
    assert (found["images"], found["skipped"]) == (2, {"unreadable picture": 2})
    assert {**found, "cpu_seconds": 0} == {**expected, "cpu_seconds": 0}


@pytest.mark.slow
def test_ranks_under_torchrun_write_what_one_process_writes(export: Path, pictures: Path) -> None:
    settings = [f"evaluate.path={pictures}", "evaluate.device=cpu", "evaluate.threads=1"]
    expected = read_metrics(evaluate(export, settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "diptych", "eval", str(export), *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    folder = export / "eval" / "retrieval_toy_all"
    assert {**read_metrics(folder), "cpu_seconds": 0} == {**expected, "cpu_seconds": 0}
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 12


def test_global_state_is_put_back(export: Path, pictures: Path) -> None:
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    evaluate(export, [f"evaluate.path={pictures}", "evaluate.threads=1", "evaluate.precision=bf16"])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)

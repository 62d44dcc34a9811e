"""Runs of question answering and NLVR2 on scenes, from training to results and commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diptych.cli.main import run
from diptych.errors import CheckpointError, ConfigError
from diptych.evaluation.run import evaluate, read_metrics
from diptych.train.build import check_config, load_task
from diptych.train.config import resolve_run

RECIPE: dict[str, Any] = {
    "name": "toy",
    "data": {
        "split": "train",
        "examples": "questions",
        "image": {"size": 16},
        "text": {"vocab_size": 200, "max_tokens": 20, "padding": "longest", "clean": "question"},
        "loader": {"batch_size": 16},
    },
    "system": {
        "name": "eve",
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "hidden": 24,
        "vocab_size": 200,
        "max_text_tokens": 20,
        "moe_layers": [1],
        "experts": 2,
    },
    "task": {"name": "vqa", "answer_count": 12},
    "train": {"steps": 2, "checkpoint_every": 1, "log_every": 1, "device": "cpu"},
    "evaluate": {"split": None},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes"
    assert (
        run(["data", "prepare", "emoji-scenes", "--out", str(path), "-o", "size=20", "-o", "resolution=48"])
        == 0
    )
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": {**RECIPE["data"], "path": str(scenes)}}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "vqa"
    assert run(["train", str(recipe), "--run-dir", str(path)]) == 0
    return path


def answers(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "assets.json").read_text())["answers"]
    return found


@pytest.mark.slow
def test_a_run_keeps_its_answers(trained: Path) -> None:
    names = answers(trained)
    assert len(names) == 12
    assert {"yes", "no"} <= set(names)
    assert answers(trained / "export") == names
    assert "assets.json: answers" in (trained / "log.txt").read_text()
    row = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/vqa", "metric/accuracy", "metric/answerable", "metric/routing"} <= row.keys()
    # From the export, and from a checkpoint of the run directory.
    for path in (trained, trained / "checkpoints" / "step_00000002"):
        _, task = load_task(path)
        assert task.assets() == {"answers": names}


@pytest.mark.slow
def test_an_export_needs_nothing_else(trained: Path, scenes: Path, tmp_path: Path) -> None:
    import shutil

    alone = shutil.copytree(trained / "export", tmp_path / "export")
    folder = evaluate(alone, [f"evaluate.path={scenes}", "evaluate.split=train"])
    metrics = read_metrics(folder)
    assert metrics["questions"] == metrics["scored"] > 0
    assert metrics["answers"] == 12
    submission = json.loads((folder / "submission.json").read_text())
    assert len(submission) == metrics["questions"]
    assert {entry["answer"] for entry in submission} <= set(answers(alone))
    (alone / "assets.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"assets\.json: damaged"):
        load_task(alone)


@pytest.mark.slow
def test_a_control_and_the_table_of_results(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(trained), "task.blind=image", "evaluate.split=train"]) == 0
    out = capsys.readouterr().out
    for words in ("questions", "presence", "most frequent answer", "reachable"):
        assert words in out


def test_answers_carry_over_to_another_run(trained: Path, recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "next"
    arguments = [f"init_from.path={trained}", "task.answer_count=3", "train.steps=1"]
    assert run(["train", str(recipe), "--run-dir", str(path), *arguments]) == 0
    assert answers(path) == answers(trained)


@pytest.mark.slow
def test_statements(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nlvr"
    settings = ["task.name=nlvr", "data.examples=statements"]
    assert run(["train", str(recipe), "--run-dir", str(path), *settings]) == 0
    assert not (path / "export" / "assets.json").exists()
    assert run(["eval", str(path), "evaluate.split=train"]) == 0
    assert "statements" in capsys.readouterr().out
    (folder,) = (path / "eval").iterdir()
    metrics = read_metrics(folder)
    assert metrics["statements"] == len(json.loads((folder / "submission.json").read_text()))
    assert 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.examples=samples"], "data.examples = samples, but task vqa is about questions"),
        (["task.name=nlvr"], "data.examples = questions, but task nlvr is about statements"),
        (["task.name=retrieval"], "data.examples = questions, but task retrieval is about samples"),
    ],
)
def test_rows_that_are_not_what_the_task_is_about(recipe: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        check_config(resolve_run(recipe, settings).config)


def test_rows_of_each_source(recipe: Path) -> None:
    tasks = ["task.name=multi", "task.tasks.ask.name=vqa", "task.tasks.find.name=retrieval"]
    sources = ["data.sources.ask.weight=1", "data.sources.find.weight=1"]
    check_config(resolve_run(recipe, [*tasks, *sources, "data.sources.find.examples=samples"]).config)
    with pytest.raises(ConfigError, match=r"data\.sources\.find\.examples = questions, but task retrieval"):
        check_config(resolve_run(recipe, [*tasks, *sources]).config)


def test_two_towers_cannot_answer(recipe: Path, scenes: Path) -> None:
    towers = {**RECIPE, "system": {"name": "two_tower", "image_size": 16}}
    with pytest.raises(
        ConfigError, match=r"task\.name = vqa is nothing that system\.name = two_tower can do"
    ):
        check_config(resolve_run(towers, []).config)


@pytest.mark.slow
def test_several_tasks_with_answers_of_their_own(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "multi"
    settings = [
        "task.name=multi", "task.tasks.ask.name=vqa", "task.tasks.ask.answer_count=5",
        "task.tasks.find.name=retrieval",
        "data.sources.ask.weight=1", "data.sources.find.weight=1", "data.sources.find.examples=samples",
    ]  # fmt: skip
    assert run(["train", str(recipe), "--run-dir", str(path), *settings]) == 0
    found = json.loads((path / "export" / "assets.json").read_text())
    assert len(found["ask"]["answers"]) == 5
    _, task = load_task(path)
    assert task.assets() == found

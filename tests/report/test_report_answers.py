"""The part of a report that shows questions and statements."""

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.report.answers import answer_tables, pick_answers
from diptych.report.collect import read_run
from diptych.report.compare import scores
from diptych.report.run import write_run_report


def write_run(path: Path, metrics: dict[str, Any], predictions: list[dict[str, Any]]) -> Path:
    """Write a run with one evaluation."""
    folder = path / "eval" / f"{metrics['task']}_toy_test"
    folder.mkdir(parents=True)
    (path / "config.yaml").write_text(
        f"name: {path.name}\nsystem: {{name: eve}}\ntask: {{name: {metrics['task']}}}\n"
    )
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    return path


def asked(accuracy: float, task: str = "vqa") -> dict[str, Any]:
    metrics = {
        "task": task,
        "dataset": "toy",
        "split": "test",
        "questions" if task == "vqa" else "statements": 3,
        "scored": 3,
        "headline": "accuracy",
        "accuracy": accuracy,
        "kinds": {"how_many": {"accuracy": accuracy, "count": 2}},
        "chance": {"most_frequent": 0.25, "most_frequent_by_kind": 0.5, "random": 0.1},
    }
    return {**metrics, "reachable": 0.9} if task == "vqa" else metrics


ROWS = [
    {"key": "a", "question": "How many?", "answer": "2", "right": ["3"], "accuracy": 0.0},
    {"key": "b", "question": "Is it?", "answer": "yes", "right": ["yes"], "accuracy": 1.0},
    {"key": "c", "question": "Hidden?", "answer": "yes", "right": [], "accuracy": None},
]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "full", asked(0.75), ROWS),
        write_run(tmp_path / "blind", asked(0.5), ROWS[:1]),
        write_run(tmp_path / "pairs", asked(0.6, "nlvr"), [{"key": "d", "statement": "So.", "right": True}]),
    ]


def test_one_table_for_each_task_and_split(runs: list[Path]) -> None:
    questions, statements = answer_tables([read_run(path) for path in runs])
    assert (questions.title, questions.what, questions.runs) == ("toy · test", "questions", ["full", "blind"])
    nb = "\u00a0"
    assert [row.cells for row in questions.rows] == [
        [f"75.0{nb}%", f"50.0{nb}%", f"25.0{nb}%"],
        [f"75.0{nb}%", f"50.0{nb}%", ""],
    ]
    assert [(row.label, row.count) for row in questions.rows] == [("all", 3), ("how many", 2)]
    assert questions.reachable == 0.9
    assert (statements.what, statements.runs, statements.reachable) == ("statements", ["pairs"], None)


def test_accuracies_of_two_tasks_are_no_scores_of_one_line(runs: list[Path]) -> None:
    labels = [row.label for row in scores([read_run(path) for path in runs])]
    assert labels == ["toy · test, vqa: accuracy", "toy · test, nlvr: accuracy"]


def test_some_questions_that_have_an_answer(runs: list[Path]) -> None:
    views = [read_run(path) for path in runs]
    every = [view.evaluations[0] for view in views]
    assert {row["key"] for row in pick_answers(every[:1])} == {"a", "b"}
    assert [row["key"] for row in pick_answers(every)] == ["a"]
    assert pick_answers(every[2:]) == []


def test_the_page(runs: list[Path], tmp_path: Path) -> None:
    page = write_run_report(runs, tmp_path / "report.html").read_text()
    for words in (
        "accuracy on 3 questions",
        "accuracy on 3 statements",
        "How many?",
        "said “2”",
        "would reach 90.0",
    ):
        assert words in page

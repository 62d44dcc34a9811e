"""What a report says of questions and statements: accuracies by kind, and some of the answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diptych.report.collect import EvalView, RunView
from diptych.report.pages import percent

EXAMPLES = 12


@dataclass(frozen=True)
class AnswerRow:
    """A line of a table of accuracies: all questions, or those of a kind."""

    label: str
    count: int
    cells: list[str]
    """One a run, then what the most frequent answer reaches, where it is known."""


@dataclass(frozen=True)
class AnswerTable:
    """Accuracies of all runs that were evaluated on one split."""

    title: str
    what: str
    """`questions` or `statements`."""
    runs: list[str]
    rows: list[AnswerRow]
    reachable: float | None
    """What the best answer of the list would reach, where it is below 1."""


def answered(runs: Sequence[RunView]) -> list[tuple[RunView, EvalView]]:
    """Return the evaluations that have an accuracy, with their runs."""
    return [(run, found) for run in runs for found in run.evaluations if "kinds" in found.metrics]


def answer_tables(runs: Sequence[RunView]) -> list[AnswerTable]:
    """Return a table for each split that questions or statements were evaluated on."""
    groups: dict[tuple[str, str], list[tuple[RunView, EvalView]]] = {}
    for run, found in answered(runs):
        groups.setdefault((str(found.metrics.get("task")), found.title), []).append((run, found))
    return [_table(title, group) for (_, title), group in groups.items()]


def _table(title: str, group: Sequence[tuple[RunView, EvalView]]) -> AnswerTable:
    every = [found.metrics for _, found in group]
    first = every[0]
    usual = first["chance"]["most_frequent"]
    rows = [AnswerRow("all", first["scored"], [percent(m["accuracy"]) for m in every] + [percent(usual)])]
    for kind, of_kind in _groups(first).items():
        cells = [percent(_groups(m).get(kind, {}).get("accuracy")) for m in every]
        rows.append(AnswerRow(kind.replace("_", " "), of_kind["count"], [*cells, ""]))
    best = first.get("reachable")
    what = "questions" if "questions" in first else "statements"
    shown = best if best is not None and best < 1 else None
    return AnswerTable(title, what, [run.title for run, _ in group], rows, shown)


def _groups(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return accuracy and count of each kind, then of questions that need the order of frames or do not."""
    orders = {name: metrics[name] for name in ("ordered", "unordered") if name in metrics}
    return {**metrics["kinds"], **orders}


def pick_answers(evaluations: Sequence[EvalView], count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Return a fixed random sample of the questions of the last evaluation that asked any."""
    asked = [found for found in evaluations if "questions" in found.metrics]
    rows = [row for row in asked[-1].predictions if row["right"]] if asked else []
    return random.Random(0).sample(rows, min(count, len(rows)))

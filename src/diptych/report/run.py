"""`report.html`: what ran, what came out, and what it looks like, in one self-contained file."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.index import ShardDataset
from diptych.errors import DiptychError, RunError
from diptych.report.answers import AnswerTable, answer_tables, answered, pick_answers
from diptych.report.collect import EvalView, RunView, Thumbnails, read_run
from diptych.report.compare import (
    DIRECTIONS,
    Chart,
    Comparison,
    SpeedRow,
    compare,
    overlaid,
    speeds,
    told_apart,
)
from diptych.report.data import DataView, describe
from diptych.report.dictionary import DictionaryView, visual_dictionary
from diptych.report.pages import render, write_page
from diptych.report.pictures import thumbnails
from diptych.report.plots import COLOURS, Series, line_chart

EXAMPLES = 18
CONFUSIONS = 12
RECALLS = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class ResultRow:
    """One line of a result table."""

    label: str
    kind: str
    """"ours", "baseline" or "chance"."""
    scores: Mapping[str, Any]
    headline: bool = False


@dataclass(frozen=True)
class ResultTable:
    """Scores of one direction on one split; `best` is the largest R@1, for the bars."""

    direction: str
    rows: list[ResultRow]

    @property
    def best(self) -> float:
        """Largest R@1 of the table."""
        return max((row.scores.get("R@1", 0.0) for row in self.rows), default=1.0) or 1.0


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    title: str
    runs: list[RunView]
    baselines: list[RunView]
    main: EvalView | None
    rival: EvalView | None
    tables: list[ResultTable]
    charts: list[Chart]
    compared: Comparison | None
    """The runs side by side, if they are several."""
    speeds: list[SpeedRow]
    owner: str
    """The run of the main evaluation, where runs of one task are compared; empty otherwise."""
    answers: list[AnswerTable]
    """Accuracies of questions and statements."""
    asked: list[dict[str, Any]]
    """Some questions with their answers."""
    examples: list[dict[str, Any]]
    confusions: list[dict[str, Any]]
    experts: list[dict[str, Any]]
    words: DictionaryView | None
    """The visual dictionary, where an evaluation looked at one."""
    pictures: Thumbnails
    data: DataView | None
    parts: Mapping[str, float] = field(default_factory=dict)
    """CPU seconds of each part of a job."""


def write_run_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "",
    baselines: Sequence[Path] = (),
    labels: Mapping[str, str] | None = None,
    parts: Mapping[str, float] | None = None,
) -> Path:
    """Write one page about `runs`, in the order in which they ran, and return its path.

    The examples come from the last run with a retrieval evaluation. `baselines` are runs to compare with,
    `labels` names runs by their folder name, `parts` adds a line of CPU seconds.

    Raises:
        RunError: a folder is no run directory, or one of its files is damaged.
    """
    if not runs:
        raise RunError("no run to report on; give at least one run directory")
    names = labels or {}
    every = told_apart([read_run(path, names.get(path.name, "")) for path in [*runs, *baselines]])
    views, rivals = every[: len(runs)], every[len(runs) :]
    main = next((e for run in reversed(views) for e in run.evaluations if "scores" in e.metrics), None)
    # Runs of one task are looked at together; otherwise they are stages, and the last one is the result.
    shown = views if overlaid(views) else views[-1:]
    title = title or f"Diptych: {', '.join(run.title for run in shown)}"
    page = _page(title, views, rivals, main, parts or {})
    return write_page(render("run.html.j2", page=page, directions=DIRECTIONS, recalls=RECALLS), out)


def _page(
    title: str, views: list[RunView], rivals: list[RunView], main: EvalView | None, parts: Mapping[str, float]
) -> Page:
    rival = _same_split(rivals, main)
    owner = next((run for run in views if main in run.evaluations), views[-1])
    examples = pick_examples(main.predictions) if main else []
    confusions = pick_confusions(main.predictions) if main else []
    dataset = _dataset_path(owner)
    questions = answered(views)
    asked = pick_answers([found for _, found in questions])
    keys = {key for row in examples + confusions for key in _keys(row)} | {row["key"] for row in asked}
    served = main or (questions[-1][1] if questions else None)
    both = [*views, *rivals]
    together = [run for group in overlaid(both) for run in group]
    shown = {text: key for row in confusions for text, key in row["lookalikes"].items()}
    return Page(
        title=title,
        runs=views,
        baselines=rivals,
        main=main,
        rival=rival,
        tables=result_tables(views, rivals, main),
        charts=[chart for run in both if run not in together for chart in curves(run)],
        compared=compare(both, COLOURS, None if overlaid(views) else main),
        owner=owner.title if len([run for run in views if run in together]) > 1 else "",
        speeds=speeds(both),
        answers=answer_tables([*views, *rivals]),
        asked=asked,
        examples=examples,
        confusions=confusions,
        experts=heat_map(served.experts) if served else [],
        words=visual_dictionary(views),
        pictures=thumbnails(dataset, keys | set(shown.values())),
        data=_data_view(dataset, main),
        parts=parts,
    )


def result_tables(
    views: Sequence[RunView], rivals: Sequence[RunView], main: EvalView | None
) -> list[ResultTable]:
    """Return a table a direction: every run evaluated on the same split, the baselines and chance."""
    if main is None:
        return []
    tables = []
    for direction in DIRECTIONS:
        rows = [row for run in views for row in _rows(run, main, direction, "ours")]
        rows += [row for run in rivals for row in _rows(run, main, direction, "baseline")]
        chance = main.metrics.get("chance", {}).get(direction)
        if chance:
            rows.append(ResultRow("chance", "chance", chance))
        tables.append(ResultTable(direction, rows))
    return tables


def _rows(run: RunView, main: EvalView, direction: str, kind: str) -> list[ResultRow]:
    found = _same_split([run], main)
    if found is None:
        return []
    scores = found.metrics["scores"]
    return [
        ResultRow(
            f"{run.title}, {name.replace('_', ' ')}" if len(scores) > 1 else run.title,
            kind,
            value[direction],
            name == found.metrics.get("headline"),
        )
        for name, value in scores.items()
    ]


def _same_split(runs: Sequence[RunView], main: EvalView | None) -> EvalView | None:
    if main is None:
        return None
    wanted = (main.metrics.get("dataset"), main.metrics.get("split"))
    for run in runs:
        for evaluation in run.evaluations:
            if (
                evaluation.metrics.get("dataset"),
                evaluation.metrics.get("split"),
            ) == wanted and "scores" in evaluation.metrics:
                return evaluation
    return None


def curves(run: RunView) -> list[Chart]:
    """Return charts of one run over its steps: the loss and its parts, further metrics, gradient norms."""
    if len(run.rows) < 2:
        return []
    losses: dict[str, tuple[list[float], list[float]]] = {}
    metrics: dict[str, tuple[list[float], list[float]]] = {}
    norms: dict[str, tuple[list[float], list[float]]] = {"total": ([], [])}
    for row in run.rows:
        for key, value in row.items():
            if not isinstance(value, int | float):
                continue
            kind, _, name = key.partition("/")
            target = {"loss": losses, "metric": metrics, "grad_norm": norms}.get(kind)
            if target is not None:
                xs, ys = target.setdefault(name or "total", ([], []))
                xs.append(float(row["step"]))
                ys.append(float(value))
    shares: Series = {k: v for k, v in metrics.items() if all(0 <= y <= 1 for y in v[1])}
    charts = [Chart(f"{run.title}: loss", line_chart(losses, x_label="step"))] if losses else []
    if shares:
        charts.append(Chart(f"{run.title}: measures", line_chart(shares, x_label="step")))
    if norms["total"][0]:
        # A part whose gradient vanishes has no place on this axis.
        drawn = {k: v for k, v in norms.items() if all(y > 0 for y in v[1])}
        charts.append(Chart(f"{run.title}: gradient norm", line_chart(drawn, x_label="step", log_y=True)))
    return charts


def pick_examples(predictions: Sequence[Mapping[str, Any]], count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Return a fixed random sample of the text queries with their first five pictures."""
    rows = [row for row in predictions if row["direction"] == "text_to_image"]
    chosen = random.Random(0).sample(rows, min(count, len(rows)))
    return [{**row, "top": row["top"][:5], "lookalikes": {}} for row in chosen]


def pick_confusions(
    predictions: Sequence[Mapping[str, Any]], count: int = CONFUSIONS
) -> list[dict[str, Any]]:
    """Return the picture queries whose right text ended furthest down, with a picture of what was said."""
    pictures = {
        row["right"][0]: row["key"]
        for row in predictions
        if row["direction"] == "image_to_text" and row["right"]
    }
    rows = [
        row for row in predictions if row["direction"] == "image_to_text" and row["rank"] > 1 and row["top"]
    ]
    worst = sorted(rows, key=lambda row: (-row["rank"], row["key"]))[:count]
    return [
        {**row, "lookalikes": {t["id"]: pictures[t["id"]] for t in row["top"][:1] if t["id"] in pictures}}
        for row in worst
    ]


def heat_map(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each mixture layer, the share of image and of text tokens that each expert serves."""
    out = []
    for layer in layers:
        shares = {side: _shares(layer[side]) for side in ("image", "text")}
        out.append(
            {"layer": layer["layer"], "sides": shares, "top": max([*shares["image"], *shares["text"], 1e-9])}
        )
    return out


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _keys(row: Mapping[str, Any]) -> list[str]:
    if row["direction"] == "image_to_text":
        return [row["key"]]
    return [*(hit["id"] for hit in row["top"]), *row["right"][:1]]


def _dataset_path(run: RunView) -> Path:
    evaluate, data = run.config.get("evaluate") or {}, run.config.get("data") or {}
    return Path(evaluate.get("path") or data.get("path") or "")


def _data_view(path: Path, main: EvalView | None) -> DataView | None:
    if not path.name or not path.exists():
        return None
    try:
        return describe(ShardDataset.open(path), split=str(main.metrics.get("split") or "") if main else "")
    except DiptychError:
        return None  # the data may have moved since; everything else on the page still stands


def colour(number: int) -> str:
    """Return the n-th chart colour."""
    return COLOURS[number % len(COLOURS)]

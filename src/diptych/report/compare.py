"""Several runs side by side: curves over each other, final figures, scores, speed, settings that differ."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.report.collect import EvalView, RunView
from diptych.report.pages import number, percent
from diptych.report.plots import line_chart

DIRECTIONS = {"image_to_text": "picture → text", "text_to_image": "text → picture"}
LOWER_IS_BETTER = ("rank", "loss", "error", "seconds")
ABOUT = frozenset(
    {"task", "dataset", "split", "where", "step", "headline", "chance", "candidates", "skipped"}
    | {"questions", "statements", "answers", "scored", "kinds", "reachable"}
)
"""Keys of metrics.json that tell what was evaluated, or what the scores are compared with."""


@dataclass(frozen=True)
class Chart:
    """A titled SVG."""

    title: str
    svg: str


@dataclass(frozen=True)
class TableRow:
    """A label and one cell a run; `best` are the cells to be marked."""

    label: str
    cells: list[str]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class SpeedRow:
    """How fast a run was, over all its rows but the first; what a run did not record is None."""

    run: RunView
    samples: float | None
    tokens: float | None
    flops: float | None
    share: float | None
    wait: float | None
    memory_mb: float | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of runs side by side; `colours` are those of the runs in the charts."""

    runs: list[RunView]
    colours: list[str]
    charts: list[Chart]
    figures: list[TableRow]
    scores: list[TableRow]
    settings: list[TableRow]


def told_apart(runs: Sequence[RunView]) -> list[RunView]:
    """Return the runs with titles that differ: where names are equal, those of their folders are added."""
    count = Counter(run.title for run in runs)
    folders = Counter((run.title, run.path.name) for run in runs)
    out = []
    for run in runs:
        if count[run.title] > 1:
            unique = folders[run.title, run.path.name] == 1
            folder = run.path.name if unique else f"{run.path.parent.name}/{run.path.name}"
            run = replace(run, label=folder if folder == run.title else f"{run.title} ({folder})")
        out.append(run)
    return out


def overlaid(runs: Sequence[RunView]) -> list[list[RunView]]:
    """Return the runs whose curves are drawn over each other: those of one task, if they are several."""
    tasks: dict[str, list[RunView]] = {}
    for run in runs:
        if len(run.rows) > 1:
            tasks.setdefault(str((run.config.get("task") or {}).get("name")), []).append(run)
    return [group for group in tasks.values() if len(group) > 1]


def compare(
    runs: Sequence[RunView], colours: Sequence[str], shown: EvalView | None = None
) -> Comparison | None:
    """Put runs side by side; None for a single one.

    Args:
        runs: in the order of the columns.
        colours: of the first run, the second, ...; they start anew when they are used up.
        shown: scores on the split of this evaluation are left out, as they are shown elsewhere.
    """
    if len(runs) < 2:
        return None
    of_run = {run.title: colours[i % len(colours)] for i, run in enumerate(runs)}
    groups = overlaid(runs)
    charts = [chart for group in groups for chart in _charts(group, of_run, named=len(groups) > 1)]
    return Comparison(
        runs=list(runs),
        colours=list(of_run.values()),
        charts=charts,
        figures=final_figures(runs),
        scores=scores(runs, shown),
        settings=differing_settings(runs),
    )


# Curves


def _charts(runs: Sequence[RunView], colours: Mapping[str, str], *, named: bool) -> Iterator[Chart]:
    """Yield a chart for each loss and metric of runs of one task, and the loss over the CPU time."""
    task = f"{runs[0].config['task']['name']}: " if named else ""
    names = [name for name in _figure_names(runs) if name.startswith(("loss", "metric/", "grad_norm"))]
    for name in (name for name in names if not name.startswith("grad_norm/")):
        chart = _chart(runs, name, "step", colours)
        if chart:
            yield Chart(task + _spoken(name), chart)
            if name == "loss":
                over_time = _chart(runs, name, "cpu_seconds", colours)
                if over_time:
                    yield Chart(f"{task}loss over CPU time", over_time)


def _chart(runs: Sequence[RunView], name: str, x: str, colours: Mapping[str, str]) -> str:
    series = {}
    for run in runs:
        points = [
            (row[x], row[name]) for row in run.rows if _is_number(row.get(name)) and _is_number(row.get(x))
        ]
        if len(points) > 1:
            xs, ys = zip(*points, strict=True)
            series[run.title] = (xs, ys)
    label = "CPU seconds" if x == "cpu_seconds" else x
    return line_chart(series, x_label=label, colours=colours, legend=False) if series else ""


# Tables


def final_figures(runs: Sequence[RunView]) -> list[TableRow]:
    """Return the figures of the last row of each run: how far it is, losses, metrics, gradient norm."""
    shown = [
        name
        for name in _figure_names(runs)
        if name in ("step", "epoch", "grad_norm", "experts/max_share") or name.startswith(("loss", "metric/"))
    ]
    return [_row(_spoken(name), [run.last.get(name) for run in runs], number) for name in shown]


def scores(runs: Sequence[RunView], shown: EvalView | None = None) -> list[TableRow]:
    """Return every score of every evaluation, best ones marked; runs that lack it have a dash.

    Evaluations on the split of `shown` are left out.
    """
    found: dict[str, dict[int, float]] = {}
    for position, run in enumerate(runs):
        for evaluation in run.evaluations:
            if shown is not None and evaluation.title == shown.title:
                continue
            for label, value in _scores_of(evaluation):
                found.setdefault(label, {})[position] = value
    rows = []
    for label, values in found.items():
        cells = [values.get(position) for position in range(len(runs))]
        share = "R@" in label or "accuracy" in label
        rows.append(_row(label, cells, percent if share else number, _best(label, values)))
    return rows


def _scores_of(evaluation: EvalView) -> Iterator[tuple[str, float]]:
    """Yield the scores of an evaluation with what they are called, in words."""
    metrics = evaluation.metrics
    if "scores" not in metrics:
        # Two tasks may be evaluated on one split, and their accuracies are not to be compared.
        title = f"{evaluation.title}, {metrics['task']}" if "kinds" in metrics else evaluation.title
        yield from _numbers(title, {k: v for k, v in metrics.items() if k not in ABOUT | {"baseline"}})
        return
    for kind, directions in metrics["scores"].items():
        for direction, values in directions.items():
            words = DIRECTIONS.get(direction, direction.replace("_", " "))
            yield from _numbers(f"{evaluation.title}, {kind.replace('_', ' ')}, {words}", values)


def _numbers(title: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if _is_number(value):
            yield f"{title}: {name.replace('_', ' ')}", value


def _best(label: str, values: Mapping[int, float]) -> frozenset[int]:
    """Return who is best, if runs differ."""
    if len(set(values.values())) < 2:
        return frozenset()
    name = label.rpartition(": ")[2]
    best = min(values.values()) if any(word in name for word in LOWER_IS_BETTER) else max(values.values())
    return frozenset(position for position, value in values.items() if value == best)


def differing_settings(runs: Sequence[RunView]) -> list[TableRow]:
    """Return the settings that are not equal in all runs."""
    flat = [dict(_leaves(run.config)) for run in runs]
    rows = []
    for key in dict.fromkeys(key for settings in flat for key in settings):
        cells = ["–" if key not in settings else _setting(settings[key]) for settings in flat]
        if key != "name" and len(set(cells)) > 1:
            rows.append(TableRow(key, cells))
    return rows


def _setting(value: Any) -> str:
    """Return a value as a recipe would hold it."""
    return (value or "(empty)") if isinstance(value, str) else json.dumps(value)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def speeds(runs: Sequence[RunView]) -> list[SpeedRow]:
    """Return how fast the runs were; empty if no run has recorded it."""
    rows = [
        SpeedRow(
            run=run,
            samples=_mean_over_time(run, "samples_per_second"),
            tokens=_mean_over_time(run, "tokens_per_second"),
            flops=_mean_over_time(run, "flops_per_second"),
            share=_mean_over_time(run, "flops_share"),
            wait=_mean_over_time(run, "data_wait"),
            memory_mb=max(
                (row["memory_peak_mb"] for row in run.rows if "memory_peak_mb" in row), default=None
            ),
        )
        for run in runs
    ]
    return rows if any(row.samples is not None for row in rows) else []


def _mean_over_time(run: RunView, name: str) -> float | None:
    """Return the mean of a rate or share over the time of all rows but the first, which starts things up."""
    rows = [row for row in run.rows[1:] or run.rows if name in row and row.get("steps_per_second")]
    # Rows are equal numbers of steps apart, so a row's time goes with one over its rate.
    weights = [1 / row["steps_per_second"] for row in rows]
    if not weights:
        return None
    return float(sum(w * row[name] for w, row in zip(weights, rows, strict=True)) / sum(weights))


# What they share


def _row(
    label: str,
    values: Sequence[float | None],
    text: Callable[[Any], str],
    best: frozenset[int] = frozenset(),
) -> TableRow:
    return TableRow(label, ["–" if value is None else text(value) for value in values], best)


def _figure_names(runs: Iterable[RunView]) -> list[str]:
    """Return the names of all numbers in the rows, in the order in which they turn up."""
    names = {name: None for run in runs for row in run.rows for name in row if _is_number(row[name])}
    return sorted(names, key=lambda name: (name.startswith("metric/"), name.startswith("loss/")))


def _spoken(name: str) -> str:
    return name.removeprefix("metric/").replace("loss/", "loss: ").replace("_", " ").replace("/", ", ")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

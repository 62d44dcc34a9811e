"""Runs side by side, by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from diptych.report.collect import EvalView, RunView
from diptych.report.compare import (
    TableRow,
    compare,
    differing_settings,
    final_figures,
    overlaid,
    scores,
    speeds,
    told_apart,
)
from diptych.report.pages import flops
from diptych.report.plots import COLOURS


def run(
    name: str = "run",
    *,
    folder: str = "runs/a",
    task: str = "retrieval",
    rows: Sequence[Mapping[str, Any]] = (),
    evaluations: Sequence[Mapping[str, Any]] = (),
    **config: Any,
) -> RunView:
    return RunView(
        path=Path(folder),
        name=name,
        config={"name": name, "task": {"name": task}, **config},
        sources={},
        environment={},
        rows=[dict(row) for row in rows],
        evaluations=[EvalView(Path(f"{folder}/eval"), dict(metrics)) for metrics in evaluations],
    )


def curve(**last: float) -> list[dict[str, float]]:
    return [
        {"step": 1, "loss": 3.0, "cpu_seconds": 1.0},
        {"step": 2, "loss": 2.0, "cpu_seconds": 3.0, **last},
    ]


def test_runs_of_one_name_are_told_apart_by_their_folders() -> None:
    runs = [
        run("x", folder="one/a"),
        run("x", folder="two/a"),
        run("x", folder="two/b"),
        run("y", folder="y"),
    ]
    assert [view.title for view in told_apart(runs)] == ["x (one/a)", "x (two/a)", "x (b)", "y"]
    assert [view.title for view in told_apart([run("b", folder="b"), run("b", folder="c")])] == ["b", "b (c)"]


def test_only_runs_of_one_task_are_drawn_over_each_other() -> None:
    a, b = run("a", rows=curve()), run("b", rows=curve())
    other, short = run("c", task="eve_pretrain", rows=curve()), run("d", rows=curve()[:1])
    assert overlaid([a, other, b, short]) == [[a, b]]
    assert overlaid([a, other]) == []
    assert compare([a], COLOURS) is None


def test_charts_have_a_line_a_run_and_no_legend_of_their_own() -> None:
    a = run("first run", rows=curve(**{"loss/itc": 1.0}))
    b = run("second run", rows=curve(**{"metric/accuracy": 0.5, "grad_norm": 1.0, "grad_norm/itc": 1.0}))
    found = compare([a, b], COLOURS)
    assert found is not None
    # A figure that is there once makes no curve.
    assert [chart.title for chart in found.charts] == ["loss", "loss over CPU time"]
    assert found.colours == list(COLOURS[:2])
    for chart in found.charts:
        assert all(colour in chart.svg for colour in COLOURS[:2])
        assert "first run" not in chart.svg


def test_settings_that_differ() -> None:
    a = run("a", optim={"lr": 0.1, "betas": [0.9, 0.98]}, data={"sources": {}}, seed=1)
    b = run("b", optim={"lr": 0.2, "betas": [0.9, 0.98]}, data={"sources": {"x": {"path": "d"}}}, seed=1)
    assert differing_settings([a, b]) == [
        TableRow("optim.lr", ["0.1", "0.2"]),
        TableRow("data.sources", ["{}", "–"]),
        TableRow("data.sources.x.path", ["–", "d"]),
    ]


def test_final_figures_are_those_of_the_last_row() -> None:
    a = run("a", rows=curve(**{"metric/itc_accuracy": 0.25, "samples_per_second": 7.0}))
    assert final_figures([a, run("b")]) == [
        TableRow("step", ["2", "–"]),
        TableRow("loss", ["2", "–"]),
        TableRow("itc accuracy", ["0.25", "–"]),
    ]


def test_scores_of_all_evaluations_with_the_best_marked() -> None:
    def retrieval(r1: float, rank: float) -> dict[str, Any]:
        directions = {"image_to_text": {"R@1": r1, "median_rank": rank}}
        return {
            "dataset": "emoji",
            "split": "unseen_style",
            "scores": {"contrastive": directions},
            "images": 5,
        }

    rebuilt = {
        "task": "eve_pretrain",
        "dataset": "emoji",
        "split": "test",
        "masked_token_loss": 2.5,
        "baseline": {"masked_token_accuracy": 0.1},
    }
    runs = [
        run("a", evaluations=[retrieval(0.5, 2), rebuilt]),
        run("b", evaluations=[retrieval(0.25, 3)]),
        run("c", evaluations=[retrieval(0.5, 2)]),
    ]
    where = "emoji · unseen style, contrastive, picture → text"
    assert scores(runs) == [
        TableRow(f"{where}: R@1", ["50.0\u00a0%", "25.0\u00a0%", "50.0\u00a0%"], frozenset({0, 2})),
        TableRow(f"{where}: median rank", ["2", "3", "2"], frozenset({0, 2})),
        TableRow("emoji · test: masked token loss", ["2.5", "–", "–"]),
    ]


def test_speed_is_a_mean_over_time_without_the_first_row() -> None:
    rows = [
        {"step": 1, "steps_per_second": 0.1, "samples_per_second": 1.0, "memory_peak_mb": 10.0},
        {
            "step": 11,
            "steps_per_second": 1.0,
            "samples_per_second": 8.0,
            "memory_peak_mb": 20.0,
            "data_wait": 0.5,
        },
        {
            "step": 21,
            "steps_per_second": 3.0,
            "samples_per_second": 24.0,
            "memory_peak_mb": 20.0,
            "data_wait": 0.1,
        },
    ]
    fast, old = speeds([run("a", rows=rows), run("b", rows=curve())])
    # 10 steps of 8 samples in 10 s, and as many in 10 / 3 s.
    assert fast.samples == pytest.approx(160 / (10 + 10 / 3))
    assert fast.memory_mb == 20
    assert fast.wait == pytest.approx((0.5 * 3 + 0.1 * 1) / 4)
    assert (old.samples, old.flops, old.memory_mb) == (None, None, None)
    assert speeds([run("b", rows=curve())]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (3.125e14, "312 TFLOP/s"), (4.12e9, "4.12 GFLOP/s"), (5.0e5, "0.5 MFLOP/s")],
)
def test_operations_a_second_in_words(value: float | None, text: str) -> None:
    assert flops(value) == text

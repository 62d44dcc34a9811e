"""`diptych eval`: what a trained model reaches on a split, beside chance."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from diptych.cli.common import RecipeCommand, SettingsArgument, console, progress

if TYPE_CHECKING:
    from rich.table import Table

DIRECTIONS = {"image_to_text": "picture → text", "text_to_image": "text → picture"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("eval", cls=RecipeCommand)(evaluate)


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run directory or an export; or a recipe with init_from.path that says what to do.",
            show_default=False,
        ),
    ],
    settings: SettingsArgument = None,
) -> None:
    """Evaluate a trained model: evaluate.split=..., evaluate.path=..., task.k_test=... and the like.

    On several GPUs or machines: `torchrun --nproc-per-node=GPUS -m diptych eval ...`.
    """
    from diptych.evaluation.run import evaluate as run_evaluation
    from diptych.evaluation.run import read_metrics
    from diptych.train.failures import watched

    main = os.environ.get("RANK", "0") == "0"
    with watched():
        if not main:
            run_evaluation(run, settings or [])
            return
        with stage_bars() as report:
            folder = run_evaluation(run, settings or [], report)
    metrics = read_metrics(folder)
    out = console()
    if "scores" in metrics:
        out.print(score_table(metrics))
    if metrics.get("candidates"):
        out.print(candidate_line(metrics["candidates"]))
    elif metrics.get("figures"):
        out.print(figure_table(metrics))
    elif "accuracy" in metrics:
        out.print(accuracy_table(metrics))
    if any((metrics.get("skipped") or {}).values()):
        left_out = ", ".join(f"{count} {cause}" for cause, count in metrics["skipped"].items())
        out.print(f"left out: {left_out}")
    out.print(f"written to {folder}")


def candidate_line(candidates: Mapping[str, Any]) -> str:
    """Say how often the candidates that were scored again hold a right answer."""
    pictures, texts = (100 * candidates[f"{d}_recall"] for d in ("image_to_text", "text_to_image"))
    return (
        f"candidates: {candidates['k_texts']} texts of each picture hold a right one for {pictures:.2f} % of "
        f"the pictures, {candidates['k_images']} pictures of each text for {texts:.2f} % of the texts"
    )


class Report(Protocol):
    """What evaluations call with their progress."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in this stage."""
        ...


@contextmanager
def stage_bars() -> Iterator[Report]:
    """Yield a callback that shows one bar for each stage of the work, one after the other."""
    current: dict[str, Any] = {"stage": None}
    with ExitStack() as stack:

        def report(stage: str, done: int, total: int) -> None:
            if stage != current["stage"]:
                stack.close()
                current.update(stage=stage, bar=stack.enter_context(progress(stage, total)))
            current["bar"].update(done, total)

        yield report


def score_table(metrics: Mapping[str, Any]) -> "Table":
    """Lay out recalls in percent and median ranks of every ranking and direction, chance below."""
    from rich import box
    from rich.table import Table

    title = (
        f"{metrics['dataset']} · {metrics['split']}: {metrics['images']} pictures, {metrics['texts']} texts"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("ranking", "direction"):
        table.add_column(name)
    for name in ("R@1 %", "R@5 %", "R@10 %", "median rank"):
        table.add_column(name, justify="right")
    for ranking, scores in {**metrics["scores"], "chance": metrics["chance"]}.items():
        for place, (direction, label) in enumerate(DIRECTIONS.items()):
            cells = [f"{100 * scores[direction][k]:.2f}" for k in ("R@1", "R@5", "R@10")]
            median = f"{scores[direction]['median_rank']:g}"
            table.add_row("" if place else ranking, label, *cells, median)
    return table


def figure_table(metrics: Mapping[str, Any]) -> "Table":
    """Lay out the figures of a task, times 100, beside what the most frequent answer gets."""
    from rich import box
    from rich.table import Table

    what = next(name for name in ("examples", "pictures") if name in metrics)
    title = f"{metrics['dataset']} · {metrics['split']}: {metrics['scored']} of {metrics[what]} {what} scored"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("figure")
    usual = metrics.get("chance", {}).get("most_frequent", {})
    for name in ("x 100", *(["most frequent answer"] if usual else [])):
        table.add_column(name, justify="right")
    for name in metrics["figures"]:
        cells = [found[name] for found in (metrics, usual) if name in found]
        table.add_row(name, *(f"{100 * cell:.2f}" for cell in cells))
    return table


def accuracy_table(metrics: Mapping[str, Any]) -> "Table":
    """Lay out accuracies in percent: all, and each kind; below what needs no picture."""
    from rich import box
    from rich.table import Table

    what = next(name for name in ("questions", "statements", "pictures", "words") if name in metrics)
    of = f"{metrics['dataset']} · {metrics['split']}"
    title = f"{of}: {metrics[what]} {what}, {metrics['scored']} with an answer"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("kind")
    table.add_column("accuracy %", justify="right")
    table.add_column(what, justify="right")
    table.add_row("all", f"{100 * metrics['accuracy']:.2f}", str(metrics["scored"]))
    orders = {name: metrics[name] for name in ("ordered", "unordered") if name in metrics}
    for kind, found in {**metrics.get("kinds", {}), **orders}.items():
        table.add_row(f"  {kind}", f"{100 * found['accuracy']:.2f}", str(found["count"]))
    beside = {
        "most frequent answer": metrics["chance"]["most_frequent"],
        "most frequent answer of each kind": metrics["chance"].get("most_frequent_by_kind"),
        "reachable with this list of answers": metrics.get("reachable"),
    }
    for label, value in beside.items():
        if value is not None:
            table.add_row(label, f"{100 * value:.2f}", "")
    return table

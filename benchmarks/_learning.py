"""What the benchmarks of learning share: runs that start from each other, are resumed, evaluated and shown.

Every run has a number of steps and one thread, so that it does not matter what else the machine does.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diptych.evaluation.run
import diptych.train.engine
from diptych.cli.main import run as run_command
from diptych.data.examples import TEXT, all_entries, option_texts
from diptych.data.index import ShardDataset
from diptych.data.prepare import load_card, prepare
from diptych.data.selection import Selection
from diptych.data.text import Tokenizer, clean_caption
from diptych.demo.job import is_finished, read_json, trained_cpu_seconds

PRELOADED = (diptych.evaluation.run, diptych.train.engine)
"""What takes seconds to import; the runs are forked."""
VOCABULARY = 600
Figures = Callable[[dict[str, Any]], dict[str, float]]
"""What a table shows of metrics.json; `accuracy` is the first of them."""


@dataclass(frozen=True)
class Run:
    """A training run."""

    part: str
    name: str
    label: str
    recipe: str
    steps: int
    settings: tuple[str, ...] = ()
    starts_from: str | None = None
    """Name of the run whose weights it starts from."""
    scored: bool = True
    """Whether the table shows it."""


def arguments(
    about: str | None, parts: Sequence[str], default: Sequence[str], out: str, runs: Sequence[Run]
) -> argparse.ArgumentParser:
    """Return a parser of what these benchmarks have in common."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="key=value settings for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(default))
    parser.add_argument("--runs", nargs="+", choices=[run.name for run in runs], help="these runs only")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--json", type=Path)
    return parser


def chosen_runs(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """Return the runs that were asked for, each behind the one it starts from."""
    names = options.runs or [run.name for run in runs if run.part in options.parts]
    return with_starts(runs, names)


def with_starts(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Return the named runs, each behind the one it starts from."""
    by_name = {run.name: run for run in runs}
    needed = set(names)
    for name in names:
        while (start := by_name[name].starts_from) is not None:
            needed.add(name := start)
    return [run for run in runs if run.name in needed]


def prepared(out: Path, card: str, options: Mapping[str, str]) -> Path:
    """Prepare a built-in dataset unless it is there, and return its folder."""
    data = out / "data" / card
    if not (data / "dataset.json").exists():
        prepare(load_card(card), None, data, options=options, shard_size=5000, progress=None)
    return data


def vocabulary(out: Path, data: Path) -> Path:
    """Train a tokenizer on all texts of the training split, unless it is there.

    All runs share it: one of the captions alone would cut the words of questions into letters.
    """
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        training = ShardDataset.open(data).select("train")
        Tokenizer.train(map(clean_caption, texts(training)), VOCABULARY).save(folder)
    return folder


def texts(samples: Selection) -> Iterator[str]:
    """Yield every text of some samples."""
    for i in range(len(samples)):
        yield from samples.read(i).captions
    for kind, field in TEXT.items():
        for entries in all_entries(samples, kind):
            for entry in entries:
                yield from option_texts(entry) if kind == "choices" else (entry[field],)


def perform(
    run: Run, folder: Path, data: Path, seed: int, settings: Sequence[str], asked: Sequence[str] = ()
) -> None:
    """Train a run and evaluate it, each unless that is done; `asked`: settings of the evaluation."""
    path = folder / run.name
    if not is_finished(path):
        print(f"{path}: {run.label}", flush=True)
        start = [f"init_from.path={folder / run.starts_from}"] if run.starts_from else []
        budget = [f"train.steps={run.steps}", "train.threads=1", "train.device=cpu"]
        common = [f"data.path={data}", f"seed={seed}", *budget, *start]
        command("train", run.recipe, *common, *run.settings, *settings, f"--run-dir={path}")
    if run.scored and found(path) is None:
        command("eval", str(path), "evaluate.threads=1", "evaluate.device=cpu", *asked)


def command(*arguments: str) -> None:
    """Run a command in a process of its own, so that no run has to do with another.

    It is forked from this one, which has imported what takes seconds.

    Raises:
        SystemExit: the command failed.
    """
    process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"diptych {' '.join(arguments)}: status {process.exitcode}")


def _command(arguments: Sequence[str]) -> None:
    sys.exit(run_command(list(arguments)))


TEST = "eval/*_test*/metrics.json"
"""Evaluations of the test split in a run directory."""


def found(path: Path, files: str = TEST) -> dict[str, Any] | None:
    """Return the evaluation of a run, if there is one."""
    there = sorted(path.glob(files))
    return read_json(there[0]) if there else None


def result(
    run: Run,
    out: Path,
    seeds: Sequence[int],
    figures: Figures,
    unit: str = "",
    prefix: str = "",
    files: str = TEST,
) -> dict[str, Any] | None:
    """Return the figures of a run over the seeds that are there, None without any."""
    paths = {seed: out / f"seed{seed}" / run.name for seed in seeds}
    metrics = {seed: score for seed, path in paths.items() if (score := found(path, files)) is not None}
    if not metrics:
        return None
    scores = {seed: figures(one) for seed, one in metrics.items()}
    return {
        "name": f"{prefix}{run.part} {run.name} accuracy",
        "label": run.label,
        "value": statistics.mean(score["accuracy"] for score in scores.values()),
        **({"unit": unit} if unit else {}),
        "seeds": {seed: score["accuracy"] for seed, score in scores.items()},
        "kinds": {
            kind: statistics.mean(score[kind] for score in scores.values())
            for kind in next(iter(scores.values()))
        },
        "chance": chance(next(iter(metrics.values()))),
        "steps": run.steps,
        "cpu_seconds": statistics.mean(trained_cpu_seconds(paths[seed]) for seed in scores),
    }


def chance(metrics: dict[str, Any]) -> dict[str, float]:
    """Return what guesses reach; of both directions of retrieval under one name each."""
    guesses: dict[str, Any] = metrics["chance"] if "chance" in metrics else metrics["baseline"]
    flat: dict[str, float] = {}
    for name, value in guesses.items():
        if isinstance(value, dict):
            flat |= {f"{name} {figure}": number for figure, number in value.items()}
        else:
            flat[name] = value
    return flat


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table: accuracy, each seed's, by kind, and chance."""
    for row in rows:
        each = " ".join(f"{seed}:{value:.3f}" for seed, value in row["seeds"].items())
        print(f"{row['name']:34} {row['value']:.3f}  ({each})  {row['cpu_seconds']:.0f} s  {row['label']}")
        print(f"{'':34} {'  '.join(f'{kind} {value:.3f}' for kind, value in row['kinds'].items())}")
        print(f"{'':34} {'  '.join(f'{kind} {value:.3f}' for kind, value in row['chance'].items())}")


def write(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Write the figures, where a file is named."""
    if path:
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")

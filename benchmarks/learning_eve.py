"""What tiny EVE learns on emoji scenes: questions and pairs of pictures, controls, ablations, several seeds.

    python benchmarks/learning_eve.py --seeds 0 1 2 --out runs/learning-eve [--parts vqa nlvr ablations]

Every run has a number of steps and one thread, so that it does not matter what else the machine does.
Finished runs are read, interrupted ones go on; with `--report` nothing is trained, and the table shows what
is there. Figures of `docs/results.md` come from here.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diptych.evaluation.run  # these two for the runs, which are forked
import diptych.train.engine
from diptych.cli.main import run as run_command
from diptych.data.examples import TEXT, all_entries
from diptych.data.index import ShardDataset
from diptych.data.prepare import load_card, prepare
from diptych.data.selection import Selection
from diptych.data.text import Tokenizer, clean_caption
from diptych.demo.job import is_finished, read_json, trained_cpu_seconds

SCENES = {"size": "10000", "resolution": "48", "style": "noto", "kinds": "12"}
"""Options of the card `emoji-scenes`."""
VOCABULARY = 600


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


PRETRAIN = "eve/pretrain/scenes_tiny"
VQA = "eve/finetune/vqa_scenes_tiny"
NLVR = "eve/finetune/nlvr_scenes_tiny"
PRETRAIN_STEPS, VQA_STEPS, NLVR_STEPS = 1200, 800, 400
SHORT_STEPS = 600
"""Steps of pre-training where its details are compared."""
CONTRAST_STEPS = 526
"""Contrast and matching in the CPU seconds of `PRETRAIN_STEPS`: such a step takes 2.28 times as long."""
PASSES_STEPS = 330
"""Two passes in the CPU seconds of `SHORT_STEPS` with one: such a step takes 1.8 times as long."""
FIRST = Run("start", "pretrain", "pre-training", PRETRAIN, PRETRAIN_STEPS)
ASKED = ("task.text_mask_ratio=0.4", "task.image_mask_ratio=0.12", "task.passes=1")
"""What pre-trained models are asked, whatever they learned from: 40 % of words, one patch of nine hidden."""


def controlled(part: str, recipe: str, steps: int, start: str) -> list[Run]:
    """Return a task's run and its two controls, equal in everything else."""
    seen = {"none": "everything", "image": "text only", "text": "picture only"}
    return [
        Run(part, f"{part}-{blind}", label, recipe, steps, (f"task.blind={blind}",), start)
        for blind, label in seen.items()
    ]


def varied(
    part: str,
    name: str,
    label: str,
    system: Sequence[str] = (),
    objectives: Sequence[str] = (),
    steps: int = PRETRAIN_STEPS,
) -> list[Run]:
    """Return a variant: pre-training and questions, both with its settings of the system."""
    start = f"pretrain-{name}"
    return [
        Run(part, start, label, PRETRAIN, steps, (*system, *objectives), scored=name != "contrast"),
        Run(part, f"vqa-{name}", label, VQA, VQA_STEPS, tuple(system), start),
    ]


NO_EXPERTS = "system.moe_layers=[]"
CONTRAST = ("task.mlm_weight=0", "task.mim_weight=0", "task.masked_batch=1", "task.itc_weight=1")
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shared": ("no experts, one network for both", (NO_EXPERTS, "system.lower_ffn=shared")),
    "separate": ("no experts, a network for each modality", (NO_EXPERTS,)),
    "unrouted": ("experts that are not told the modality", ("system.router.modality=false",)),
}
DETAILS = {
    "short": ("as in the recipe", ()),
    "image50": ("half of the patches hidden", ("task.image_mask_ratio=0.5",)),
    "image75": ("three quarters of the patches hidden", ("task.image_mask_ratio=0.75",)),
    "text15": ("15 % of the words hidden", ("task.text_mask_ratio=0.15",)),
    "text60": ("60 % of the words hidden", ("task.text_mask_ratio=0.6",)),
    "drop": (
        "hidden patches dropped, decoder of one layer",
        ("task.masked_tokens=drop", "task.decoder_layers=1"),
    ),
    "deep": ("image decoder of two layers", ("task.decoder_layers=2",)),
    "pixels": ("plain pixels as targets", ("task.normalise_targets=false",)),
    "passes": ("words and patches hidden in a pass each", ("task.passes=2",)),
    "words": ("words only, no patch hidden", ("task.image_mask_ratio=0", "task.mim_weight=0")),
}
RUNS = [
    FIRST,
    *controlled("vqa", VQA, VQA_STEPS, FIRST.name),
    *controlled("nlvr", NLVR, NLVR_STEPS, "vqa-none"),
    *(run for name, (label, system) in SYSTEMS.items() for run in varied("ablations", name, label, system)),
    *varied(
        "ablations",
        "contrast",
        "pre-training: contrast and matching only",
        (),
        (*CONTRAST, "task.itm_weight=1"),
        CONTRAST_STEPS,
    ),
    Run("ablations", "vqa-scratch", "no pre-training", VQA, VQA_STEPS, ("init_from.path=",)),
    *(
        Run("details", f"pretrain-{name}", label, PRETRAIN, SHORT_STEPS, settings)
        for name, (label, settings) in DETAILS.items()
    ),
    Run(
        "details", "pretrain-passes-short", "the same, equal cost", PRETRAIN, PASSES_STEPS, ("task.passes=2",)
    ),
    Run("ablations", "vqa-short", "half of the pre-training", VQA, VQA_STEPS, (), "pretrain-short"),
]


PARTS = ["vqa", "nlvr", "ablations", "details"]


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="key=value settings for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["vqa", "nlvr"])
    parser.add_argument("--runs", nargs="+", choices=[run.name for run in RUNS], help="these runs only")
    parser.add_argument("--out", type=Path, default=Path("runs/learning-eve"))
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    names = options.runs or [run.name for run in RUNS if run.part in options.parts]
    chosen = with_starts(names)
    if not options.report:
        data = scenes(options.out)
        settings = [f"data.text.tokenizer={vocabulary(options.out, data)}", *options.settings]
        for seed in options.seeds:
            for run in chosen:
                perform(run, options.out / f"seed{seed}", data, seed, settings)
    rows = [row for run in chosen if run.scored if (row := result(run, options.out, options.seeds))]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def with_starts(names: Sequence[str]) -> list[Run]:
    """Return the named runs, each behind the one it starts from."""
    by_name = {run.name: run for run in RUNS}
    needed = set(names)
    for name in names:
        while (start := by_name[name].starts_from) is not None:
            needed.add(name := start)
    return [run for run in RUNS if run.name in needed]


def scenes(out: Path) -> Path:
    """Prepare the scenes unless they are there, and return their folder."""
    data = out / "data" / "emoji-scenes"
    if not (data / "dataset.json").exists():
        prepare(load_card("emoji-scenes"), None, data, options=SCENES, shard_size=5000, progress=None)
    return data


def vocabulary(out: Path, data: Path) -> Path:
    """Train a tokenizer on the captions, questions and statements of the training split, unless it is there.

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
            yield from (entry[field] for entry in entries)


def perform(run: Run, folder: Path, data: Path, seed: int, settings: Sequence[str]) -> None:
    """Train a run and evaluate it, each unless that is done."""
    path = folder / run.name
    if not is_finished(path):
        print(f"{path}: {run.label}", flush=True)
        start = [f"init_from.path={folder / run.starts_from}"] if run.starts_from else []
        budget = [f"train.steps={run.steps}", "train.threads=1", "train.device=cpu"]
        common = [f"data.path={data}", f"seed={seed}", *budget, *start]
        diptych("train", run.recipe, *common, *run.settings, *settings, f"--run-dir={path}")
    if run.scored and found(path) is None:
        asked = ASKED if run.recipe == PRETRAIN else ()
        diptych("eval", str(path), "evaluate.threads=1", "evaluate.device=cpu", *asked)


def diptych(*arguments: str) -> None:
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


def found(path: Path) -> dict[str, Any] | None:
    """Return the evaluation of a run, if there is one."""
    files = sorted(path.glob("eval/*_test/metrics.json"))
    return read_json(files[0]) if files else None


def result(run: Run, out: Path, seeds: Sequence[int]) -> dict[str, Any] | None:
    """Return the figures of a run over the seeds that are there, None without any."""
    paths = {seed: out / f"seed{seed}" / run.name for seed in seeds}
    found_metrics = {seed: score for seed, path in paths.items() if (score := found(path)) is not None}
    if not found_metrics:
        return None
    scores = {seed: figures(metrics) for seed, metrics in found_metrics.items()}
    kinds = next(iter(scores.values()))
    return {
        "name": f"{run.part} {run.name} accuracy",
        "label": run.label,
        "value": statistics.mean(score["accuracy"] for score in scores.values()),
        "unit": {VQA: "share of questions", NLVR: "share of statements"}.get(run.recipe, "share of words"),
        "seeds": {seed: score["accuracy"] for seed, score in scores.items()},
        "kinds": {kind: statistics.mean(score[kind] for score in scores.values()) for kind in kinds},
        "chance": chance(next(iter(found_metrics.values()))),
        "steps": run.steps,
        "cpu_seconds": statistics.mean(trained_cpu_seconds(paths[seed]) for seed in scores),
    }


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return accuracy of all and of each kind; of pre-training, that of hidden words and its losses."""
    if "kinds" in metrics:
        kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
        return {"accuracy": metrics["accuracy"], **kinds}
    names = {
        "accuracy": "masked_token_accuracy",
        "nats": "masked_token_loss",
        "pixels": "reconstruction_error",
    }
    return {name: metrics[key] for name, key in names.items()}


def chance(metrics: dict[str, Any]) -> dict[str, float]:
    """Return what guesses reach."""
    guesses: dict[str, float] = metrics["chance"] if "chance" in metrics else metrics["baseline"]
    return guesses


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table: accuracy, each seed's, by kind, and chance."""
    for row in rows:
        each = " ".join(f"{seed}:{value:.3f}" for seed, value in row["seeds"].items())
        print(f"{row['name']:34} {row['value']:.3f}  ({each})  {row['cpu_seconds']:.0f} s  {row['label']}")
        print(f"{'':34} {'  '.join(f'{kind} {value:.3f}' for kind, value in row['kinds'].items())}")
        print(f"{'':34} {'  '.join(f'{kind} {value:.3f}' for kind, value in row['chance'].items())}")


if __name__ == "__main__":
    main()

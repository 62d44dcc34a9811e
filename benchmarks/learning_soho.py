"""What tiny SOHO learns on emoji scenes, beside tiny EVE, and what its visual dictionary gives.

    python benchmarks/learning_soho.py --seeds 0 1 2 --out runs/learning-soho --eve runs/learning-eve
    python benchmarks/learning_soho.py --parts dictionary --seeds 0 --out runs/learning-soho

`soho`: pre-training, questions and statements about pairs, in as many steps as `learning_eve.py` gives EVE
(a step of either takes about as many CPU seconds; the table has them). `--eve` is the folder of that
benchmark's runs, whose figures are shown beside. `dictionary`: shorter pre-training with dictionaries of
several sizes and without one, then questions; without one there are hidden words and matching alone.

Every run has a number of steps and one thread. Finished runs are read, interrupted ones go on; with
`--report` nothing is trained. Figures of `docs/results.md` come from here.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import learning_eve as eve
from diptych.demo.job import is_finished, trained_cpu_seconds
from learning_eve import Run, diptych, found, scenes, show, vocabulary

PRETRAIN = "soho/pretrain/scenes_tiny"
VQA = "soho/finetune/vqa_scenes_tiny"
NLVR = "soho/finetune/nlvr_scenes_tiny"
ASKED = ("task.text_mask_ratio=0.4", "task.visual_mask_ratio=1", "task.wrong_text=0")
"""What pre-trained models are asked: 40 % of words, with a visual word of each picture hidden (EVE: about one
patch of nine)."""
SIZES = (16, 64, 256)
WITHOUT = ("system.neck=plain", "task.mvm_weight=0")


def varied(name: str, label: str, settings: Sequence[str]) -> list[Run]:
    """Return short pre-training with some settings, and questions."""
    start = f"pretrain-{name}"
    return [
        Run("dictionary", start, label, PRETRAIN, eve.SHORT_STEPS, tuple(settings)),
        Run("dictionary", f"vqa-{name}", label, VQA, eve.VQA_STEPS, (), start),
    ]


RUNS = [
    Run("soho", "pretrain", "SOHO", PRETRAIN, eve.PRETRAIN_STEPS),
    Run("soho", "vqa-none", "SOHO", VQA, eve.VQA_STEPS, (), "pretrain"),
    Run("soho", "nlvr-none", "SOHO", NLVR, eve.NLVR_STEPS, (), "vqa-none"),
    *(
        run
        for size in SIZES
        for run in varied(f"{size}", f"{size} visual words", (f"system.dictionary.codes={size}",))
    ),
    *varied("without", "no dictionary", WITHOUT),
    *varied("unasked", "64 visual words, none of them hidden", ("task.mvm_weight=0",)),
]
BESIDE = {"pretrain": "EVE", "vqa-none": "EVE", "nlvr-none": "EVE"}
"""Runs of `learning_eve.py` that are shown beside."""


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="key=value settings for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=["soho", "dictionary"], default=["soho", "dictionary"])
    parser.add_argument("--runs", nargs="+", choices=[run.name for run in RUNS], help="these runs only")
    parser.add_argument("--out", type=Path, default=Path("runs/learning-soho"))
    parser.add_argument("--eve", type=Path, help="folder of the runs of learning_eve.py")
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    chosen = [run for run in RUNS if run.part in options.parts]
    if options.runs:
        starts = {run.name: run.starts_from for run in RUNS}
        wanted = set(options.runs)
        for name in options.runs:
            while (start := starts[name]) is not None:
                wanted.add(name := start)
        chosen = [run for run in RUNS if run.name in wanted]
    if not options.report:
        data = scenes(options.out)
        settings = [f"data.text.tokenizer={vocabulary(options.out, data)}", *options.settings]
        for seed in options.seeds:
            for run in chosen:
                perform(run, options.out / f"seed{seed}", data, seed, settings)
    rows = [row for run in chosen if (row := result(run, options.out, options.seeds))]
    if options.eve:
        others = [run for run in eve.RUNS if run.name in BESIDE]
        rows += [row for run in others if (row := result(run, options.eve, options.seeds, "eve "))]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def perform(run: Run, folder: Path, data: Path, seed: int, settings: Sequence[str]) -> None:
    """Train a run and evaluate it, each unless that is done."""
    path = folder / run.name
    if not is_finished(path):
        print(f"{path}: {run.label}", flush=True)
        start = [f"init_from.path={folder / run.starts_from}"] if run.starts_from else []
        budget = [f"train.steps={run.steps}", "train.threads=1", "train.device=cpu"]
        common = [f"data.path={data}", f"seed={seed}", *budget, *start]
        diptych("train", run.recipe, *common, *run.settings, *settings, f"--run-dir={path}")
    if found(path) is None:
        asked = ASKED if run.recipe == PRETRAIN else ()
        diptych("eval", str(path), "evaluate.threads=1", "evaluate.device=cpu", *asked)


def result(run: Run, out: Path, seeds: Sequence[int], prefix: str = "") -> dict[str, Any] | None:
    """Return the figures of a run over the seeds that are there, None without any."""
    paths = {seed: out / f"seed{seed}" / run.name for seed in seeds}
    metrics = {seed: score for seed, path in paths.items() if (score := found(path)) is not None}
    if not metrics:
        return None
    scores = {seed: figures(found_metrics) for seed, found_metrics in metrics.items()}
    first = next(iter(metrics.values()))
    return {
        "name": f"{prefix}{run.part} {run.name} accuracy",
        "label": run.label,
        "value": statistics.mean(score["accuracy"] for score in scores.values()),
        "seeds": {seed: score["accuracy"] for seed, score in scores.items()},
        "kinds": {
            kind: statistics.mean(score[kind] for score in scores.values())
            for kind in next(iter(scores.values()))
        },
        "chance": first["chance"] if "chance" in first else first["baseline"],
        "steps": run.steps,
        "cpu_seconds": statistics.mean(trained_cpu_seconds(paths[seed]) for seed in scores),
    }


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return accuracy of all and of each kind; of pre-training, that of hidden words and what else it has."""
    if "kinds" in metrics:
        kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
        return {"accuracy": metrics["accuracy"], **kinds}
    names = {
        "accuracy": "masked_token_accuracy",
        "nats": "masked_token_loss",
        "visual": "masked_visual_accuracy",
        "words": "visual_words_perplexity",
    }
    return {name: metrics[key] for name, key in names.items() if key in metrics}


if __name__ == "__main__":
    main()

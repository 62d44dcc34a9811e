"""What the demo learns: EVE beside the plain baseline at equal CPU seconds, over several seeds.

    python benchmarks/learning.py --seeds 0 1 2 --out runs/learning [--json FILE] [key=value ...]

Runs `diptych demo` once a seed (finished demos are read, interrupted ones go on), and a control that never
sees a picture: the same retrieval training, of the same length, with grey squares. Prints means and each
seed's R@1. The figures of `docs/results.md` come from here.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.demo.job import evaluate_stage, evaluation_path, read_json, run_demo, stage_settings
from diptych.demo.plan import FINETUNE, Stage
from diptych.train.config import resolve_run
from diptych.train.engine import train

DIRECTIONS = {"image_to_text": "picture -> text", "text_to_image": "text -> picture"}

CONTROL = Stage("text_only", FINETUNE.recipe, "text only", FINETUNE.cpu_seconds, FINETUNE.starts_from)
"""EVE's retrieval without pictures."""


def run_control(out: Path, seed: int, overrides: Sequence[str]) -> None:
    """Train and evaluate the control of a finished demo, each unless that is done."""
    settings = stage_settings(CONTROL, out, out / "data" / "emoji", seed, ["task.blind=image", *overrides])
    train(resolve_run(CONTROL.recipe, settings), out / CONTROL.name)
    evaluate_stage(out / CONTROL.name, print)


def collect(out: Path) -> dict[str, Any]:
    """Return every ranking of a demo: (run, ranking, direction) -> recalls."""
    found = {}
    for run in ("finetune", "baseline", CONTROL.name):
        for ranking, scores in read_json(evaluation_path(out / run))["scores"].items():
            for direction in DIRECTIONS:
                found[run, ranking, direction] = scores[direction]
    return found


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="key=value settings for all stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    demos = [options.out / f"seed{seed}" for seed in options.seeds]
    for seed, demo in zip(options.seeds, demos, strict=True):
        run_demo(demo, seed=seed, overrides=options.settings, announce=print)
        run_control(demo, seed, options.settings)
    summaries = [read_json(demo / "summary.json") for demo in demos]
    results = [collect(demo) for demo in demos]
    rows = []
    head = f"{'run':9} {'ranking':12} {'direction':16} {'R@1':>6} {'(each seed)':>24}"
    print(f"\n{head} {'R@5':>6} {'R@10':>6} {'median':>7}")
    for key in results[0]:
        run, ranking, direction = key
        names = ("R@1", "R@5", "R@10", "median_rank")
        mean = {name: statistics.mean(r[key][name] for r in results) for name in names}
        each = " ".join(f"{r[key]['R@1']:.3f}" for r in results)
        print(
            f"{run:9} {ranking:12} {DIRECTIONS[direction]:16} {mean['R@1']:6.3f} {each:>24} "
            f"{mean['R@5']:6.3f} {mean['R@10']:6.3f} {mean['median_rank']:7.1f}"
        )
        rival = statistics.mean(s["baseline"][direction]["R@1"] for s in summaries)
        rows.append(
            {
                "name": f"{run} {ranking} {direction} R@1",
                "value": mean["R@1"],
                "unit": "share of queries",
                "peer": "two-tower baseline",
                "ratio": mean["R@1"] / rival,
            }
        )
    for part in summaries[0]["cpu_seconds"]:
        print(f"CPU seconds, {part}: {statistics.mean(s['cpu_seconds'][part] for s in summaries):.1f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""`diptych demo`: prepare, pre-train, fine-tune, evaluate, compare and report on the built-in pictures.

Every part leaves its result in the demo's folder and is skipped when it is there already, so that an
interrupted demo goes on where it was: preparation and training resume by themselves.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.prepare import load_card, prepare
from diptych.demo.companion import Companion
from diptych.demo.plan import BASELINE, EVALUATED, OURS, SPLIT, STAGES, Stage
from diptych.evaluation.run import evaluate
from diptych.report.run import write_run_report
from diptych.train.config import resolve_run
from diptych.train.engine import train

Announce = Callable[[str], None]
RECALLS = ("R@1", "R@5", "R@10")


def run_demo(out: Path, *, seed: int, overrides: Sequence[str], announce: Announce) -> Path:
    """Run (or go on with) the demo in `out` and return the path of its report.

    Args:
        out: folder of the demo; `data/` and one run directory a stage go there.
        seed: seed of all stages.
        overrides: `key=value` settings for all stages (shorter runs, other sizes).
        announce: receives one line a part.
    """
    data = prepare_data(out, announce)
    train_stages(out, data, seed, overrides, announce)
    for name in EVALUATED:
        evaluate_stage(out / name, announce)
    summary = summarise(out)
    write_json(out / "summary.json", summary)
    announce("Report: writing the page")
    return write_run_report(
        [out / stage.name for stage in OURS],
        out / "report.html",
        title="Diptych demo: naming emoji in a style never seen",
        baselines=[out / BASELINE.name],
        labels={stage.name: stage.label for stage in STAGES},
        parts=summary["cpu_seconds"],
    )


def prepare_data(out: Path, announce: Announce) -> Path:
    """Prepare the `emoji` card below `out` unless it is there, and return its folder."""
    data = out / "data" / "emoji"
    if not (data / "dataset.json").exists():
        announce("Data: preparing the built-in emoji pictures (four art styles)")
        started = cpu_seconds()
        prepare(load_card("emoji"), None, data, options={}, shard_size=2000, progress=None)
        write_json(out / "data" / "cpu.json", {"cpu_seconds": cpu_seconds() - started})
    return data


def train_stages(out: Path, data: Path, seed: int, overrides: Sequence[str], announce: Announce) -> None:
    """Train EVE's stages, and the baseline beside them where there is a second core.

    Every stage has a budget of CPU seconds and one thread: models this small gain little from a second one,
    and two runs side by side keep two cores busy at equal cost.
    """

    def settings(stage: Stage) -> list[str]:
        return stage_settings(stage, out, data, seed, overrides)

    companion = None
    if usable_cores() > 1 and not is_finished(out / BASELINE.name):
        log = out / f"{BASELINE.name}.log"
        announce(f"Training: {BASELINE.label} ({BASELINE.recipe}) in a second process, see {log}")
        companion = Companion(BASELINE.recipe, settings(BASELINE), out / BASELINE.name, log)
    try:
        for stage in OURS:
            announce(f"Training: {stage.label} ({stage.recipe})")
            train(resolve_run(stage.recipe, settings(stage)), out / stage.name)
        if companion is not None:
            announce(f"Training: waiting for {BASELINE.label}")
            companion.finish()
    finally:
        if companion is not None:
            companion.stop()
    if not is_finished(out / BASELINE.name):
        announce(f"Training: {BASELINE.label} ({BASELINE.recipe})")
        train(resolve_run(BASELINE.recipe, settings(BASELINE)), out / BASELINE.name)


def stage_settings(stage: Stage, out: Path, data: Path, seed: int, overrides: Sequence[str]) -> list[str]:
    """Return the settings of a stage; `overrides` win."""
    settings = [
        f"data.path={data}",
        f"seed={seed}",
        f"train.cpu_seconds={stage.cpu_seconds}",
        "train.threads=1",
        "train.device=cpu",
    ]
    if stage.starts_from:
        settings.append(f"init_from.path={out / stage.starts_from}")
    return [*settings, *overrides]


def is_finished(run: Path) -> bool:
    """Tell whether a run has been trained to its end."""
    return (run / "export" / "model.yaml").exists()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def evaluate_stage(run: Path, announce: Announce) -> None:
    """Evaluate a finished run on the unseen style unless that is done."""
    if not evaluation_path(run).exists():
        announce(f"Evaluation: {run.name} on the unseen style")
        threads = min(2, usable_cores())
        evaluate(run, [f"evaluate.split={SPLIT}", f"evaluate.threads={threads}", "evaluate.device=cpu"])


def evaluation_path(run: Path) -> Path:
    """Return where the evaluation of a demo run leaves its metrics."""
    return run / "eval" / f"retrieval_emoji_{SPLIT}" / "metrics.json"


def trained_cpu_seconds(run: Path) -> float:
    """Return the CPU seconds that a run used for training, as its last log row says."""
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(json.loads(rows[-1])["cpu_seconds"])


def summarise(out: Path) -> dict[str, Any]:
    """Return the figures of summary.json: headline recalls, the baseline's, CPU seconds by part, chance."""
    ours, rival = (read_json(evaluation_path(out / name)) for name in EVALUATED)
    prepared = out / "data" / "cpu.json"
    parts = {"prepare": read_json(prepared)["cpu_seconds"]} if prepared.exists() else {}
    parts |= {stage.name: trained_cpu_seconds(out / stage.name) for stage in STAGES}
    parts |= {f"evaluate_{name}": read_json(evaluation_path(out / name))["cpu_seconds"] for name in EVALUATED}
    return {
        **headline(ours),
        "baseline": headline(rival),
        "cpu_seconds": {name: round(value, 1) for name, value in parts.items()},
        "chance": ours["chance"]["image_to_text"]["R@1"],
        "split": SPLIT,
        "pictures": ours["images"],
        "texts": ours["texts"],
        "ranking": ours["headline"],
        "written": int(time.time()),
    }


def headline(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the recalls of both directions under the ranking that the evaluation calls its headline."""
    scores = metrics["scores"][metrics["headline"]]
    return {
        direction: {k: scores[direction][k] for k in RECALLS}
        for direction in ("image_to_text", "text_to_image")
    }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON aside and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)

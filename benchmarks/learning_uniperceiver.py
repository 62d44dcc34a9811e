"""What tiny Uni-Perceiver learns of all that is built in: nine tasks on one model, or a model for each.

    python benchmarks/learning_uniperceiver.py --seeds 0 1 2 --out runs/learning-uniperceiver [--parts ...]

`together`: one dense model on all tasks for `--seconds` CPU seconds; `experts`: the same with experts in
every other layer; `alone`: a model for each task, with a ninth of the seconds each: all nine cost what
one model on all of them does. `groups`: groups of emoji (eight words that the model on all tasks has read in
sentences and never seen beside a picture) without training, by prompts on 1 % of the labels, with all weights
on 1 % and on all labels, and on all labels from scratch; pictures of concepts that no run was trained on, and
concepts of the training in a style that none was trained on.

Every run has a budget of CPU seconds and one thread. Finished runs and evaluations are read, interrupted ones
go on; with `--report` nothing is trained. Figures of `docs/results.md` come from here.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from _learning import command, prepared, texts, write
from diptych.config.recipes import PACKAGED
from diptych.data.index import ShardDataset
from diptych.data.text import Tokenizer, clean_caption
from diptych.demo.job import is_finished, read_json, trained_cpu_seconds
from diptych.errors import DataError

ALL = "uniperceiver/pretrain/all_tiny"
SMALL = {"resolution": "48", "style": "noto", "kinds": "12"}
CARDS: dict[str, dict[str, str]] = {
    "emoji": {},
    "emoji-glue": {},
    "emoji-scenes": {"size": "10000", **SMALL},
    "emoji-clips": {"size": "3000", "objects": "2", **SMALL},
}
TRAINED_ON = {"emoji": "train_seen_concepts", "emoji-scenes": "train", "emoji-clips": "train"}
GROUPS = {
    "emotion": "smileys-emotion",
    "person": "people-body",
    "nature": "animals-nature",
    "food": "food-drink",
    "travel": "travel-places",
    "activity": "activities",
    "object": "objects",
    "symbol": "symbols",
}
UNSEEN, STYLE = "held_out_concept", "style = 'twemoji' AND NOT held_out_concept"
SOME = "key < 'scene_000003000'"
"""Three tenths of the scenes: writing captions of all takes as long as a run."""


@dataclass(frozen=True)
class Asked:
    """An evaluation of a task, and the figures of it that are shown."""

    task: str
    name: str
    card: str
    split: str
    where: str
    figures: tuple[str, ...]
    """Dotted places in metrics.json."""
    settings: tuple[str, ...] = ()


NAMED = ("scores.contrastive.image_to_text.R@1", "scores.contrastive.image_to_text.R@5")
FOUND = ("scores.contrastive.text_to_image.R@1", "scores.contrastive.text_to_image.R@5")
ACCURACY, CIDER = ("accuracy",), ("cider",)
NO_METEOR = ("task.tasks.captions.meteor=false",)
ASKED = (
    Asked("names", "unseen concepts, all styles", "emoji", "", UNSEEN, NAMED),
    Asked("names", "unseen style", "emoji", "", STYLE, NAMED),
    Asked("kinds", "unseen style", "emoji", "", STYLE, ACCURACY),
    Asked("scenes", "test", "emoji-scenes", "test", SOME, FOUND),
    Asked("captions", "test", "emoji-scenes", "test", SOME, CIDER, NO_METEOR),
    Asked("questions", "test", "emoji-scenes", "test", SOME, ACCURACY),
    Asked("clips", "test", "emoji-clips", "test", "", FOUND),
    Asked("words", "test", "emoji-scenes", "test", "", ACCURACY),
    Asked("groups", "test", "emoji-glue", "emoji-group_test", "", ACCURACY),
    Asked("same", "test", "emoji-glue", "emoji-same_test", "", ACCURACY),
)
TASKS = tuple(dict.fromkeys(asked.task for asked in ASKED))
WHERES = {"unseen concepts, all styles": UNSEEN, "unseen style": STYLE}


@dataclass(frozen=True)
class Run:
    """A training run."""

    part: str
    name: str
    label: str
    recipe: str
    seconds: float
    tasks: tuple[str, ...] = TASKS
    settings: tuple[str, ...] = ()
    start: str = ""


def runs(seconds: float, out: Path) -> list[Run]:
    """Return all runs, each behind the one it starts from."""
    found = [Run("together", "all", "one model on all tasks", ALL, seconds)]
    experts = ("system.experts.layers=odd", "system.experts.experts=4")
    found += [Run("experts", "all-experts", "the same with experts", ALL, seconds, TASKS, experts)]
    for task in TASKS:
        own = str(out / "recipes" / f"{task}.yaml")
        found.append(Run("alone", f"only-{task}", "a model of its own", own, seconds / len(TASKS), (task,)))
    fine, prompt = "uniperceiver/finetune/groups_emoji_tiny", "uniperceiver/prompt/groups_emoji_tiny"
    few = ("data.share=0.01", "data.share_by=category")
    short = seconds / 32

    def groups(name: str, label: str, recipe: str, settings: Sequence[str] = (), start: str = "all") -> Run:
        return Run("groups", name, label, recipe, short, (), tuple(settings), start)

    return [
        *found,
        groups("prompt-1", "prompts, 1 % of the labels", prompt),
        groups("tuned-1", "all weights, 1 % of the labels", fine, few),
        groups("tuned", "all weights, all labels", fine),
        groups("scratch", "all labels, from scratch", fine, (), ""),
    ]


def write_recipes(out: Path) -> None:
    """Write the recipe of each task alone: that of all tasks with one source."""
    whole = yaml.safe_load((PACKAGED / f"{ALL}.yaml").read_text(encoding="utf-8"))
    folder = out / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        data = whole["data"]
        own = {
            **whole,
            "name": f"uniperceiver-{task}",
            "data": {**data, "sources": {task: data["sources"][task]}},
            "task": {"name": "multi", "tasks": {task: whole["task"]["tasks"][task]}},
        }
        text = yaml.safe_dump(own, sort_keys=False)
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


def vocabulary(out: Path, data: dict[str, Path]) -> Path:
    """Train a tokenizer on all texts that are trained on, unless it is there."""
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        Tokenizer.train(_texts(data), 700, "uniperceiver").save(folder)
    return folder


def _texts(data: dict[str, Path]) -> Iterator[str]:
    for card, folder in data.items():
        split = TRAINED_ON.get(card)
        selection = ShardDataset.open(str(folder)).select(split, None if split else "split = 'train'")
        for text in texts(selection):
            try:
                yield clean_caption(text)
            except DataError:
                continue  # nothing is left of it


def perform(run: Run, folder: Path, data: dict[str, Path], seed: int, settings: Sequence[str]) -> None:
    """Train a run, unless that is done."""
    path = folder / run.name
    if is_finished(path):
        return
    print(f"{path}: {run.label}", flush=True)
    out = folder.parent
    whole = yaml.safe_load((PACKAGED / f"{ALL}.yaml").read_text(encoding="utf-8"))["data"]["sources"]
    places = [f"data.sources.{t}.path={data[Path(whole[t]['path']).name]}" for t in run.tasks]
    if not run.tasks:
        places = [f"data.path={data['emoji']}", f"task.target={out / 'groups.txt'}"]
        places.append(f"init_from.path={folder / run.start if run.start else ''}")
    budget = [f"train.cpu_seconds={run.seconds}", "train.threads=1", "train.device=cpu", f"seed={seed}"]
    tokens = f"data.text.tokenizer={out / 'tokenizer'}"
    command("train", run.recipe, *places, *budget, tokens, *run.settings, *settings, f"--run-dir={path}")


def evaluations(run: Run, out: Path, data: dict[str, Path]) -> list[tuple[str, list[str], tuple[str, ...]]]:
    """Return name, settings and figures of what a run is asked."""
    found = []
    for asked in ASKED:
        if asked.task in run.tasks:
            about = [f"task.evaluate={asked.task}", *asked.settings, *_data(asked, data)]
            found.append((f"{asked.task}: {asked.name}", about, asked.figures))
    if run.part in ("together", "experts", "groups"):
        task = ["task.name=classification", "task.label=category", f"task.target={out / 'groups.txt'}"]
        own = task if run.tasks else []
        for name, where in WHERES.items():
            about = [*own, f"evaluate.path={data['emoji']}", "evaluate.split=null", f"evaluate.where={where}"]
            found.append((f"groups of pictures: {name}", about, ACCURACY))
    return found


def _data(asked: Asked, data: dict[str, Path]) -> list[str]:
    split = asked.split or "null"
    return [
        f"evaluate.path={data[asked.card]}",
        f"evaluate.split={split}",
        *([f"evaluate.where={asked.where}"] if asked.where else []),
    ]


def ask(run: Run, folder: Path, data: dict[str, Path]) -> None:
    """Evaluate a run, each evaluation unless its figures are there."""
    path = folder / run.name
    kept = path / "figures.json"
    figures = read_json(kept) if kept.exists() else {}
    for name, about, places in evaluations(run, folder.parent, data):
        if any(known.startswith(name) for known in figures):
            continue
        before = set(path.glob("eval/*/metrics.json"))
        stamps = {file: file.stat().st_mtime_ns for file in before}
        command("eval", str(path), "evaluate.threads=1", "evaluate.device=cpu", *about)
        after = path.glob("eval/*/metrics.json")
        new = [file for file in after if stamps.get(file) != file.stat().st_mtime_ns]
        metrics = read_json(new[0])
        figures |= {f"{name}, {place.rpartition('.')[2]}": _figure(metrics, place) for place in places}
        kept.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figure(metrics: dict[str, Any], place: str) -> float:
    value: Any = metrics
    for name in place.split("."):
        value = value[name]
    return float(value)


def rows(chosen: Sequence[Run], out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for every figure of every run, over the seeds that are there."""
    found = []
    for run in chosen:
        paths = {seed: out / f"seed{seed}" / run.name for seed in seeds}
        figures = {
            seed: read_json(path / "figures.json")
            for seed, path in paths.items()
            if (path / "figures.json").exists()
        }
        for name in dict.fromkeys(name for own in figures.values() for name in own):
            values = {seed: own[name] for seed, own in figures.items() if name in own}
            found.append(
                {
                    "name": f"uniperceiver {run.part} {run.name} {name}",
                    "label": run.label,
                    "asked": name,
                    "run": run.name,
                    "value": statistics.mean(values.values()),
                    "seeds": values,
                    "cpu_seconds": statistics.mean(trained_cpu_seconds(paths[seed]) for seed in values),
                    "steps": statistics.mean(_steps(paths[seed]) for seed in values),
                }
            )
    return found


def _steps(path: Path) -> int:
    *_, last = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(last)["step"])


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print the table, what is asked by what is asked."""
    for asked in dict.fromkeys(row["asked"] for row in found):
        print(asked)
        for row in (row for row in found if row["asked"] == asked):
            each = " ".join(f"{seed}:{value:.3f}" for seed, value in row["seeds"].items())
            spent = f"{row['cpu_seconds']:.0f} s, {row['steps']:.0f} steps"
            print(f"    {row['value']:.3f}  ({each})  {spent:18} {row['run']}: {row['label']}")


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="key=value settings for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parts = ["together", "experts", "alone", "groups"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seconds", type=float, default=480, help="CPU seconds of the model on all tasks")
    parser.add_argument("--out", type=Path, default=Path("runs/learning-uniperceiver"))
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out = options.out.resolve()
    chosen = [run for run in runs(options.seconds, out) if run.part in options.parts]
    if "groups" in options.parts and "together" not in options.parts:
        chosen = [run for run in runs(options.seconds, out) if run.part == "together"] + chosen
    if not options.report:
        data = {card: prepared(out, card, of_card) for card, of_card in CARDS.items()}
        write_recipes(out)
        vocabulary(out, data)
        lines = (f"{word}\t{theirs}" for word, theirs in GROUPS.items())
        (out / "groups.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for seed in options.seeds:
            for run in chosen:
                perform(run, out / f"seed{seed}", data, seed, options.settings)
                ask(run, out / f"seed{seed}", data)
    found = rows(chosen, out, options.seeds)
    show(found)
    write(found, options.json)


if __name__ == "__main__":
    main()

"""Running a trained task over a split of a prepared dataset, and writing down what came out."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.blocks.collective import ALONE, World
from diptych.config.layers import resolve
from diptych.config.recipes import packaged_recipes
from diptych.data.batch import Batch
from diptych.data.config import EVALUATED_AS
from diptych.data.examples import Examples, expand
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import evaluation_batches
from diptych.errors import ConfigError, DataError, RunError
from diptych.resolve import look_up
from diptych.systems.task import EvalData, Evaluation, Task
from diptych.tasks import TASKS
from diptych.train.build import evaluated_data, facts_of, load_task, wordless
from diptych.train.config import RunConfig
from diptych.train.export import FACTS, find_weights, read_facts
from diptych.train.files import out_of_room, sync_folder, sync_tree
from diptych.train.precision import autocast, choose_device, computing
from diptych.train.ranks import joined, main_first, on_main, rank_device

Progress = Callable[[str, int, int], None]

FIXED = ("system", "optim", "schedule", "train", "init_from", "name", "seed")
"""Settings that are decided once a model is trained: an evaluation cannot change them."""


def evaluate(path: str | Path, overrides: Sequence[str] = (), progress: Progress | None = None) -> Path:
    """Evaluate a run or export and return the folder `eval/<task>_<dataset>_<split>` with the results.

    The folder is written aside and renamed, so it is there completely or not at all; an earlier evaluation
    of the same split is replaced. It lies in the run directory that `path` is in, else in the export.

    Under `torchrun` every rank calls it: each reads a part of the split, and rank 0 writes.

    Args:
        path: a run directory, an export or a checkpoint; or a recipe, whose `init_from.path` is one: its
            sections `data`, `task` and `evaluate` then count, not those of the model.
        overrides: settings by dotted key (`evaluate.split=test`, `task.k_test=32`), not those of training.
        progress: called as `progress(stage, done, total)`.

    Raises:
        ConfigError: a setting that is wrong or cannot change after training; no dataset is named.
        CheckpointError: no weights there, or damaged ones.
        DataError: the dataset, the split or the pictures cannot be used; an empty selection.
        RunError: the model gives numbers that are not finite; the results cannot be written.
    """
    weights, config, task = _opened(path, overrides)
    config = config.with_(data=evaluated_data(config))
    settings = config.evaluate
    device = rank_device(choose_device(settings.device, "evaluate.device"))
    # How the model was trained says nothing about the ranks that evaluate it.
    with joined(config.train.with_(parallel="auto"), device) as world:
        # An index that is missing is written by one rank.
        data = main_first(world, lambda: open_data(config, task, world))
        with computing(device, settings.threads), autocast(device, settings.precision):
            task = with_settings(task, config).to(device).eval()
            result = task.evaluate(data, (progress if world.is_main else None) or _quiet)
        metrics = {**result.metrics, "step": step_of(weights), "where": settings.where}
        name = folder_name(config.task.evaluated, data.dataset, settings.split, settings.where)
        folder = home_of(weights) / "eval" / name
        result = replace(result, metrics=metrics)
        on_main(world, lambda: write_evaluation(folder, result))
    return folder


def _opened(path: str | Path, overrides: Sequence[str]) -> tuple[Path, RunConfig, Task]:
    """Return where the weights are, the settings of the evaluation, and the task as it was trained."""
    if not _is_recipe(path):
        trained, task = load_task(path)
        return find_weights(path), apply_overrides(trained, overrides), task
    asked = resolve(RunConfig, str(path), overrides).config
    if not asked.init_from.path:
        raise ConfigError(
            f"{path}: a recipe says what to do, not with which weights; give init_from.path=MODEL"
        )
    trained, task = load_task(asked.init_from.path)
    kept = {"data": asked.data, "task": asked.task, "evaluate": asked.evaluate}
    return find_weights(asked.init_from.path), trained.with_(**kept), task


def _is_recipe(path: str | Path) -> bool:
    """Tell recipes (YAML files and packaged ones) from folders with weights."""
    place = Path(path)
    return place.suffix in (".yaml", ".yml") or (not place.is_dir() and str(path) in packaged_recipes())


def apply_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration with the overrides of an evaluation.

    Raises:
        ConfigError: a wrong key or value, or a key that is fixed once a model is trained.
    """
    for argument in overrides:
        if argument.split("=")[0].split(".")[0] in FIXED:
            raise ConfigError(
                f"{argument}: decided when the model was trained; an evaluation can set "
                "evaluate.*, data.* and task.*"
            )
    values = config.model_dump(mode="json")
    named = [argument.partition("=")[2] for argument in overrides if argument.startswith("task.name=")]
    if named and named[-1] != config.task.name:
        # Another task has settings of its own.
        values["task"] = {"name": named[-1]}
    return resolve(RunConfig, values, overrides).config


def with_settings(task: Task, config: RunConfig) -> Task:
    """Return the task with the (evaluation) settings of `config.task` and unchanged weights.

    It may be another task than the one that was trained, where that has all the weights it needs.

    Raises:
        ConfigError: a setting that would need other weights.
    """
    if config.task == task.config:
        return task
    kind: type[Task] = look_up(TASKS, config.task.name, "task")
    changed = kind.create(task.model, config.task, task.tokenizer, task.assets())
    before, after = task.state_dict(), changed.state_dict()
    unused = set() if config.task.name != task.config.name else before.keys() - after.keys()
    lacking = {n for n, tensor in after.items() if n not in before or before[n].shape != tensor.shape}
    if differing := sorted(unused | lacking):
        raise ConfigError(
            f"task.*: these settings need other weights than the trained ones ({', '.join(differing[:4])}); "
            "an evaluation can only change settings of the evaluation"
        )
    changed.load_state_dict({name: before[name] for name in after})
    return changed


def open_data(config: RunConfig, task: Task, world: World = ALONE) -> EvalData:
    """Open the selection that `evaluate.*` names, and the part of it that this rank reads.

    Raises:
        ConfigError: neither `evaluate.path` nor `data.path` is set.
        DataError: no dataset there, an unknown split or column, or nothing selected.
    """
    settings, kind = config.evaluate, EVALUATED_AS.get(config.data.examples, config.data.examples)
    path = settings.path or config.data.path
    if not path:
        raise ConfigError("evaluate.path: no dataset to evaluate on; set evaluate.path to a prepared dataset")
    dataset = ShardDataset.open(path, config.data.remote)
    selection = dataset.select(settings.split, settings.where)
    if not len(selection):
        narrowed = f" with where = {settings.where!r}" if settings.where else ""
        raise DataError(
            f"{path}: nothing to evaluate on, split '{settings.split or 'all'}'{narrowed} selects 0 of "
            f"{dataset.size} samples; set evaluate.split or evaluate.where"
        )

    def opened(rows: Selection, **more: Any) -> EvalData:
        return EvalData(
            dataset=dataset.name,
            split=settings.split or "all",
            size=len(rows),
            batches=lambda: _batches(rows, config, task, part=world.size > 1),
            max_tokens=config.data.text.max_tokens,
            frames=config.data.video.frames,
            **more,
        )

    if world.size == 1:
        return opened(expand(selection, kind))
    part = Selection(dataset, selection.rows_of(world.slice_of(len(selection))))
    # A rank may have no question, as long as there are some.
    own = part if kind == "samples" else Examples(part, kind)
    return opened(expand(selection, kind), world=world, part=opened(own))


def _batches(selection: Selection, config: RunConfig, task: Task, *, part: bool) -> Iterator[Batch]:
    size, facts = config.evaluate.batch_size, facts_of(config.task)
    label = getattr(config.task, "evaluate", "") or next(iter(config.task.entries()))
    tokenizer = None if label in wordless(config.task) else task.tokenizer
    return evaluation_batches(selection, config.data, size, tokenizer, part=part, facts=facts)


def step_of(weights: Path) -> int:
    """Return how many steps the weights of an export or checkpoint were trained."""
    if (weights / FACTS).exists():
        return int(read_facts(weights).get("step", 0))
    return int(weights.name.rpartition("_")[2])


def home_of(weights: Path) -> Path:
    """Return the folder that evaluations of these weights go to: the run directory, else the export."""
    for folder in (weights.parent, weights.parent.parent):
        part = weights.relative_to(folder).parts[0] if weights != folder else ""
        if part in ("export", "checkpoints") and (folder / "config.yaml").exists():
            return folder
    return weights


def folder_name(task: str, dataset: str, split: str | None, where: str | None) -> str:
    """Return `<task>_<dataset>_<split>`; a further condition adds a hash of itself."""
    suffix = f"-{hashlib.blake2b(where.encode(), digest_size=4).hexdigest()}" if where else ""
    return re.sub(r"[^\w.-]", "-", f"{task}_{dataset}_{split or 'all'}") + suffix


def write_evaluation(folder: Path, result: Evaluation) -> None:
    """Write metrics.json, predictions.jsonl and further files aside, then rename the folder into place.

    Raises:
        RunError: no room, or no permission to write.
    """
    aside, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    try:
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, content in {"metrics": result.metrics, **result.extra}.items():
            _write(aside / f"{name}.json", [json.dumps(content, indent=2, ensure_ascii=False)])
        rows = (json.dumps(row, ensure_ascii=False) for row in result.predictions)
        _write(aside / "predictions.jsonl", rows)
        for file, text in result.texts.items():
            (aside / file).write_text(text, encoding="utf-8")
        sync_tree(aside)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        room = "; free some space" if out_of_room(error) else ""
        raise RunError(f"{folder}: cannot write the evaluation ({error.strerror or error}){room}") from error
    finally:
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_metrics(folder: Path) -> Mapping[str, Any]:
    """Return the metrics.json of an evaluation folder."""
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def _quiet(stage: str, done: int, total: int) -> None:
    """Report no progress."""

"""From a configuration to the objects of a run; sections that do not fit are found before data is read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diptych.blocks.collective import World
from diptych.config.layers import resolve
from diptych.data.config import EVALUATED_AS, DataConfig, TextConfig
from diptych.data.index import Selection
from diptych.data.sources import source_configs, source_data
from diptych.data.text import Tokenizer, clean
from diptych.errors import CheckpointError, ConfigError, DataError, UsageError
from diptych.resolve import look_up, nearest
from diptych.systems import SYSTEMS
from diptych.systems.protocol import System, SystemConfig, VisionLanguageModel
from diptych.systems.task import Task, TaskConfig
from diptych.tasks import TASKS
from diptych.train.config import RunConfig
from diptych.train.export import FACTS, Weights, find_weights, read_facts, read_weights
from diptych.train.undrawn import Undrawn

TOKENIZER_TEXTS = 200_000
"""Samples whose captions train a tokenizer; larger selections are thinned out evenly."""


def check_config(config: RunConfig) -> None:
    """Check that system, task and data fit each other, on a model without memory.

    Raises:
        ConfigError: a task that the system does not support or whose needs it lacks; a size or length that
        data and
            system disagree about. The message names both keys.
    """
    system: System = look_up(SYSTEMS, config.system.name, "system")
    task: type[Task] = look_up(TASKS, config.task.name, "task")
    for label, entry in config.task.entries().items():
        if entry.name not in system.supports:
            key = f"task.tasks.{label}.name" if label else "task.name"
            raise ConfigError(
                f"{key} = {entry.name} is nothing that system.name = {config.system.name} can do "
                f"(it does: {', '.join(sorted(system.supports))})"
            )
    with torch.device("meta"):
        model = system.build(config.system)
    lacking = task.needs(config.task) - model.capabilities
    if lacking:
        raise ConfigError(
            f"task.name = {config.task.name} needs {', '.join(sorted(lacking))}, which system.name = "
            f"{config.system.name} does not offer (it offers: {', '.join(sorted(model.capabilities))})"
        )
    if config.train.export == "changes" and not config.init_from.path:
        raise ConfigError(
            "train.export = changes: there is nothing to differ from; set init_from.path, or "
            "train.export=whole"
        )
    _check_parallel(config, model)
    _check_examples(config)
    published_names(config, ())
    for part in _drawn_apart(config):
        needed = set().union(
            *(look_up(TASKS, entry.name, "task").batch_fields for entry in part.task.entries().values())
        )
        if "images" in needed:
            _check_image(part, model)
        if "text_ids" in needed:
            _check_text(part, model)


def published_names(config: RunConfig, names: Iterable[str]) -> dict[str, str] | None:
    """Return parameter name -> published name if `optim.decay` goes by them, else None.

    Raises:
        ConfigError: the system was never published.
    """
    if config.optim.decay != "published":
        return None
    system: System = look_up(SYSTEMS, config.system.name, "system")
    try:
        return system.published_names(names)
    except UsageError as error:
        raise ConfigError(f"optim.decay = published: {error}; expected optim.decay = ours") from error


def build_model(config: SystemConfig) -> VisionLanguageModel:
    """Build a system's model with fresh weights of torch's global generator."""
    system: System = look_up(SYSTEMS, config.name, "system")
    return system.build(config)


def build_task(config: RunConfig, tokenizer: Tokenizer, assets: Mapping[str, Any] | None = None) -> Task:
    """Build model and heads with fresh weights that depend on `config.seed` only.

    Args:
        config: of the run.
        tokenizer: its tokenizer.
        assets: what the task knows of its data (`Task.find_assets`).

    Raises:
        ConfigError: the tokenizer has more tokens than the system's word table.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.system)
    if tokenizer.vocab_size > model.text_spec.vocab_size:
        raise ConfigError(
            f"the tokenizer (data.text.tokenizer = {config.data.text.tokenizer}) has "
            f"{tokenizer.vocab_size} tokens, "
            f"but {_key(config.system, 'vocab_size')} = {model.text_spec.vocab_size}; raise the latter "
            f"to at least "
            f"{tokenizer.vocab_size}"
        )
    kind: type[Task] = look_up(TASKS, config.task.name, "task")
    return kind.create(model, config.task, tokenizer, assets or {})


def load_task(path: str | Path) -> tuple[RunConfig, Task]:
    """Load a trained task in eval mode from an export, or a run directory (export or newest checkpoint).

    Raises:
        CheckpointError: no weights there, a damaged file, or weights that do not fit their own configuration.
    """
    weights = read_weights(find_weights(path))
    config = _config_of(weights.folder)
    if weights.tokenizer is None:
        raise CheckpointError(
            f"{weights.folder}: the tokenizer is missing (looked for tokenizer/tokenizer.json)"
        )
    with Undrawn():  # all are filled from the file, or this fails
        task = build_task(config, Tokenizer.from_file(weights.tokenizer), weights.assets)
    found = task.load_state_dict(weights.state, strict=False)
    if found.missing_keys or found.unexpected_keys:
        raise CheckpointError(
            f"{weights.folder}: the weights do not fit their configuration (missing: {found.missing_keys}; "
            f"unexpected: {found.unexpected_keys})"
        )
    return config, task.eval()


def facts_of(config: TaskConfig) -> tuple[str, ...]:
    """Return the facts of samples that the task, or those it consists of, want of batches, each once."""
    tasks: list[tuple[type[Task], TaskConfig]] = [
        (look_up(TASKS, entry.name, "task"), entry) for entry in config.entries().values()
    ]
    return tuple(dict.fromkeys(name for task, entry in tasks for name in task.wanted_facts(entry)))


def wordless(config: TaskConfig) -> frozenset[str]:
    """Return the labels of those tasks of a configuration whose samples need no caption."""
    return frozenset(
        label
        for label, entry in config.entries().items()
        if "text_ids" not in look_up(TASKS, entry.name, "task").batch_fields
    )


def make_tokenizer(
    config: RunConfig, selections: Sequence[Selection], init: Weights | None
) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a new run and a sentence about where it comes from.

    Raises:
        DataError: the file is missing or no tokenizer; or there are no captions to train one on.
    """
    text = config.data.text
    own = config.system.own_tokenizer() if text.tokenizer == "auto" else None
    if own is not None:
        return own, f"tokenizer: {own.vocab_size} tokens, that of system.name = {config.system.name}"
    if text.tokenizer != "auto":
        return Tokenizer.from_file(text.tokenizer), f"tokenizer: {text.tokenizer}"
    if init is not None and init.tokenizer is not None:
        return Tokenizer.from_file(init.tokenizer), f"tokenizer: {init.tokenizer}"
    tokenizer = Tokenizer.train(_captions(selections, text), text.vocab_size, text.specials)
    return tokenizer, f"tokenizer: {tokenizer.vocab_size} tokens, trained on the captions of the selection"


def _captions(selections: Sequence[Selection], config: TextConfig) -> Iterator[str]:
    stride = max(1, -(-sum(map(len, selections)) // TOKENIZER_TEXTS))
    for selection, i in ((s, i) for s in selections for i in range(0, len(s), stride)):
        try:
            captions = selection.read(i).captions
        except DataError:
            continue  # the loader meets it again and counts it by cause
        for caption in captions:
            try:
                yield clean(caption, config.clean, config.max_words)
            except DataError:
                continue  # nothing is left of it


def _config_of(folder: Path) -> RunConfig:
    """Return the configuration of an export or checkpoint."""
    if not (folder / FACTS).exists():
        return resolve(RunConfig, folder.parents[1] / "config.yaml").config
    facts = read_facts(folder)
    missing = [key for key in ("system", "task") if not facts.get(key)]
    if missing:
        raise CheckpointError(
            f"{folder / FACTS}: holds no {' and no '.join(missing)} section, so it cannot be used as it "
            f"is; train a "
            f"task from it with init_from.path={folder}"
        )
    known = {key: value for key, value in facts.items() if key in RunConfig.model_fields}
    return resolve(RunConfig, known).config


def evaluated_data(config: RunConfig) -> DataConfig:
    """Return the data settings of an evaluation: where sources have their own, those of its task's source."""
    data = config.data
    if data.mixture.draw == "samples":
        return data
    label = config.task.evaluated
    names = [name for name, source in source_configs(data).items() if source.task == label]
    return source_data(data, names[0]) if names else data


def _drawn_apart(config: RunConfig) -> list[RunConfig]:
    """Return the run as the sources see it, one by one, where batches are drawn from one each; else itself.

    Raises:
        ConfigError: a source is labelled with no task.
    """
    if config.data.mixture.draw == "samples" or not config.data.sources:
        return [config]
    entries = config.task.entries()
    found = []
    for name, source in source_configs(config.data).items():
        label = source.task if len(entries) > 1 or "" not in entries else ""
        if label not in entries:
            raise ConfigError(
                f"data.sources.{name}.task = {label}{nearest(label, entries)}: no task is called that "
                f"(task.tasks has: {', '.join(entries)})"
            )
        found.append(config.with_(data=source_data(config.data, name), task=entries[label]))
    return found


def _check_parallel(config: RunConfig, model: VisionLanguageModel) -> None:
    """Check that ranks do the same wherever they have to meet inside the model."""
    train, parts, draw = config.train, config.data.mixture.parts, config.data.mixture.draw
    if draw == "rank_batches":
        _check_alone(config, model)
    if train.task_gradients and train.parallel == "fsdp":
        raise ConfigError(
            f"train.task_gradients = {train.task_gradients} needs whole gradients on every rank, which "
            "train.parallel = fsdp does not keep; set it to 0, or train.parallel=ddp"
        )
    if len(config.task.entries()) == 1 or parts == 1 or draw == "batches":
        return
    wanting = {
        "train.parallel = fsdp": train.parallel == "fsdp",
        f"train.expert_parallel = {train.expert_parallel}": train.expert_parallel > 1,
    }
    for key in (key for key, wants in wanting.items() if wants):
        raise ConfigError(
            f"{key} needs all ranks to train the same task at a time ({', '.join(config.task.entries())} are "
            f"given), but data.mixture.parts = {parts}; set data.mixture.parts=1, or train.parallel=ddp and "
            f"train.expert_parallel=1"
        )


def _check_alone(config: RunConfig, model: VisionLanguageModel) -> None:
    """Check that nothing in the model needs the other ranks, where each has a batch of its own."""
    train = config.train
    for key, wants in (
        ("train.parallel = fsdp", train.parallel == "fsdp"),
        (f"train.expert_parallel = {train.expert_parallel}", train.expert_parallel > 1),
    ):
        if wants:
            raise ConfigError(
                f"{key} needs all ranks to work on the same batch, and data.mixture.draw = rank_batches "
                "gives each its own; set data.mixture.draw=batches, or train.parallel=ddp and "
                "train.expert_parallel=1"
            )
    for name, part in model.named_modules():
        if isinstance(getattr(part, "world", None), World) and any(True for _ in part.buffers()):
            raise ConfigError(
                f"data.mixture.draw = rank_batches: {config.system.name} keeps statistics of all ranks in "
                f"{name}, which batches of single ranks would pull apart; set data.mixture.draw=batches"
            )


def _check_examples(config: RunConfig) -> None:
    """Check that the rows of the data are what each task is about."""
    of_label = config.task.entries()
    sources = source_configs(config.data)
    for name, source in sources.items():
        labels = (
            list(of_label) if len(of_label) == 1 else [label for label in of_label if label == source.task]
        )
        for entry in (of_label[label] for label in labels):
            needed = look_up(TASKS, entry.name, "task").examples
            found = source.examples or config.data.examples
            if needed not in ("any", EVALUATED_AS.get(found, found)):
                key = f"data.sources.{name}.examples" if config.data.sources else "data.examples"
                raise ConfigError(
                    f"{key} = {found}, but task {entry.name} is about {needed}; set {key}={needed}"
                )


def _check_image(config: RunConfig, model: VisionLanguageModel) -> None:
    ours, theirs = config.data.image.size, model.image_spec.size
    frames, most = config.data.video.frames, model.image_spec.frames
    if frames > most:
        reads = f"clips of at most {most} frames" if most else "pictures alone"
        raise ConfigError(
            f"data.video.frames = {frames}, but {config.system.name} reads {reads}; set "
            f"data.video.frames={most}"
        )
    if model.image_spec.sizes == "any":
        least = 2 * model.image_spec.multiple
        if ours < least:
            raise ConfigError(f"data.image.size = {ours}: {config.system.name} needs at least {least} pixels")
        return
    if config.data.image.resize == "fit":
        raise ConfigError(
            f"data.image.resize = fit gives pictures of any shape, but {config.system.name} reads squares of "
            f"{theirs} pixels; set it to squash, crop, random_crop, zoom_crop or pad"
        )
    if ours != theirs:
        raise ConfigError(
            f"data.image.size = {ours}, but {_key(config.system, 'image_size')} = {theirs}; set both to "
            f"the same side"
        )


def _check_text(config: RunConfig, model: VisionLanguageModel) -> None:
    several = config.data.text.per_picture
    for label, entry in config.task.entries().items():
        if several > 1 and not look_up(TASKS, entry.name, "task").several_texts:
            key = f"task.tasks.{label}.name" if label else "task.name"
            raise ConfigError(
                f"data.text.per_picture = {several}, but {key} = {entry.name} reads one text a sample; "
                "set the former to 1"
            )
    ours, theirs = config.data.text.max_tokens, model.text_spec.max_tokens
    if ours > theirs:
        raise ConfigError(
            f"data.text.max_tokens = {ours} is more than the system reads: "
            f"{_key(config.system, 'max_text_tokens')} = {theirs}; lower the former or raise the latter"
        )


def _key(config: Any, field: str) -> str:
    """Return the dotted key of a system's setting, or a description where it is called otherwise."""
    if field in type(config).model_fields:
        return f"system.{field}"
    return f"system.name = {config.name}, {field.replace('_', ' ')}"

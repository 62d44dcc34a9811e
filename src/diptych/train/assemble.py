"""The objects of a run: fresh, from another model's weights, or from its own newest checkpoint."""

from dataclasses import dataclass

import torch

from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError, DataError
from diptych.systems.task import Task
from diptych.train.build import build_task, make_tokenizer
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.clock import CpuClock
from diptych.train.config import RunConfig
from diptych.train.export import Weights, find_weights, read_weights
from diptych.train.init import fill
from diptych.train.log import RunLog
from diptych.train.optim import Average, build_optimizer, restore_optimizer
from diptych.train.rundir import RunDirectory


@dataclass(frozen=True)
class Parts:
    """What the loop moves on."""

    task: Task
    tokenizer: Tokenizer
    optimizer: torch.optim.AdamW
    average: Average | None
    loader: Loader
    clock: CpuClock
    fresh: list[str]
    """Parameters that `init_from` did not fill; empty without `init_from`."""
    samples: int
    step: int
    """Steps that are done."""


def assemble(run: RunDirectory, checkpoints: Checkpoints, log: RunLog, device: torch.device) -> Parts:
    """Build the parts of a run, and put back the newest checkpoint if there is one.

    Raises:
        ConfigError: no dataset is named, or the tokenizer does not fit the system.
        DataError: the dataset cannot be read, or nothing is selected.
        CheckpointError: a damaged checkpoint, or weights of `init_from` that are missing or do not fit.
    """
    config = run.config
    for note in checkpoints.tidy():
        log.say(note)
    newest = checkpoints.newest()
    snapshot = checkpoints.load(newest) if newest else None
    clock = CpuClock(snapshot.trainer["cpu_seconds"] if snapshot else 0.0)
    selection = select(config)
    init = _initial_weights(config) if snapshot is None else None
    folder = run.path / "tokenizer"
    if snapshot is None:
        tokenizer, origin = make_tokenizer(config, selection, init)
        tokenizer.save(folder)
        log.say(origin)
    else:
        tokenizer = Tokenizer.from_file(folder)
    task = build_task(config, tokenizer)
    fresh = _weights(task, config, init, snapshot, log)
    task.to(device).train()
    optimizer = build_optimizer(task, config.optim, fresh)
    average = Average(task, config.train.ema) if config.train.ema else None
    loader = Loader(selection, config.data, tokenizer, seed=config.seed)
    if snapshot is not None:
        restore_optimizer(optimizer, snapshot.part("optim"))
        loader.load_state_dict(snapshot.loader)
        if average is not None:
            average.restore(snapshot.part("ema"))
    step = snapshot.step if snapshot else 0
    return Parts(task, tokenizer, optimizer, average, loader, clock, fresh, len(selection), step)


def select(config: RunConfig) -> Selection:
    """Return the samples to train on.

    Raises:
        ConfigError: no dataset is named.
        DataError: it cannot be read, or nothing is selected.
    """
    data = config.data
    if not data.path:
        raise ConfigError(
            "data.path: no dataset is given; set it to a folder that `diptych data prepare` made"
        )
    selection = ShardDataset.open(data.path).select(data.split, data.where)
    if len(selection) == 0:
        raise DataError(
            f"{data.path}: data.split = {data.split} and data.where = {data.where} select no samples; "
            f"`diptych data query {data.path}` shows what there is"
        )
    return selection


def _weights(
    task: Task, config: RunConfig, init: Weights | None, snapshot: Snapshot | None, log: RunLog
) -> list[str]:
    """Fill a fresh task from a checkpoint or other weights; return the names `init_from` did not fill."""
    if snapshot is not None:
        task.load_state_dict(snapshot.part("task"))
        return list(snapshot.trainer["fresh"])
    if init is None:
        return []
    filled = fill(task, init, config.init_from)
    for sentence in filled.report:
        log.say(sentence)
    return filled.fresh


def _initial_weights(config: RunConfig) -> Weights | None:
    if not config.init_from.path:
        return None
    return read_weights(find_weights(config.init_from.path, "init_from.path"))

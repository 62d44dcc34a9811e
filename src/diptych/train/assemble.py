"""The objects of a run: fresh, from another model's weights, or from its own newest checkpoint."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.blocks.collective import World
from diptych.data.draw_loader import DrawLoader, make_loader
from diptych.data.loader import Loader
from diptych.data.selection import Selection
from diptych.data.sources import open_sources, source_labels
from diptych.data.text import Tokenizer
from diptych.resolve import look_up
from diptych.systems.task import Task
from diptych.tasks import TASKS
from diptych.train.build import build_task, facts_of, make_tokenizer, published_names, wordless
from diptych.train.checkpoint import Checkpoints
from diptych.train.clock import CpuClock
from diptych.train.config import RunConfig
from diptych.train.export import (
    ASSETS,
    Weights,
    find_weights,
    read_assets,
    read_weights,
    write_assets,
)
from diptych.train.init import fill
from diptych.train.log import RunLog
from diptych.train.optim import (
    Average,
    build_optimizer,
    drop_unused_slots,
    freeze,
    make_slots,
    optimizer_tensors,
)
from diptych.train.parallel import Parallel
from diptych.train.ranks import main_first, on_main
from diptych.train.rundir import RunDirectory


@dataclass(frozen=True)
class Parts:
    """What the loop moves on."""

    task: Task
    parallel: Parallel
    """The task as all ranks train it together."""
    tokenizer: Tokenizer
    optimizer: torch.optim.Optimizer
    average: Average | None
    loader: Loader | DrawLoader
    clock: CpuClock
    fresh: list[str]
    """Parameters that `init_from` did not fill; empty without `init_from`."""
    samples: int
    step: int
    """Steps that are done."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds, sharing memory; all ranks name the same."""
        return _tensors(self.parallel, self.optimizer, self.average)


def assemble(
    run: RunDirectory, checkpoints: Checkpoints, log: RunLog, device: torch.device, world: World
) -> Parts:
    """Build the parts of a run, and put back the newest checkpoint if there is one. All ranks call it.

    Raises:
        ConfigError: no dataset is named, or the tokenizer does not fit the system.
        DataError: the dataset cannot be read, or nothing is selected.
        CheckpointError: a damaged checkpoint, or weights of `init_from` that are missing or do not fit.
    """
    config = run.config
    for note in checkpoints.tidy():
        log.say(note)
    newest = checkpoints.newest_agreed()
    facts: dict[str, Any] = {"fresh": [], "cpu_seconds": 0.0}
    if newest is not None:
        facts = checkpoints.trainer_facts(newest)
    clock = CpuClock(facts["cpu_seconds"] if world.is_main else 0.0)
    # An index that is missing is written by one rank.
    sources = main_first(world, lambda: open_sources(config.data))
    init = _initial_weights(config) if newest is None else None
    if newest is None:
        on_main(world, lambda: _write_tokenizer(run, list(sources.values()), init, log))
        on_main(world, lambda: _write_assets(run, sources, init, log))
    tokenizer = Tokenizer.from_file(run.path / "tokenizer")
    task = build_task(config, tokenizer, read_assets(run.path))
    fresh = facts["fresh"] if init is None else _filled(task, config, init, log)
    frozen = freeze(task, config.optim)
    if frozen:
        log.say(f"frozen: {len(frozen)} of {sum(1 for _ in task.parameters())} parameters (optim.groups)")
    parallel = Parallel(task.train(), config.train, world, device)
    names = published_names(config, [name for name, _ in task.named_parameters()])
    optimizer = build_optimizer(task, config.optim, fresh, names)
    average = Average(task, config.train.ema) if config.train.ema else None
    silent = wordless(config.task)
    loader = make_loader(
        sources,
        config.data,
        None if len(silent) == len(config.task.entries()) else tokenizer,
        seed=config.seed,
        rank=world.rank,
        world=world.size,
        facts=facts_of(config.task),
        wordless=silent,
    )
    samples, step = sum(map(len, sources.values())), 0
    if newest is not None:
        make_slots(optimizer)
        snapshot = checkpoints.load_into(newest, _tensors(parallel, optimizer, average))
        drop_unused_slots(optimizer)
        loader.load_state_dict(snapshot.loader)
        if not world.is_main:
            loader.skipped = Counter()  # rank 0 goes on counting for all
        step = snapshot.step
    return Parts(task, parallel, tokenizer, optimizer, average, loader, clock, fresh, samples, step)


def _tensors(
    parallel: Parallel, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    tensors = {f"task/{k}": v for k, v in parallel.task.state_dict().items()}
    tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(optimizer).items()}
    if average is not None:
        tensors |= {f"ema/{k}": v for k, v in average.tensors.items()}
    return parallel.spread(tensors)


def _write_tokenizer(
    run: RunDirectory, selections: Sequence[Selection], init: Weights | None, log: RunLog
) -> None:
    tokenizer, origin = make_tokenizer(run.config, selections, init)
    tokenizer.save(run.path / "tokenizer")
    log.say(origin)


def _write_assets(
    run: RunDirectory, sources: Mapping[str, Selection], init: Weights | None, log: RunLog
) -> None:
    """Let the task look up in the training data what it has to know of them."""
    config = run.config
    kind: type[Task] = look_up(TASKS, config.task.name, "task")
    labelled = list(zip(source_labels(config.data), sources.values(), strict=True))
    found = kind.find_assets(config.task, labelled, {} if init is None else init.assets)
    if found:
        write_assets(run.path, found)
        log.say(f"{ASSETS}: {', '.join(found)}")


def _filled(task: Task, config: RunConfig, init: Weights, log: RunLog) -> list[str]:
    """Fill a fresh task from other weights; return the names that they did not fill."""
    filled = fill(task, init, config.init_from)
    for sentence in filled.report:
        log.say(sentence)
    return filled.fresh


def _initial_weights(config: RunConfig) -> Weights | None:
    if not config.init_from.path:
        return None
    return read_weights(find_weights(config.init_from.path, "init_from.path"))

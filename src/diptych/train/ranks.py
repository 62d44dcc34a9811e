"""The processes that train together: how they meet, what they agree on, what rank 0 does for all."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist

from diptych.blocks.collective import ALONE, World
from diptych.errors import ConfigError, RunError
from diptych.train.config import TrainConfig
from diptych.train.log import RunLog
from diptych.train.meeting import meeting
from diptych.train.together import Together

T = TypeVar("T")


class ElsewhereError(RunError):
    """Another rank has stopped the run and says why; this rank only ends with it."""


class AgreedError(RunError):
    """All ranks stop for one reason, which the message names with its rank; rank 0 says it for all."""

    agreed = True


def launched_size() -> int:
    """Return how many ranks the launcher (`torchrun`) has started; 1 without one."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_device(device: torch.device) -> torch.device:
    """Return the device of this rank: of several GPUs of a machine the one with its local rank.

    Raises:
        ConfigError: the machine has fewer GPUs than ranks.
    """
    if device.type != "cuda" or launched_size() == 1:
        return device
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise ConfigError(
            f"train.device = cuda: rank {local} of this machine has no GPU of its own ({there} found); start "
            f"torchrun with --nproc-per-node={there}, or set train.device=cpu"
        )
    return torch.device("cuda", local)


@contextlib.contextmanager
def joined(config: TrainConfig, device: torch.device) -> Iterator[World]:
    """Meet the other ranks that the launcher started; leave them at the end.

    A process group that is there already is used and left as it is. One process alone needs none, except for
    FSDP, which gets a group of one.

    Raises:
        ConfigError: `train.parallel` does not fit the number of ranks.
        RunError: the other ranks cannot be reached within `train.timeout`.
    """
    size = launched_size()
    if size > 1 and config.parallel == "none":
        raise ConfigError(
            f"train.parallel = none, but {size} ranks were started; set train.parallel=auto, ddp or fsdp, or "
            f"start one process"
        )
    if size == 1 and config.parallel != "fsdp":
        yield ALONE
        return
    own = not dist.is_initialized()
    if own:
        _meet(config, device, size)
    try:
        # Apart from the default group, which DDP and FSDP use, so that what the two send cannot mix.
        group = dist.new_group(timeout=timedelta(seconds=config.timeout))
        yield World(dist.get_rank(), size, group)
    finally:
        if own:
            dist.destroy_process_group()


def _meet(config: TrainConfig, device: torch.device, size: int) -> None:
    gpu = device.type == "cuda"
    if device.index is not None:
        torch.cuda.set_device(device)
    options: dict[str, Any] = {"timeout": timedelta(seconds=config.timeout)}
    if size == 1:
        options |= {"store": torch._C._distributed_c10d.HashStore(), "rank": 0, "world_size": 1}
    found = meeting()
    if found is not None:
        options |= {"store": found.store(options["timeout"]), "rank": found.rank, "world_size": found.size}
    try:
        # What ranks agree on travels by gloo on the CPU, so that it never waits for a GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", **options)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the ranks of the run cannot meet at MASTER_ADDR={os.environ.get('MASTER_ADDR', '(not set)')}, "
            f"MASTER_PORT={os.environ.get('MASTER_PORT', '(not set)')} ({str(error).splitlines()[0]}); start "
            f"them with torchrun, and check that the nodes reach each other"
        ) from error


def exchange(world: World, values: Sequence[float]) -> list[list[float]]:
    """Tell the other ranks some numbers; return those of every rank (each gives as many)."""
    if world.size == 1:
        return [list(values)]
    table = torch.zeros(world.size, len(values), dtype=torch.float64)
    table[world.rank] = torch.tensor(values, dtype=torch.float64)
    told: list[list[float]] = world.sum(table).tolist()
    return told


def on_main(world: World, action: Callable[[], T]) -> T:
    """Run `action` on rank 0 while the others wait; return its result (which pickles) on every rank.

    Raises:
        Exception: on rank 0, what it raised.
        ElsewhereError: on the others, when it failed there.
    """
    try:
        return Together(world).main(action)
    except Exception as error:
        if world.is_main:
            raise
        raise ElsewhereError(str(error)) from error


def main_first(world: World, action: Callable[[], T]) -> T:
    """Run `action` on rank 0, then on the others, which find what it left on disk.

    Raises:
        ElsewhereError: on the others, when it failed on rank 0.
    """
    made: list[T] = []
    on_main(world, lambda: made.append(action()))
    return made[0] if made else action()


class SilentLog(RunLog):
    """The log of ranks that leave the saying to rank 0. Warnings still reach stderr."""

    def __init__(self) -> None:
        """Open nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Close nothing."""

    def say(self, text: str) -> None:
        """Drop a line."""

    def record(self, text: str) -> None:
        """Drop a line."""

    def row(self, row: Mapping[str, Any], summary: str) -> None:
        """Drop a row."""

    def moved(self, progress: float, step: int, loss: str) -> None:
        """Show nothing."""

"""Runs a function in several gloo processes, for tests of what ranks tell each other.

The processes are forked off a server that has imported torch once (`forkserver`), so that they start at once.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from diptych.blocks.collective import World

SECONDS = 60


def run_ranks(function: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """Return what `function(world, *args)`, a function of a module, returns in each of `size` processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed.tensor", "diptych.blocks.moe"])
    with tempfile.TemporaryDirectory() as folder:
        work = [
            context.Process(target=_work, args=(function, rank, size, folder, args), daemon=True)
            for rank in range(size)
        ]
        try:
            for process in work:
                process.start()
            for process in work:
                process.join(SECONDS)
            codes = [process.exitcode for process in work]
            assert codes == [0] * size, f"exit statuses of the ranks: {codes} (None: not ended)"
        finally:
            for process in work:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(size)]


def _work(function: Callable[..., Any], rank: int, size: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS / 2)
    )
    try:
        torch.save(function(World(rank, size), *args), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()

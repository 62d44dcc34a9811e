"""Run a function on several processes that talk to each other over gloo on this machine."""

import io
import multiprocessing
import os
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

PRELOADED = [
    "pytest",
    "hypothesis",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "diptych.blocks.expert_parallel",
    "diptych.systems.eve.pretrain",
    "diptych.train.engine",
]
"""What the tests of several processes import."""


def run_ranks(
    function: Callable[..., Any], *arguments: Any, ranks: int = 2, timeout: float = 120
) -> list[Any]:
    """Return what `function(world, *arguments)` returns on each rank, in rank order.

    Args:
        function: at the top level of a module; its result is anything that `torch.save` can write.
        arguments: picklable.
        ranks: number of processes.
        timeout: seconds after which everything is killed and the test fails.
    """
    context = multiprocessing.get_context("forkserver")
    # Importing them once instead of once a process.
    context.set_forkserver_preload(PRELOADED)
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=_work, args=(Path(folder), r, ranks, timeout, function, arguments, results)
            )
            for r in range(ranks)
        ]
        try:
            for process in processes:
                process.start()
            return _collect(results, processes, time.monotonic() + timeout)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _collect(results: Any, processes: list[Any], deadline: float) -> list[Any]:
    import torch

    found: dict[int, Any] = {}
    while len(found) < len(processes):
        try:
            rank, failed, value = results.get(timeout=0.5)
        except queue.Empty:
            dead = [r for r, p in enumerate(processes) if r not in found and p.exitcode]
            assert not dead, f"ranks {dead} ended with {[processes[r].exitcode for r in dead]}"
            assert time.monotonic() < deadline, f"only ranks {sorted(found)} answered in time"
            continue
        assert not failed, f"rank {rank}:\n{value}"
        # As bytes: a tensor in a queue would be shared memory that its process may take away too early.
        found[rank] = torch.load(io.BytesIO(value), weights_only=False)
    return [found[rank] for rank in range(len(processes))]


def _work(
    folder: Path,
    rank: int,
    ranks: int,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    results: Any,
) -> None:
    import torch
    import torch.distributed as dist

    from diptych.blocks.collective import World

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
    )
    try:
        packed = io.BytesIO()
        torch.save(function(World(rank, ranks), *arguments), packed)
        results.put((rank, False, packed.getvalue()))
    except BaseException:
        results.put((rank, True, traceback.format_exc()))
    # The queue's thread must have written before the process group (and the process) goes.
    results.close()
    results.join_thread()
    dist.destroy_process_group()

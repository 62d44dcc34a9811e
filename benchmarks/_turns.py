"""Timing of contenders that take turns, and the memory of one of them: what several benchmarks share."""

import argparse
import gc
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch

Clock = Literal["wall", "cpu"]
CLOCKS: tuple[str, ...] = get_args(Clock)


def add_turns(parser: argparse.ArgumentParser, rounds: int, clock: Clock = "wall", threads: int = 0) -> None:
    """Add the options of a benchmark whose contenders take turns; `begin` follows them."""
    parser.add_argument("--rounds", type=int, default=rounds, help="calls of each contender that count")
    parser.add_argument(
        "--clock", choices=CLOCKS, default=clock, help="cpu: seconds of all threads, on a busy machine"
    )
    parser.add_argument("--threads", type=int, default=threads, help="of a CPU; 0: torch's choice")


def add_device(parser: argparse.ArgumentParser, *, precision: bool = True) -> None:
    """Add where a benchmark runs, and with which numbers."""
    parser.add_argument("--device", default="cpu")
    if precision:
        parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")


def begin(options: argparse.Namespace) -> None:
    """Do what the options of `add_turns` say of the whole process."""
    if options.threads:
        torch.set_num_threads(options.threads)


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    contenders: Mapping[str, Callable[[], None]], rounds: int, clock: Clock, device: torch.device
) -> dict[str, float]:
    """Return each one's fastest seconds of `rounds` calls, after one that does not count.

    They take turns, and the fastest call counts, since other programs only ever make a call slower. The clock
    `cpu` counts the seconds of all threads, which says more where a machine is busy with other work.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    best = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds + 1):
        for name, call in contenders.items():
            gc.collect()
            wait(device)
            started = now()
            call()
            wait(device)
            if number:
                best[name] = min(best[name], now() - started)
    return best


def peak_of(call: Callable[[], None], device: torch.device) -> float:
    """Return the MB that a call has at most beyond what there was before it.

    On a GPU the allocator's; on a CPU the resident memory, looked at every millisecond: call it in a process
    that has not done this work before, since freed memory may stay resident.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    watch = _Watch()
    watch.start()
    call()
    return watch.stop()


def resident() -> int:
    """Return this process's resident bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


class _Watch(threading.Thread):
    """Watches resident memory while a call runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = resident()
        self.done = threading.Event()

    def run(self) -> None:
        """Watch until `done`."""
        while not self.done.wait(0.001):
            self.highest = max(self.highest, resident())

    def stop(self) -> float:
        """Return the peak above the start in MB, at least a page."""
        self.done.set()
        self.join()
        return max(self.highest - self.before, 4096) / 1e6

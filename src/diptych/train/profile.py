"""A trace of some steps of a run: where the time goes, kernel by kernel."""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED = 3
"""Steps that are not traced: the first ones load kernels, and the last of them warms the profiler up."""
ROWS = 40


class StepProfiler:
    """Traces `steps` steps after the first `SKIPPED` ones and writes `trace.json.gz` and `table.txt`.

    The trace opens in Perfetto (ui.perfetto.dev) or chrome://tracing; the table lists the operations that
    took the most time. A run that ends earlier leaves what it has traced. Use it as a context manager.

    Args:
        folder: where to write (`profile/rank0` of the run directory).
        steps: steps to trace; 0: nothing is done at all.
        device: a GPU's kernels are traced too.
        say: told when the files are there.
    """

    def __init__(self, folder: Path, steps: int, device: torch.device, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._sort_by = "self_cpu_time_total"
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            self._sort_by = "self_cuda_time_total"
        self._profile: Any = None
        if steps:
            # The library behind the profiler writes notes of its own to stderr.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._profile = profile(
                activities=activities,
                schedule=schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
                record_shapes=True,
            )

    def __enter__(self) -> Self:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._profile.stop()

    def step(self) -> None:
        """Tell that a step is done."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, traced: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(self._folder / "trace.json.gz"))
        table = traced.key_averages(group_by_input_shape=False).table(sort_by=self._sort_by, row_limit=ROWS)
        (self._folder / "table.txt").write_text(table, encoding="utf-8")
        self._say(f"profile: {self._folder}/trace.json.gz (open it at ui.perfetto.dev) and table.txt")

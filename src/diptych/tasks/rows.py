"""Going through a split on all ranks for tasks that give one row for each of its entries."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from diptych.data.batch import Batch
from diptych.errors import DataError
from diptych.systems.task import EvalData, Task
from diptych.tasks.routing import routing_layers


@dataclass(frozen=True)
class Rows:
    """What all ranks found."""

    rows: list[dict[str, Any]]
    skipped: dict[str, int]
    """Samples left out, by cause."""
    cpu_seconds: float
    """Of all ranks together."""
    layers: dict[str, Any]
    """What experts served (`experts`); empty for models without."""


@torch.no_grad()
def collect_rows(
    task: Task,
    data: EvalData,
    progress: Callable[[str, int, int], None],
    noun: str,
    read: Callable[[Batch], list[dict[str, Any]]],
) -> Rows:
    """Return what `read` gives for every batch of a split, in eval mode.

    Raises:
        DataError: the split has no such entry; `noun` ("question") says what is missing.
    """
    started = time.process_time()
    training = task.training
    task.eval()
    task.model.reset_routing()
    rows: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    try:
        for batch in data.mine.batches():
            skipped.update(batch.skipped)
            rows += read(batch) if len(batch) else []
            progress(f"{noun}s", len(rows) + sum(skipped.values()), data.mine.size)
        layers = routing_layers(task.model, data.world)
    finally:
        task.train(training)
    rows = data.world.collect(rows)
    skipped = Counter(data.world.collect(list(skipped.elements())))
    if not rows:
        raise DataError(f"{data.dataset}/{data.split}: no {noun} in this selection")
    seconds = round(sum(data.world.collect([time.process_time() - started])), 3)
    return Rows(rows, dict(skipped), seconds, layers)

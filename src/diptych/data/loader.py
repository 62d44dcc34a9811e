"""From a selection to batches: endless in training, once in order for evaluation.

What batch k holds depends on the selection, the settings and the seed alone: not on the number of workers, on
the batch the loader started with, or (but for the slice a rank takes) on the number of ranks.
"""

import itertools
import logging
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.order import Order
from diptych.data.reader import Bad, SampleReader
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from diptych.data.index import Selection

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Made:
    """What a work item gives: a batch, or why the run must stop, and the CPU time of the worker so far."""

    batch: Batch | None
    failure: str
    bad: list[str]
    worker: int
    cpu_seconds: float


class _Batches(Dataset[_Made]):
    """Batch number -> batch; the dataset that torch's DataLoader hands out to workers."""

    def __init__(self, reader: SampleReader, order: Order, config: DataConfig, rank: int, world: int) -> None:
        self.reader, self.order, self.on_error = reader, order, config.loader.on_error
        self.batch_size, self.rank, self.world = config.loader.batch_size, rank, world

    def __getitem__(self, number: int) -> _Made:
        worker = get_worker_info()
        try:
            batch, bad = self._make(number)
            failure = ""
        except DataError as error:
            # As a value: an exception from a worker reaches the user as a page of traceback.
            batch, bad, failure = None, [], str(error)
        cpu_seconds = time.process_time() if worker is not None else 0.0
        return _Made(batch, failure, bad, worker.id if worker is not None else 0, cpu_seconds)

    def _make(self, number: int) -> tuple[Batch, list[str]]:
        skipped: Counter[str] = Counter()
        messages: list[str] = []
        # A batch without a single good sample takes the samples of a later one, so that no step is lost.
        for attempt in range(-(-self.order.size // self.batch_size) + 1):
            positions = self._positions(number + attempt)
            items, bad = self.reader.read(self.order.at(positions), positions)
            for problem in bad:
                skipped[problem.cause] += 1
                messages.append(problem.message)
            if bad and self.on_error == "raise":
                raise DataError(
                    f"{messages[0]}; set data.loader.on_error to skip or count to go on without it"
                )
            if items:
                return self.reader.batch(items, dict(skipped)), messages
        raise DataError(f"none of the {self.order.size} samples can be used; the first: {messages[0]}")

    def _positions(self, number: int) -> np.ndarray:
        start = number * self.batch_size
        first = self.batch_size * self.rank // self.world
        last = self.batch_size * (self.rank + 1) // self.world
        return np.arange(start + first, start + last, dtype=np.int64)


class _Numbers(Sampler[int]):
    """Batch numbers from `start` on, without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


class Loader:
    """Endless training batches that can start, and so resume, at any batch number.

    With `config.augment.keeps_opacity` pictures have a fourth channel until `augment.augment` lays them on a
    background. Captions are chosen, crops and flips drawn, by (seed, position). The token fields are there if
    a tokenizer is given; samples then need a caption. A sample that cannot be used is treated as
    `config.loader.on_error` says: left out of its batch, which counts it in `skipped`. No batch is empty:
    where no sample is left, it shows those of a later one.

    Attributes:
        next_batch: number of the batch that the next step of the iteration yields.
        skipped: samples left out so far, by cause.
        batches_per_epoch: global batches that an epoch takes; seldom a whole number.
    """

    def __init__(
        self,
        selection: "Selection",
        config: DataConfig,
        tokenizer: Tokenizer | None,
        *,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(selection) == 0:
            raise DataError(f"{config.path}: no samples selected; check data.split and data.where")
        if config.loader.batch_size < world:
            raise DataError(
                f"data.loader.batch_size: expected at least one sample a rank ({world}), "
                f"got {config.loader.batch_size}"
            )
        self._config, self._seed, self._selection = config, seed, selection
        size, m = len(selection), config.loader.group_size
        groups = _group_labels(selection, config.loader.group_by) if m > 1 else None
        order = Order(size, seed, config.loader.shuffle, groups=groups, group_size=m)
        self._reader = SampleReader(selection, config, tokenizer, seed=seed)
        self._batches = _Batches(self._reader, order, config, rank, world)
        self.next_batch = start_batch
        self.skipped: Counter[str] = Counter()
        self.batches_per_epoch = size / config.loader.batch_size
        # The only reference to the iterator, so that `close` can let go: its destructor joins the workers.
        self._running: Iterator[_Made] | None = None
        self._turn = 0
        self._cpu: dict[int, float] = {}

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from `next_batch` on. Only the newest iterator of a loader may be used."""
        self.close()
        self._running = self._start()
        self._turn += 1
        return self._iterate(self._turn)

    def _iterate(self, turn: int) -> Iterator[Batch]:
        while self._running is not None and self._turn == turn:
            try:
                made = next(self._running)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise DataError(
                    "a loader process died (out of memory?); set data.loader.workers=0 to see the reason"
                ) from error
            self._cpu[made.worker] = made.cpu_seconds
            for message in made.bad if self._config.loader.on_error == "skip" else ():
                _LOG.warning("sample left out of batch %d: %s", self.next_batch, message)
            if made.batch is None:
                self.close()
                raise DataError(made.failure)
            self.skipped.update(made.batch.skipped)
            self.next_batch += 1
            yield made.batch

    def _start(self) -> Iterator[_Made]:
        workers = self._config.loader.workers
        if workers == 0:
            return (self._batches[number] for number in itertools.count(self.next_batch))
        self._selection.prefetch()
        # The tokenizers library otherwise warns of each fork after it has used threads (we use none).
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with warnings.catch_warnings():
            # Python 3.12+ warns of forks with threads around; workers touch neither CUDA nor those threads.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            # More workers than cores is the user's explicit wish.
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            return iter(
                DataLoader(
                    self._batches,
                    batch_size=None,
                    sampler=_Numbers(self.next_batch),
                    num_workers=workers,
                    collate_fn=_as_it_is,
                    # Forked workers share the picture cache, and start at once.
                    multiprocessing_context="fork" if sys.platform == "linux" else None,
                    worker_init_fn=_prepare_worker,
                )
            )

    @property
    def worker_cpu_seconds(self) -> float:
        """CPU time of the running workers, as of their newest batch that was yielded.

        After `close` it is 0 and they are among the finished children (`resource.RUSAGE_CHILDREN`).
        """
        return sum(self._cpu.values())

    def state_dict(self) -> dict[str, Any]:
        """Return what continues this loader, JSON types only; workers and ranks may be others then."""
        return {"next_batch": self.next_batch, "skipped": dict(self.skipped), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            CheckpointError: it comes from other data, another seed or other settings of the order.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"loader state: {name} is {state.get(name)!r} in the checkpoint and {value!r} now; "
                    "use the same data and loader settings, or start a new run"
                )
        self.close()
        self.next_batch = int(state["next_batch"])
        self.skipped = Counter(state["skipped"])

    def _identity(self) -> dict[str, Any]:
        loader = self._config.loader
        return {
            "fingerprint": self._selection.fingerprint,
            "seed": self._seed,
            "batch_size": loader.batch_size,
            "shuffle": loader.shuffle,
            "group_size": loader.group_size,
            "group_by": loader.group_by,
        }

    def close(self) -> None:
        """End the workers and wait for them; iterating again starts new ones."""
        self._running = None
        self._cpu.clear()


def _group_labels(selection: "Selection", column: str) -> np.ndarray:
    """Return one number a sample, equal where the column is; a sample without a value is a group alone."""
    known: dict[str, int] = {}
    values = selection.column(column)
    labels = [i if v is None or v == "" else known.setdefault(str(v), i) for i, v in enumerate(values)]
    return np.asarray(labels, dtype=np.int64)


def _as_it_is(made: Any) -> Any:
    return made


def _prepare_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # A terminal's Ctrl-C and a scheduler's SIGTERM reach every process; the parent decides what happens and
    # ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def evaluation_batches(
    selection: "Selection", config: DataConfig, batch_size: int, tokenizer: Tokenizer | None = None
) -> Iterator[Batch]:
    """Yield every sample once, in the order of the index, with all captions and without random changes.

    `captions` hold all captions, cleaned; `texts` and the token fields (with a tokenizer) the first one.
    Pictures have three channels; `random_crop` becomes `squash`. Samples that cannot be used are left out and
    counted in `skipped`, as `config.loader.on_error` says: batches may be smaller than `batch_size`, but are
    never empty.

    Raises:
        DataError: a sample cannot be used and `on_error` is `raise`, or none can.
    """
    reader = SampleReader(selection, config, tokenizer, seed=0, training=False)
    held: Batch | None = None
    pending: Counter[str] = Counter()
    first = "there are none; check the split and the condition"
    for start in range(0, len(selection), batch_size):
        rows = np.arange(start, min(start + batch_size, len(selection)), dtype=np.int64)
        items, bad = reader.read(rows, rows)
        for problem in bad:
            _report(problem, config)
            pending[problem.cause] += 1
        if not items:
            first = bad[0].message
            continue
        if held is not None:
            yield held
        held = reader.batch(items, dict(pending))
        pending.clear()
    if held is None:
        raise DataError(f"none of the {len(selection)} selected samples can be used: {first}")
    yield replace(held, skipped=dict(Counter(held.skipped) + pending))


def _report(problem: Bad, config: DataConfig) -> None:
    if config.loader.on_error == "raise":
        raise DataError(f"{problem.message}; set data.loader.on_error to skip or count to go on without it")
    if config.loader.on_error == "skip":
        _LOG.warning("sample left out of the evaluation: %s", problem.message)

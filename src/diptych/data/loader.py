"""From sources to batches: endless in training, once in order for evaluation.

What batch k holds depends on the sources, the settings and the seed alone: not on the number of workers, on
the batch the loader started with, or (but for the slice a rank takes) on the number of ranks.
"""

import itertools
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.decode import Pixels
from diptych.data.plan import Drawn, Plan
from diptych.data.reader import Bad, Piece, SampleReader
from diptych.data.sources import make_plan, source_configs, source_labels
from diptych.data.store import LocalStore
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection
    from diptych.data.workers import Pool

_LOG = logging.getLogger(__name__)

_AHEAD = 3
"""Batches that workers read ahead."""
_FETCH_AHEAD = 16
"""Batches whose shards a remote store is told of."""
_KEPT_MEMORY = 2**25 - 2**13
_REMEMBERED = 64
"""Batches for which `state_at` knows what had been skipped."""


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
        plan: which samples make up each batch.
        batches_per_epoch: global batches that an epoch takes; seldom a whole number.
        batches_per_step: batches that a rank takes for a step, before any are accumulated.
    """

    batches_per_step = 1
    drawn = False
    """Whether each batch is of one source, and counts as much as any other (`draw_loader`)."""

    def __init__(
        self,
        sources: "Selection | Sequence[Selection] | Mapping[str, Selection]",
        config: DataConfig,
        tokenizer: Tokenizer | None,
        *,
        seed: int,
        plan: Plan | None = None,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        facts: Sequence[str] = (),
        wordless: Collection[str] = (),
    ) -> None:
        """Nothing is read yet.

        Args:
            sources: what to draw from, in the order of the numbers in the plan (`sources.open_sources`).
            config: the settings.
            tokenizer: for the captions, if they are wanted.
            seed: that of the run.
            plan: which samples make up each batch; `sources.make_plan` if none is given.
            start_batch: number of the first batch.
            rank: which slice of the batches to read.
            world: number of slices.
            facts: names of facts of samples that batches bring (`Task.facts`).
            wordless: labels of sources whose samples need no caption; those without one show an empty text.

        Raises:
            DataError: nothing is selected, or a batch has not a sample for each rank.
        """
        named = _named(sources, config)
        self._sources = list(named.values())
        if not all(map(len, self._sources)):
            raise DataError(f"{config.path}: no samples selected; check data.split and data.where")
        if plan is None and config.loader.batch_size < world:
            raise DataError(
                f"data.loader.batch_size: expected at least one sample a rank ({world}), "
                f"got {config.loader.batch_size}"
            )
        self._config, self._seed, self._rank, self._world = config, seed, rank, world
        self.plan = plan or make_plan(named, config, seed=seed, world=world)
        self._reader = SampleReader(
            self._sources,
            config,
            tokenizer,
            seed=seed,
            labels=source_labels(config) if config.sources else (),
            facts=facts,
            wordless=wordless,
        )
        self.next_batch = start_batch
        self.skipped: Counter[str] = Counter()
        self._before: deque[tuple[int, dict[str, int]]] = deque(maxlen=_REMEMBERED)
        self.batches_per_epoch = self.plan.batches_per_epoch
        self._pool: Pool | None = None
        self._turn = 0
        self._announced = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from `next_batch` on. Only the newest iterator of a loader may be used."""
        self.close()
        self._turn += 1
        self._announced = self.next_batch
        _keep_freed_memory()
        return self._iterate(self._turn)

    def _iterate(self, turn: int) -> Iterator[Batch]:
        made = self._read_ahead() if self._start_workers() else self._read_here()
        while self._turn == turn:
            # Nothing here keeps the batch that was handed out: its memory is used again when it is forgotten.
            yield self._count(*next(made))

    def _count(self, batch: Batch, bad: list[Bad]) -> Batch:
        for problem in bad if self._config.loader.on_error == "skip" else ():
            _LOG.warning("sample left out of batch %d: %s", self.next_batch, problem.message)
        self._before.append((self.next_batch, dict(self.skipped)))
        self.skipped.update(batch.skipped)
        self.next_batch += 1
        return batch

    def _read_here(self) -> Iterator[tuple[Batch, list[Bad]]]:
        for number in itertools.count(self.next_batch):
            self._announce(number)
            drawn = self._drawn(number)
            yield self._complete(number, drawn, *self._read(drawn))

    def _read_ahead(self) -> Iterator[tuple[Batch, list[Bad]]]:
        """Yield what the workers make; they read `_AHEAD` batches while others are used."""
        assert self._pool is not None
        pool = self._pool
        numbers = itertools.count(self.next_batch)
        # A batch too large for the workers' memory has no ticket and is read here, when it is its turn.
        waiting: deque[tuple[int, Drawn, int | None]] = deque()
        while True:
            while len(waiting) < _AHEAD and pool.has_room:
                number = next(numbers)
                self._announce(number)
                drawn = self._drawn(number)
                waiting.append((number, drawn, pool.submit(drawn)))
            number, drawn, ticket = waiting.popleft()
            yield self._complete(number, drawn, *self._collect(pool, drawn, ticket))

    def _collect(self, pool: "Pool", drawn: Drawn, ticket: int | None) -> tuple[Piece, Pixels | None]:
        if ticket is None:
            return self._read(drawn)
        failure = pool.wait(ticket).failure
        if failure:
            raise DataError(failure)
        return pool.collect(ticket)

    def _complete(
        self, number: int, drawn: Drawn, piece: Piece, images: Pixels | None
    ) -> tuple[Batch, list[Bad]]:
        """Return a batch and what is wrong with the samples that are missing.

        A batch without a single good sample takes the samples of a later one, so that no step is lost.
        """
        bad = list(piece.bad)
        for attempt in range(1, math.ceil(self.batches_per_epoch) + 2):
            if bad and self._config.loader.on_error == "raise":
                raise DataError(
                    f"{bad[0].message}; set data.loader.on_error to skip or count to go on without it"
                )
            if piece.keys:
                skipped = Counter(problem.cause for problem in bad)
                return self._reader.batch(drawn, piece, images, dict(skipped)), bad
            drawn = self._drawn(number + attempt)
            piece, images = self._read(drawn)
            bad += piece.bad
        total = sum(map(len, self._sources))
        raise DataError(f"none of the {total} samples can be used; the first: {bad[0].message}")

    def _read(self, drawn: Drawn) -> tuple[Piece, Pixels | None]:
        """Read samples in this process."""
        room = self._reader.room(len(drawn.rows))
        piece = self._reader.read(drawn, room)
        return piece, None if room is None else room[: len(piece.keys)]

    def config_of(self, batch: Batch) -> DataConfig:
        """Return the settings that a batch was made with."""
        return self._config

    def _drawn(self, number: int) -> Drawn:
        return self.plan.batch(number, self._rank, self._world)

    def _announce(self, number: int) -> None:
        """Tell remote stores what comes after batch `number`, in good time."""
        remote = [i for i, s in enumerate(self._sources) if not isinstance(s.dataset.store, LocalStore)]
        if not remote:
            return
        for coming in range(max(number, self._announced), number + _FETCH_AHEAD + 1):
            drawn = self._drawn(coming)
            for source in remote:
                self._sources[source].will_need(drawn.rows[drawn.sources == source])
        self._announced = number + _FETCH_AHEAD + 1

    def _start_workers(self) -> bool:
        """Start the workers, if there are to be any."""
        workers = self._config.loader.workers
        if workers and not hasattr(os, "fork"):
            _LOG.warning("data.loader.workers: this system cannot fork; batches are read in this process")
        if not workers or not hasattr(os, "fork"):
            return False
        from diptych.data.workers import Pool

        for selection in self._sources:
            selection.prefetch()
        # The tokenizers library otherwise warns of each fork after it has used threads (we use none).
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._pool = Pool(
            self._reader.read,
            workers,
            slots=_AHEAD,
            capacity=self._capacity(),
            shape=self._reader.shape,
        )
        return True

    def _capacity(self) -> int:
        """Return how many samples workers have room for: twice what the next batches hold, if that varies."""
        sizes = {len(self._drawn(self.next_batch + i).rows) for i in range(_AHEAD)}
        return max(sizes) * (1 if len(sizes) == 1 else 2)

    def pin(self) -> bool:
        """Lock the memory that workers write pictures to, for copies to a GPU; see `prefetch`."""
        return self._pool is not None and self._pool.pin()

    @property
    def worker_cpu_seconds(self) -> float:
        """CPU time of the running workers, as of their newest piece that has arrived.

        After `close` it is 0 and they are among the finished children (`resource.RUSAGE_CHILDREN`).
        """
        return sum(self._pool.cpu_seconds.values()) if self._pool is not None else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what continues this loader, JSON types only; workers and ranks may be others then."""
        return self.state_at(self.next_batch)

    def state_at(self, next_batch: int) -> dict[str, Any]:
        """Return what continues with batch `next_batch`, where batches have been taken ahead of their use.

        What had been skipped is known for the newest batches, and so an upper limit for older ones.
        """
        skipped = next((s for number, s in reversed(self._before) if number == next_batch), self.skipped)
        return {
            "next_batch": next_batch,
            "skipped": dict(skipped),
            "anchor": self.plan.anchor(next_batch),
            **self._identity(),
        }

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
        self._before.clear()
        self.plan.start(state.get("anchor", {}))

    def _identity(self) -> dict[str, Any]:
        prints = [selection.fingerprint for selection in self._sources]
        one = prints[0] if len(prints) == 1 else prints
        return {"fingerprint": one, "seed": self._seed, **self.plan.identity()}

    def close(self) -> None:
        """End the workers and wait for them; iterating again starts new ones."""
        self._turn += 1
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _keep_freed_memory() -> None:
    """Have the C library keep up to 32 MiB of freed memory, for this process and workers that are forked.

    Each picture needs some hundred kB for a moment; memory that goes back to the system in between costs a
    page fault for every 4 KiB. glibc learns its limits from the largest block freed; elsewhere this does
    nothing.
    """
    np.empty(_KEPT_MEMORY, dtype=np.uint8)  # and forgotten at once


def _named(
    sources: "Selection | Sequence[Selection] | Mapping[str, Selection]", config: DataConfig
) -> "dict[str, Selection]":
    from diptych.data.selection import Selection

    if isinstance(sources, Mapping):
        return dict(sources)
    if isinstance(sources, Selection):
        sources = [sources]
    if len(sources) == 1:
        return {next(iter(source_configs(config))): sources[0]}
    return dict(zip(source_configs(config), sources, strict=True))


def evaluation_batches(
    selection: "Selection",
    config: DataConfig,
    batch_size: int,
    tokenizer: Tokenizer | None = None,
    *,
    part: bool = False,
    facts: Sequence[str] = (),
) -> Iterator[Batch]:
    """Yield every sample once, in the order of the index, with all captions and without random changes.

    `captions` hold all captions, cleaned; `texts` and the token fields (with a tokenizer) the first one.
    Pictures have three channels; `random_crop` becomes `squash`. Samples that cannot be used are left out and
    counted in `skipped`, as `config.loader.on_error` says: batches may be smaller than `batch_size`, but are
    never empty.

    Args:
        selection: what to read.
        config: how.
        batch_size: samples of a batch.
        tokenizer: None: no tokens.
        part: it is a rank's part of a selection. If none of it can be used there is one batch without samples
            (and without tensors), which counts them.
        facts: names of facts of samples that batches bring (`Task.facts`).

    Raises:
        DataError: a sample cannot be used and `on_error` is `raise`; or none can, and it is no `part`.
    """
    reader = SampleReader([selection], config, tokenizer, seed=0, training=False, facts=facts)
    held: Batch | None = None
    pending: Counter[str] = Counter()
    first = "there are none; check the split and the condition"
    for start in range(0, len(selection), batch_size):
        rows = np.arange(start, min(start + batch_size, len(selection)), dtype=np.int64)
        drawn = Drawn(np.zeros_like(rows), rows, rows)
        room = reader.room(len(rows))
        piece = reader.read(drawn, room)
        for problem in piece.bad:
            _report(problem, config)
            pending[problem.cause] += 1
        if not piece.keys:
            first = piece.bad[0].message
            continue
        if held is not None:
            yield held
        images = None if room is None else room[: len(piece.keys)]
        held = reader.batch(drawn, piece, images, dict(pending))
        pending.clear()
    if held is None and part:
        none = torch.empty(0, dtype=torch.int64)
        held = Batch(keys=[], positions=none, match_ids=none, captions=[])
    if held is None:
        raise DataError(f"none of the {len(selection)} selected samples can be used: {first}")
    yield replace(held, skipped=dict(Counter(held.skipped) + pending))


def _report(problem: Bad, config: DataConfig) -> None:
    if config.loader.on_error == "raise":
        raise DataError(f"{problem.message}; set data.loader.on_error to skip or count to go on without it")
    if config.loader.on_error == "skip":
        _LOG.warning("sample left out of the evaluation: %s", problem.message)

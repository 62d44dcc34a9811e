"""Batches of one source each, in the source's own size and with its own settings (`data.mixture.draw`).

What is drawn depends on the sources, the settings and the seed alone, not on the ranks: with `rank_batches`
two ranks that take a draw each do what one process does that takes both one after the other.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diptych.data.batch import Batch
from diptych.data.config import DataConfig, SourceConfig
from diptych.data.loader import Loader
from diptych.data.order import derived
from diptych.data.plan import Drawn, Plan, slice_of
from diptych.data.sources import make_plan, source_configs, source_data
from diptych.data.text import Tokenizer
from diptych.data.turns import Turns, drawn_before, draws_of, make_turns
from diptych.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

_AT_ONCE = 64
"""Draws that are looked at together to find the next ones of a source."""
_REMEMBERED = 64


class DrawLoader:
    """Endless training batches, each of one source; it can start, and so resume, at any step.

    Attributes:
        next_batch: number of this rank's batch that the next step of the iteration yields.
        skipped: samples left out so far, by cause.
        batches_per_step: batches that a rank takes for one step; all of them count the same.
        batches_per_epoch: batches of this rank in which as many samples are drawn as there are.
    """

    drawn = True

    def __init__(
        self,
        sources: "Mapping[str, Selection]",
        config: DataConfig,
        tokenizer: Tokenizer | None,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        facts: Sequence[str] = (),
        wordless: Collection[str] = (),
    ) -> None:
        """Nothing is read yet.

        Args:
            sources: what to draw from (`sources.open_sources`).
            config: the settings; `mixture.draw` is `batches` or `rank_batches`.
            tokenizer: for the captions, if they are wanted.
            seed: that of the run.
            rank: which batches, or which slice of them, to read.
            world: number of ranks.
            facts: names of facts of samples that batches bring (`Task.facts`).
            wordless: labels of sources whose samples need no caption.

        Raises:
            ConfigError: settings of a source that are wrong; weights that do not add up.
            DataError: draws that do not go with the ranks; a batch that has not a sample for each.
        """
        self.names = list(sources)
        self.alone = config.mixture.draw == "rank_batches"
        self._rank, self._world, self._seed = rank, world, seed
        self.draws = draws_of(config, len(sources), world)
        self._turns = make_turns(sources, config, self.draws, seed)
        self._first, last = slice_of(self.draws, rank, world) if self.alone else (0, self.draws)
        self.batches_per_step = last - self._first
        self._mixture, self._fingerprints = config.mixture, [s.fingerprint for s in sources.values()]
        self.configs = _own_configs(sources, config, self._turns, 1 if self.alone else world)
        self._parts, self._loaders = [], []
        for number, (name, selection) in enumerate(sources.items()):
            own = self.configs[number]
            one = {name: selection}
            plan = make_plan(one, own, seed=derived(seed, name), world=1 if self.alone else world)
            part = _Part(plan, self, number)
            self._parts.append(part)
            ranks: dict[str, Any] = {"rank": 0, "world": 1} if self.alone else {"rank": rank, "world": world}
            self._loaders.append(
                Loader(one, own, tokenizer, seed=seed, plan=part, facts=facts, wordless=wordless, **ranks)
            )
        self.next_batch, self.skipped = 0, Counter[str]()
        self._before: deque[tuple[int, dict[str, int]]] = deque(maxlen=_REMEMBERED)
        self.batches_per_epoch = self._epoch([len(selection) for selection in sources.values()])
        self._turn, self._pinned = 0, False

    def _epoch(self, samples: Sequence[int]) -> float:
        plans = [part.plan for part in self._parts]
        each = [size / plan.batches_per_epoch for size, plan in zip(samples, plans, strict=True)]
        a_draw = float(np.dot(self._turns.quotas, each)) / self._turns.length
        return sum(samples) / a_draw / (self._world if self.alone else 1)

    def unit(self, batch: int) -> int:
        """Return the draw that a batch of this rank is."""
        step, place = divmod(batch, self.batches_per_step)
        return step * self.draws + self._first + place

    def source_of(self, units: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the source of each draw, and how often it was drawn before."""
        sources, numbers = self._turns.at(np.asarray(units, dtype=np.int64))
        return sources.tolist(), numbers.tolist()

    def config_of(self, batch: Batch) -> DataConfig:
        """Return the settings that a batch was made with."""
        assert batch.sources is not None
        return self.configs[int(batch.sources[0])]

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from `next_batch` on. Only the newest iterator may be used."""
        self.close()
        for part in self._parts:
            part.begin(self.next_batch)
        for loader in self._loaders:
            loader.next_batch = 0
        return self._iterate(self._turn)

    def _iterate(self, turn: int) -> Iterator[Batch]:
        streams: dict[int, Iterator[Batch]] = {}
        while self._turn == turn:
            unit = self.unit(self.next_batch)
            source = self.source_of([unit])[0][0]
            if source not in streams:
                streams[source] = iter(self._loaders[source])
            self._before.append((self.next_batch, dict(self.skipped)))
            # Nothing here keeps the batch that is handed out, see `Loader`.
            yield self._marked(next(streams[source]), source, unit)

    def _marked(self, batch: Batch, source: int, unit: int) -> Batch:
        self.next_batch += 1
        self.skipped.update(batch.skipped)
        if self._pinned:
            self._loaders[source].pin()
        sources = torch.full((len(batch),), source, dtype=torch.int64)
        return replace(batch, sources=sources, draw=unit if self.alone else None)

    def pin(self) -> bool:
        """Lock the memory that workers write pictures to, for copies to a GPU."""
        self._pinned = True
        return sum(loader.pin() for loader in self._loaders) > 0

    @property
    def worker_cpu_seconds(self) -> float:
        """CPU time of the running workers, see `Loader`."""
        return sum(loader.worker_cpu_seconds for loader in self._loaders)

    def state_dict(self) -> dict[str, Any]:
        """Return what continues this loader, JSON types only."""
        return self.state_at(self.next_batch)

    def state_at(self, next_batch: int) -> dict[str, Any]:
        """Return what continues with the step that batch `next_batch` of this rank begins."""
        skipped = next((s for number, s in reversed(self._before) if number == next_batch), self.skipped)
        step = next_batch // self.batches_per_step
        drawn = drawn_before(self._turns, step * self.draws)
        anchors = [part.plan.anchor(number) for part, number in zip(self._parts, drawn, strict=True)]
        return {
            "next_step": step,
            "skipped": dict(skipped),
            "anchors": anchors if any(anchors) else [],
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, possibly with another number of ranks.

        Raises:
            CheckpointError: it comes from other data, another seed or other settings of what is drawn.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                hint = f" (data.mixture.draws={state[name]})" if state.get(name) and name == "draws" else ""
                raise CheckpointError(
                    f"loader state: {name} is {state.get(name)!r} in the checkpoint and {value!r} now; use "
                    f"the same data and mixture settings{hint}, or start a new run"
                )
        self.close()
        self.next_batch = int(state["next_step"]) * self.batches_per_step
        self.skipped = Counter(state["skipped"])
        self._before.clear()
        for part, anchor in zip(self._parts, state.get("anchors", []), strict=False):
            part.plan.start(anchor)

    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprints,
            "seed": self._seed,
            "sources": self.names,
            "draw": self._mixture.draw,
            "rule": self._mixture.rule,
            "draws": self.draws,
            "quotas": self._turns.quotas.tolist(),
            "plans": [part.plan.identity() for part in self._parts],
        }

    def close(self) -> None:
        """End the workers and wait for them; iterating again starts new ones."""
        self._turn += 1
        for loader in self._loaders:
            loader.close()


class _Part:
    """The batches of one source that a rank reads, numbered from where an iteration began."""

    def __init__(self, plan: Plan, loader: DrawLoader, source: int) -> None:
        self.plan, self._loader, self._source = plan, loader, source
        self.batches_per_epoch = plan.batches_per_epoch
        self._next = 0
        self._numbers: list[int] = []

    def begin(self, batch: int) -> None:
        """Count from a batch of the rank on."""
        self._next, self._numbers = batch, []

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return what the rank reads of the source's batch that comes `number` after the beginning."""
        while len(self._numbers) <= number:
            units = [self._loader.unit(batch) for batch in range(self._next, self._next + _AT_ONCE)]
            self._next += _AT_ONCE
            pairs = zip(*self._loader.source_of(units), strict=True)
            self._numbers += [drawn for source, drawn in pairs if source == self._source]
        found = self.plan.batch(self._numbers[number], rank, world)
        # Positions of a source's own plan are unique within it; these are unique over all.
        positions = found.positions * len(self._loader.names) + self._source
        return replace(found, positions=positions)

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to go on."""
        return self.plan.identity()

    def anchor(self, number: int) -> dict[str, Any]:
        """Return nothing: the loader of all sources keeps anchors itself."""
        return {}

    def start(self, anchor: dict[str, Any]) -> None:
        """Take nothing."""


def _own_configs(
    sources: "Mapping[str, Selection]", config: DataConfig, turns: Turns, world: int
) -> list[DataConfig]:
    """Return the settings of each source, with its share of workers and of the memory for pictures."""
    known, samples = source_configs(config), sum(map(len, sources.values()))
    found = []
    for number, (name, selection) in enumerate(sources.items()):
        own = source_data(config, name)
        if own.loader.batch_size < world:
            raise DataError(
                f"data.sources.{name}.batch_size = {own.loader.batch_size}: expected at least one sample a "
                f"rank ({world})"
            )
        changes: dict[str, Any] = {}
        if own.loader.workers == config.loader.workers:
            part = float(turns.quotas[number]) / turns.length
            changes["workers"] = max(round(own.loader.workers * part), min(own.loader.workers, 1))
        if own.loader.cache_mb == config.loader.cache_mb:
            changes["cache_mb"] = own.loader.cache_mb * len(selection) // max(samples, 1)
        label = {name: SourceConfig(task=known[name].task)}
        found.append(own.with_(sources=label, loader=own.loader.with_(**changes)))
    return found


def make_loader(
    sources: "Mapping[str, Selection]",
    config: DataConfig,
    tokenizer: Tokenizer | None,
    *,
    seed: int,
    rank: int = 0,
    world: int = 1,
    facts: Sequence[str] = (),
    wordless: Collection[str] = (),
) -> Loader | DrawLoader:
    """Return the loader that `data.mixture.draw` asks for."""
    kind = Loader if config.mixture.draw == "samples" else DrawLoader
    return kind(sources, config, tokenizer, seed=seed, rank=rank, world=world, facts=facts, wordless=wordless)

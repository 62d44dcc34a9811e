"""Which samples make up batch k, and which of them a rank reads. n samples."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diptych.data.order import Order

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Samples of a batch, or of a rank's slice of it."""

    sources: Int64
    """[n] number of the source (selection) that each sample comes from."""
    rows: Int64
    """[n] its number in that selection."""
    positions: Int64
    """[n] unique in a run: seeds what is random about the sample."""
    packs: Int64 | None = None
    """[n] ascending from 0: the packed sequence that each sample goes into; None without packing."""


class Plan(Protocol):
    """Batch number -> samples, a pure function of the data, the settings and the seed.

    What the ranks read of a batch adds up to the same batch for any number of ranks.
    """

    batches_per_epoch: float
    """Global batches in which as many samples are seen as there are; an estimate where batches vary."""

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return what a rank reads of a batch; any number may be asked for, ascending ones are cheap."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to go on, in JSON types."""
        ...

    def anchor(self, number: int) -> dict[str, Any]:
        """Return what makes starting at batch `number` cheap, in JSON types (empty where it always is)."""
        ...

    def start(self, anchor: dict[str, Any]) -> None:
        """Use what `anchor` returned, possibly in another process and with other ranks."""
        ...


class Stream(Protocol):
    """Samples without end, one after another."""

    size: int
    """Positions in which as many samples are seen as there are."""

    def at(self, positions: Int64) -> tuple[Int64, Int64]:
        """Return the source and its sample at each position >= 0; all [n] int64."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to go on, in JSON types."""
        ...


class OneSource:
    """The stream of a single source."""

    def __init__(self, order: Order, settings: dict[str, Any] | None = None) -> None:
        """Use an order; `settings` are what it depends on and cannot tell itself (JSON types)."""
        self.order, self.size = order, order.size
        self._settings = settings or {}

    def at(self, positions: Int64) -> tuple[Int64, Int64]:
        """Return source 0 and the samples of the order."""
        return np.zeros_like(positions), self.order.at(positions)

    def identity(self) -> dict[str, Any]:
        """Return the settings of the order."""
        return {**self.order.identity(), **self._settings}


def slice_of(count: int, rank: int, world: int) -> tuple[int, int]:
    """Return first and last + 1 of the part of `count` things that a rank takes."""
    return count * rank // world, count * (rank + 1) // world


class PositionPlan:
    """Batches of equal size: batch k holds positions k * B to (k + 1) * B - 1 of a stream."""

    def __init__(self, stream: Stream | Order, batch_size: int) -> None:
        self.stream: Stream = OneSource(stream) if isinstance(stream, Order) else stream
        self.batch_size = batch_size
        self.batches_per_epoch = self.stream.size / batch_size

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return a rank's slice."""
        first, last = slice_of(self.batch_size, rank, world)
        start = number * self.batch_size
        positions = np.arange(start + first, start + last, dtype=np.int64)
        sources, rows = self.stream.at(positions)
        return Drawn(sources, rows, positions)

    def identity(self) -> dict[str, Any]:
        """Return the batch size and what the stream depends on."""
        return {"batch_size": self.batch_size, **self.stream.identity()}

    def anchor(self, number: int) -> dict[str, Any]:
        """Return nothing: arithmetic needs no help."""
        return {}

    def start(self, anchor: dict[str, Any]) -> None:
        """Take nothing."""

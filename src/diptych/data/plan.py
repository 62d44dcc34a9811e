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


class PositionPlan:
    """One source and batches of equal size: batch k holds positions k * B to (k + 1) * B - 1 of an order."""

    def __init__(self, order: Order, batch_size: int) -> None:
        self.order, self.batch_size = order, batch_size
        self.batches_per_epoch = order.size / batch_size

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return a rank's slice."""
        start = number * self.batch_size
        first, last = (start + self.batch_size * r // world for r in (rank, rank + 1))
        positions = np.arange(first, last, dtype=np.int64)
        return Drawn(np.zeros_like(positions), self.order.at(positions), positions)

    def identity(self) -> dict[str, Any]:
        """Return the batch size; the order's own settings are the loader's business."""
        return {"batch_size": self.batch_size}

    def anchor(self, number: int) -> dict[str, Any]:
        """Return nothing: arithmetic needs no help."""
        return {}

    def start(self, anchor: dict[str, Any]) -> None:
        """Take nothing."""

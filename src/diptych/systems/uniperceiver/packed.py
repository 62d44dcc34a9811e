"""Targets of many lengths as one sequence without padding: those of equal length lie beside each other.

Legend: C targets, N tokens of all, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from diptych.systems.protocol import TargetRows


class Packing:
    """How rows of tokens lie in one long sequence.

    Attributes:
        ids: [N] int64, shortest rows first.
        positions: [N] int64, of each token in its row.
        shapes: number and length (with what is put in front) of the sequences of each length.
        starts: [C] int64, where each sequence begins, in packed order.
        back: [C] int64: row i of the targets is the `back[i]`-th in packed order.
    """

    def __init__(self, rows: TargetRows, front: int) -> None:
        """Arrange rows; each gets `front` tokens more in front of it."""
        device = rows.ids.device
        self.order = rows.lengths.argsort(stable=True)
        packed = rows.take(self.order)
        self.ids = packed.ids
        lengths, counts = torch.unique_consecutive(packed.lengths, return_counts=True)
        self._counts, self._lengths = counts.tolist(), lengths.tolist()
        self.shapes = tuple(
            (n, front + length) for n, length in zip(*(self._counts, self._lengths), strict=True)
        )
        self.positions = torch.cat(
            [torch.arange(length).repeat(n) for n, length in zip(self._counts, self._lengths, strict=True)]
        ).to(device)
        whole = packed.lengths + front
        self.starts = (whole.cumsum(0) - whole).to(device)
        self.back = torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(rows))).to(device)

    def groups(self) -> Iterator[Tensor]:
        """Yield which targets [n] have each length."""
        yield from torch.split(self.order, self._counts)

    def words(self, embedded: Tensor) -> Iterator[Tensor]:
        """Yield embedded tokens [N, D] by length, [n, length, D]."""
        start = 0
        for n, length in zip(self._counts, self._lengths, strict=True):
            yield embedded[start : start + n * length].view(n, length, -1)
            start += n * length

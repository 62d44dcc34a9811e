"""A batch and a split shared by the ranks of a test, in parts of unequal size."""

from collections.abc import Iterator, Sequence

import torch

from diptych.blocks.collective import World
from diptych.data.batch import Batch
from diptych.systems.task import EvalData


def part_of(batch: Batch, world: World, sizes: Sequence[int]) -> Batch:
    """Return the samples of this rank; `sizes` are those of the parts."""
    if world.size == 1:
        return batch
    return batch.take(torch.arange(len(batch)).split(list(sizes))[world.rank])


def data_of(whole: Batch, world: World, sizes: Sequence[int]) -> EvalData:
    """Return a split in batches of two samples."""

    def of(batch: Batch) -> EvalData:
        def batches() -> Iterator[Batch]:
            for rows in torch.arange(len(batch)).split(2):
                yield batch.take(rows)

        return EvalData("toy", "test", len(batch), batches)

    data = of(whole)
    if world.size == 1:
        return data
    part = of(part_of(whole, world, sizes))
    return EvalData(data.dataset, data.split, data.size, data.batches, world=world, part=part)

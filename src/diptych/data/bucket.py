"""Batches of pictures of similar shape. n samples of a window, N of a selection."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.data.budget import Costs, Cut
from diptych.data.order import Int64, keys_of, permute
from diptych.data.plan import Drawn
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

SQUARE = 1 << 20
"""Code of a picture that is as wide as high; larger ones lie, the others stand."""
_LARGEST = 1 << 30
_KEPT_EPOCHS = 2


def shape_codes(selection: "Selection") -> Costs:
    """Return width / height of each sample of a selection as a whole number, [N] int32, times SQUARE.

    Raises:
        DataError: the index does not tell the sizes of all pictures.
    """
    width, height = (
        np.asarray([np.nan if v is None else v for v in selection.column(name)], dtype=np.float64)
        if name in selection.columns
        else np.full(len(selection), np.nan)
        for name in ("width", "height")
    )
    lacking = np.isnan(width) | np.isnan(height) | (height < 1)
    if lacking.any():
        raise DataError(
            f"data.loader.bucket: {int(lacking.sum())} samples of {selection.dataset.name} have no width and "
            "height; leave them out with data.where = 'width is not null'"
        )
    found: Costs = np.clip(np.round(width / height * SQUARE), 1, _LARGEST).astype(np.int32)
    # A picture that is hardly wider than high must not be rounded to a square.
    found[(width > height) & (found <= SQUARE)] = SQUARE + 1
    return found


class ShapeCutter:
    """Cuts windows into batches that never mix lying and standing pictures; squares count as standing.

    The batches of a group in a window are as few as `batch_size` allows and equally large, give or take one:
    a rest of one picture would be a batch of its own. Only where a group has fewer than `least` samples does
    it join the other one, and only where batches would have fewer are they larger than `batch_size`; no
    other batch depends on `least`, and so on the number of ranks.
    """

    def __init__(self, seed: int, batch_size: int, *, sort: bool, least: int) -> None:
        self.seed, self.batch_size, self.sort, self.least = seed, batch_size, sort, max(least, 1)

    def __call__(self, costs: Int64, window: int) -> list[Cut]:
        """Return the batches of a window in random order."""
        groups = [np.flatnonzero(costs <= SQUARE), np.flatnonzero(costs > SQUARE)]
        if min(map(len, groups)) < self.least:
            groups = [np.arange(len(costs))]
        found = [members for group in groups for members in self._cut(group, costs)]
        numbers = np.arange(len(found), dtype=np.int64)
        keys = keys_of(self.seed, 10, numbers * 0 + window)
        mixed = permute(numbers, np.full_like(numbers, len(found)), keys)
        return [Cut(found[i]) for i in mixed.tolist()]

    def _cut(self, group: Int64, costs: Int64) -> list[Int64]:
        if self.sort:
            group = group[np.argsort(costs[group], kind="stable")]
        count = max(1, min(-(-len(group) // self.batch_size), len(group) // self.least))
        return [part for part in np.array_split(group, count) if len(part)]


def published_groups(lying: NDArray[np.bool_], batch: int, world: int, epoch: int) -> NDArray[np.int64]:
    """Return the samples of each rank in an epoch, [world, n] int64, as SOHO's sampler draws them.

    Each group (standing, lying) is permuted, filled up with its first samples to a multiple of
    `batch * world`, and cut into batches; these are permuted and dealt out in a row. torch's generator is
    seeded with the epoch alone.

    Args:
        lying: [N] which pictures are wider than high.
        batch: samples of a rank's batch.
        world: ranks.
        epoch: from 0.
    """
    generator = torch.Generator().manual_seed(epoch)
    whole = []
    for flag in (False, True):
        members = np.flatnonzero(lying == flag)
        if len(members):
            mixed = members[torch.randperm(len(members), generator=generator).numpy()]
            wanted = -(-len(members) // (batch * world)) * batch * world
            whole.append(np.resize(mixed, wanted))
    batches = np.concatenate(whole).reshape(-1, batch)
    dealt = batches[torch.randperm(len(batches), generator=generator).numpy()]
    found: NDArray[np.int64] = dealt.reshape(world, -1)
    return found


class PublishedGroups:
    """The plan of `published_groups`: batch k of the ranks is their k-th one in the epoch."""

    def __init__(self, selection: "Selection", batch_size: int, world: int) -> None:
        """Read the shapes.

        Raises:
            DataError: the index does not tell them, or the batch cannot be cut into equal parts.
        """
        if batch_size % world:
            raise DataError(
                f"data.loader.batch_size = {batch_size} with data.loader.bucket = published: expected a "
                f"multiple of the number of ranks, {world}"
            )
        self._lying = shape_codes(selection) > SQUARE
        self._batch, self._world = batch_size // world, world
        counts = [int(self._lying.sum()), int((~self._lying).sum())]
        self._each = sum(-(-count // batch_size) for count in counts)
        self.batches_per_epoch = float(self._each)
        self._epochs: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return a rank's slice; for the number of ranks that the plan was made for, or all of it."""
        epoch, step = divmod(number, self._each)
        if epoch not in self._epochs:
            self._epochs[epoch] = published_groups(self._lying, self._batch, self._world, epoch)
            while len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        ranks = range(self._world) if world == 1 else [rank]
        parts = [self._epochs[epoch][r, step * self._batch : (step + 1) * self._batch] for r in ranks]
        rows = np.concatenate(parts)
        first = number * self._batch * self._world + (0 if world == 1 else rank * self._batch)
        return Drawn(np.zeros_like(rows), rows, first + np.arange(len(rows), dtype=np.int64))

    def identity(self) -> dict[str, Any]:
        """Return the batch size and the number of ranks, which the order depends on."""
        return {"batch_size": self._batch * self._world, "bucket": "published", "ranks": self._world}

    def anchor(self, number: int) -> dict[str, Any]:
        """Return nothing: an epoch is drawn in one go."""
        return {}

    def start(self, anchor: dict[str, Any]) -> None:
        """Take nothing."""

"""An order for shards that are far away: whole runs of samples are shuffled, and mixed a few at a time."""

from typing import Any

import numpy as np

from diptych.data.order import Int64, Order, keys_of, permute


class BlockedOrder(Order):
    """Blocks of consecutive samples in random order; the samples of `window` blocks are mixed.

    A reader that keeps the shards of a window finds every sample there, so that a shard is fetched once an
    epoch (twice where the edge of a block cuts it). The larger the window, the closer to a full shuffle: one
    window over all blocks is one. Every epoch is a permutation of [0, size); memory is O(1).

    The last block of the selection may be shorter than the others. It takes a place like every other one.
    """

    def __init__(self, size: int, seed: int, *, block_size: int, window: int) -> None:
        super().__init__(size, seed)
        if block_size < 1 or window < 1:
            raise ValueError(f"expected blocks and windows of at least 1, got {block_size} and {window}")
        self.block_size, self.window = block_size, window
        self.blocks = -(-size // block_size)
        self._hole = self.blocks * block_size - size

    def at(self, positions: Int64) -> Int64:
        """Return the sample index at each global position; int64 in and out, any shape."""
        flat = np.asarray(positions, dtype=np.int64).reshape(-1)
        epochs, offsets = np.divmod(flat, self.size)
        # The place that the short block has in the order of the blocks of an epoch.
        short = (keys_of(self.seed, 7, epochs) % np.uint64(self.blocks)).astype(np.int64)
        window = self._filled(offsets, short) // (self.window * self.block_size)
        start, end = (self._start(window + i, short) for i in (0, 1))
        mixed = start + permute(offsets - start, end - start, keys_of(self.seed, 6, epochs, window))
        place, inside = np.divmod(self._filled(mixed, short), self.block_size)
        block = np.full_like(place, self.blocks - 1)
        others = place != short
        rank = (place - (place > short))[others]
        full = np.full_like(rank, self.blocks - 1)
        block[others] = permute(rank, full, keys_of(self.seed, 5, epochs[others]))
        found: Int64 = (block * self.block_size + inside).reshape(np.shape(positions))
        return found

    def _filled(self, offsets: Int64, short: Int64) -> Int64:
        """Return where offsets of an epoch would be if the short block were as long as the others."""
        end = (short + 1) * self.block_size - self._hole
        return offsets + self._hole * (offsets >= end)

    def _start(self, window: Int64, short: Int64) -> Int64:
        """Return the first offset of a window, or of what follows the last."""
        block = np.minimum(window * self.window, self.blocks)
        start: Int64 = block * self.block_size - self._hole * (short < block)
        return start

    def identity(self) -> dict[str, Any]:
        """Return the settings that the order depends on besides size and seed."""
        return {**super().identity(), "block_size": self.block_size, "block_window": self.window}

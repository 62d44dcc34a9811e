"""Which sample comes when: a pure function of (seed, position), the same in every process.

Also the source of per-sample randomness: `uniforms(seed, positions, ...)`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6


def _mix(values: UInt64) -> UInt64:
    """Scramble an array of 64-bit words: the finaliser of SplitMix64 (wraps around on purpose)."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keys_of(seed: int, *words: Any) -> UInt64:
    """Fold a seed and further words (numbers or arrays of them) into one key each.

    The first word tells apart what the keys are for; those in use: 1 samples, 2 to 4 groups, 5 to 7 blocks,
    8 sources of a cycle, 9 batches of a window, 10 sequences of a window, 11 seeds of sources.
    """
    key: UInt64 = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    for word in words:
        key = _mix(key ^ _mix(np.atleast_1d(word).astype(np.uint64)))
    return key


def permute(values: Int64, sizes: Int64, keys: UInt64) -> Int64:
    """Map each value in [0, size) by the permutation of [0, size) that its key names; all arrays [N].

    A Feistel network over just enough bits for the size; values that land outside walk on along their cycle
    until they land inside, which keeps the map one-to-one. Fewer than two rounds of walking on average.
    """
    bits = np.ceil(np.log2(np.maximum(sizes, 2).astype(np.float64))).astype(np.uint64)
    # log2 is exact enough up to 2**52; one more bit costs a walk, one too few would break the permutation.
    bits += (np.left_shift(np.int64(1), bits.astype(np.int64)) < sizes).astype(np.uint64)
    low_bits = bits - bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits // np.uint64(2))) - np.uint64(1)
    result = values.astype(np.uint64)
    limit = sizes.astype(np.uint64)
    active = np.arange(len(result))
    while len(active):
        low, high = result[active] & low_mask[active], result[active] >> low_bits[active]
        for turn in range(_ROUNDS):
            if turn % 2:
                high ^= _mix(low ^ _mix(keys[active] ^ np.uint64(turn))) & high_mask[active]
            else:
                low ^= _mix(high ^ _mix(keys[active] ^ np.uint64(turn))) & low_mask[active]
        moved = (high << low_bits[active]) | low
        result[active] = moved
        active = active[moved >= limit[active]]
    return result.astype(np.int64)


def derived(seed: int, name: str) -> int:
    """Return another seed for something with a name, such as a source: independent of the other names."""
    letters = np.frombuffer(name.encode(), dtype=np.uint8)
    return int(keys_of(seed, 11, len(letters), *letters.tolist())[0] >> np.uint64(1))


def uniforms(seed: int, positions: Int64, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Return [N, count] numbers in [0, 1), a pure function of (seed, position, stream)."""
    keys = keys_of(seed, 0x756E69, stream, positions)
    words = _mix(keys[:, None] ^ _mix(np.arange(1, count + 1, dtype=np.uint64))[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Order:
    """The sample index at each global position p >= 0; epoch e holds positions [e * size, (e + 1) * size).

    Every epoch is a permutation of [0, size), another one for every seed. Memory is O(1), whatever the size.

    With `groups` (one value a sample; equal values belong together) and `group_size` m > 1, positions come in
    blocks of m that start at multiples of m within the epoch, and a block holds m samples of one group. What
    is left of a group whose number of members is no multiple of m (other members each epoch) fills blocks
    together with what is left of others. Still every sample once an epoch; memory is then O(size): two words
    a sample.

    Batches hold whole blocks if m divides both the batch size and the size; where it does not divide the size
    blocks of later epochs begin at other remainders and the outermost of a batch may be cut.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        shuffle: bool = True,
        *,
        groups: Sequence[Any] | NDArray[Any] | None = None,
        group_size: int = 1,
    ) -> None:
        if size < 1:
            raise ValueError(f"an order needs at least one sample, got {size}")
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self._grouped = _Groups(groups, group_size) if groups is not None and group_size > 1 else None

    def epoch(self, position: int) -> int:
        """Return the epoch that `position` belongs to."""
        return position // self.size

    def at(self, positions: Int64) -> Int64:
        """Return the sample index at each global position; int64 in and out, any shape."""
        flat = np.asarray(positions, dtype=np.int64).reshape(-1)
        epochs, offsets = np.divmod(flat, self.size)
        if self._grouped is not None:
            found = self._grouped.at(offsets, epochs, self.seed, self.shuffle)
        elif self.shuffle:
            found = permute(offsets, np.full_like(offsets, self.size), keys_of(self.seed, 1, epochs))
        else:
            found = offsets
        return found.reshape(np.shape(positions))

    def identity(self) -> dict[str, Any]:
        """Return the settings that the order depends on besides size, seed and groups, in JSON types."""
        return {"shuffle": self.shuffle}


class _Groups:
    """Blocks of m members of one group; see `Order`."""

    def __init__(self, groups: Sequence[Any] | NDArray[Any], group_size: int) -> None:
        _, labels = np.unique(np.asarray(groups), return_inverse=True)
        self.members: Int64 = np.argsort(labels, kind="stable").astype(np.int64)
        counts = np.bincount(labels).astype(np.int64)
        starts = np.cumsum(counts) - counts
        m = group_size
        self.m = m
        self.counts, self.starts = counts, starts
        # Full block b is block `b - first_block[g]` of its group g.
        full = counts // m
        self.block_group = np.repeat(np.arange(len(counts)), full)
        self.first_block = np.cumsum(full) - full
        # What is left: runs of 1 .. m - 1 members, longest first, so that they seldom straddle a block.
        left = counts % m
        by_length = np.argsort(-left, kind="stable")
        self.run_group = by_length[left[by_length] > 0]
        run_length = left[self.run_group]
        self.run_end = np.cumsum(run_length)
        self.run_length = run_length

    def at(self, offsets: Int64, epochs: Int64, seed: int, shuffle: bool) -> Int64:
        size, m = len(self.members), self.m
        whole = size // m
        block, inside = np.divmod(offsets, m)
        if shuffle and whole:
            # The last block, if it is short, stays last: every other block starts at a multiple of m.
            movable = block < whole
            keys = keys_of(seed, 2, epochs[movable])
            block[movable] = permute(block[movable], np.full(movable.sum(), whole), keys)
        group = np.empty_like(offsets)
        rank = np.empty_like(offsets)
        full = block < len(self.block_group)
        group[full] = self.block_group[block[full]]
        rank[full] = (block[full] - self.first_block[group[full]]) * m + inside[full]
        group[~full], rank[~full] = self._left(block[~full], inside[~full], epochs[~full], seed, shuffle)
        if shuffle:
            rank = permute(rank, self.counts[group], keys_of(seed, 4, epochs, group))
        found: Int64 = self.members[self.starts[group] + rank]
        return found

    def _left(
        self, block: Int64, inside: Int64, epochs: Int64, seed: int, shuffle: bool
    ) -> tuple[Int64, Int64]:
        """Return group and rank within the group of places in the blocks made of what is left."""
        place = (block - len(self.block_group)) * self.m + inside
        run = np.searchsorted(self.run_end, place, side="right")
        length = self.run_length[run]
        offset = place - (self.run_end[run] - length)
        if shuffle and len(run):
            # Runs change places only with runs of their own length (they are neighbours, longest first).
            first = np.searchsorted(-self.run_length, -length, side="left")
            last = np.searchsorted(-self.run_length, -length, side="right")
            run = first + permute(run - first, last - first, keys_of(seed, 3, epochs, length))
        group = self.run_group[run]
        return group, self.counts[group] - length + offset

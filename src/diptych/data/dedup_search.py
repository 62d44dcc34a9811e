"""All pairs of 64-bit hashes that differ in few bits, without comparing each with each.

Of B bands of bits, d differing bits leave B - d bands equal: hashes within d bits agree in some choice of
B - d bands, so sorting by each choice brings them side by side. Nothing is missed (Manku, Jain and Das Sarma,
"Detecting near-duplicates for web crawling", 2007). U hashes, P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from diptych.errors import UsageError

Codes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

BITS = 64
MAX_DISTANCE = 12
"""More than every fifth bit differing says nothing, and takes long."""
_MOST_BANDS = 16
_BLOCK = 1 << 22
"""Pairs that are compared at a time."""
_PER_SORT = 25.0
"""What sorting costs a hash, in comparisons of pairs."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of hashes, ascending by first and second. P pairs."""

    first: Numbers
    """[P] numbers of hashes."""
    second: Numbers
    """[P] each larger than `first`."""
    distance: NDArray[np.uint8]
    """[P] differing bits."""


def near_pairs(hashes: Codes, distance: int, border: int | None = None) -> NearPairs:
    """Return all pairs of hashes that differ in at most `distance` bits; exact.

    Memory grows with the pairs found: give each hash once.

    Args:
        hashes: [U] uint64.
        distance: 0 to 12.
        border: return only pairs of one of the first `border` hashes and one of the others.

    Raises:
        UsageError: a distance out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"distance: expected 0 to {MAX_DISTANCE} bits, got {distance}")
    codes = np.empty(0, dtype=np.uint64)
    for mask in _masks(len(hashes), distance):
        new = [codes]
        for a, b in _equal_pairs(hashes & mask, border):
            close = np.bitwise_count(hashes[a] ^ hashes[b]) <= distance
            new.append(a[close].astype(np.uint64) << np.uint64(32) | b[close].astype(np.uint64))
        # A pair turns up at every choice of bands in which it agrees.
        codes = np.unique(np.concatenate(new))
    first = (codes >> np.uint64(32)).astype(np.int64)
    second = (codes & np.uint64(2**32 - 1)).astype(np.int64)
    return NearPairs(first, second, np.bitwise_count(hashes[first] ^ hashes[second]))


def _masks(count: int, distance: int) -> Iterator[np.uint64]:
    """Yield the bits by which hashes are sorted, as few times as pays off for so many hashes."""
    if not distance:
        yield np.uint64(2**BITS - 1)
        return

    def cost(kept: int) -> float:
        bands = distance + kept
        return comb(bands, kept) * (_PER_SORT + count / 2 ** (1 + BITS * kept / bands))

    kept = min(range(1, max(_MOST_BANDS - distance, 1) + 1), key=cost)
    bands = distance + kept
    # Neighbouring bits are neighbouring places of a picture and often alike: each band is spread over all.
    masks = [sum(1 << bit for bit in range(band, BITS, bands)) for band in range(bands)]
    for chosen in combinations(masks, kept):
        yield np.uint64(sum(chosen))


def _equal_pairs(keys: Codes, border: int | None) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield blocks of pairs (a < b) of equal keys."""
    if border is None:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        start = np.arange(1, len(keys) + 1)
        end = np.searchsorted(ordered, ordered, side="right")
        yield from _expand(order, order, start, end)
    else:
        order = np.argsort(keys[:border], kind="stable")
        ordered = keys[:border][order]
        start = np.searchsorted(ordered, keys[border:], side="left")
        end = np.searchsorted(ordered, keys[border:], side="right")
        yield from _expand(np.arange(border, len(keys)), order, start, end)


def _expand(
    ones: Numbers, others: Numbers, start: Numbers, end: Numbers
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield ones[i] with each of others[start[i]:end[i]], the smaller number first, in blocks."""
    used = np.flatnonzero(end > start)
    ones, start, counts = ones[used], start[used], (end - start)[used]
    ends = np.cumsum(counts)
    low = 0
    while low < len(ones):
        done = ends[low - 1] if low else 0
        high = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), low + 1)
        n = counts[low:high]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        a, b = np.repeat(ones[low:high], n), others[np.repeat(start[low:high], n) + within]
        yield np.minimum(a, b), np.maximum(a, b)
        low = high


def leaders(pairs: NearPairs, count: int) -> tuple[Numbers, NDArray[np.uint8]]:
    """Choose which hashes stay: each, in their order, that is not near one that stays.

    Returns:
        [U] the first one that stays and is near (itself, if it stays), and [U] the differing bits.
    """
    leader = np.arange(count)
    bits = np.zeros(count, dtype=np.uint8)
    edges = np.flatnonzero(np.diff(pairs.first, prepend=-1, append=count))
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        one = pairs.first[low]
        if leader[one] != one:
            continue
        others = pairs.second[low:high]
        free = leader[others] == others
        leader[others[free]] = one
        bits[others[free]] = pairs.distance[low:high][free]
    return leader, bits

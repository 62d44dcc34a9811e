"""Several sources in one stream of batches: shares, the source of each draw, and batches of several parts.

S sources. A *unit* is what draws a source: a sample, or a part of a batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.order import Int64, Order, keys_of, permute
from diptych.data.plan import Drawn, Plan, slice_of
from diptych.errors import ConfigError, DataError

KEPT_CYCLES = 4
"""Cycles whose tables a process keeps."""


def shares(
    sizes: Sequence[int], weights: Sequence[float | None], caps: Sequence[int], temperature: float
) -> NDArray[np.float64]:
    """Return the share [S] of what is drawn that each source has; they add up to 1.

    Args:
        sizes: samples of each source.
        weights: share of a source; sources without one (None) divide what the others leave in proportion to
            min(size, cap)^(1/temperature). If all have one, only their ratios count.
        caps: largest size that counts for that, 0: no limit.
        temperature: above 0.

    Raises:
        ConfigError: the weights leave nothing for the sources without one, or are all 0.
    """
    counted = np.array([min(n, cap or n) for n, cap in zip(sizes, caps, strict=True)], dtype=np.float64)
    given = np.array([0.0 if w is None else w for w in weights])
    free = np.array([w is None for w in weights])
    if not free.any():
        if given.sum() <= 0:
            raise ConfigError("data.sources: all weights are 0; give at least one source a weight above 0")
        normed: NDArray[np.float64] = given / given.sum()
        return normed
    left = 1.0 - given.sum()
    if left <= 0:
        raise ConfigError(
            f"data.sources: the weights add up to {given.sum():g} and leave nothing for the sources without "
            "one; lower them below 1 in sum, or give every source a weight"
        )
    # By the largest, so that huge sizes and small temperatures stay finite.
    by_size = np.where(free, (counted / counted[free].max()) ** (1.0 / temperature), 0.0)
    found: NDArray[np.float64] = given + left * by_size / by_size.sum()
    return found


def quotas(wanted: NDArray[np.float64], cycle: int) -> Int64:
    """Return whole numbers [S] of at least 1 that add up to `cycle` close to the shares `wanted` [S].

    Largest remainders get what rounding down leaves over; what sources below 1 get is taken from those that
    are furthest above their share.

    Raises:
        ConfigError: more sources than units in a cycle.
    """
    if len(wanted) > cycle:
        raise ConfigError(
            f"data.mixture.cycle = {cycle}, but there are {len(wanted)} sources, each of which is drawn at "
            "least once a cycle; raise it"
        )
    exact = wanted * cycle
    # The small number keeps a share like 0.29 * 100 = 28.999999999999996 whole.
    found = np.maximum(np.floor(exact + 1e-9).astype(np.int64), 1)
    while found.sum() < cycle:
        found[np.argmax(exact - found)] += 1
    while found.sum() > cycle:
        found[np.argmax(np.where(found > 1, found - exact, -np.inf))] -= 1
    return found


class Cycle:
    """The source of every unit u >= 0, and which draw of that source it is: a pure function of (seed, u).

    In each cycle of `quotas.sum()` units source s is drawn exactly `quotas[s]` times, in random order. The
    draws of a source are numbered 0, 1, 2, ... in the order in which they come. Memory and time do not depend
    on how far the run is.
    """

    def __init__(self, quotas: Int64, seed: int) -> None:
        self.quotas = np.asarray(quotas, dtype=np.int64)
        self.length = int(self.quotas.sum())
        self.seed = seed
        self._ends = np.cumsum(self.quotas)
        self._tables: dict[int, tuple[Int64, Int64]] = {}

    def at(self, units: Int64) -> tuple[Int64, Int64]:
        """Return the source [n] of units [n], and how often that source was drawn before [n]."""
        sources, numbers = np.empty_like(units), np.empty_like(units)
        cycles, offsets = np.divmod(units, self.length)
        for cycle in np.unique(cycles).tolist():
            here = cycles == cycle
            source, rank = self._table(cycle)
            sources[here] = source[offsets[here]]
            numbers[here] = cycle * self.quotas[sources[here]] + rank[offsets[here]]
        return sources, numbers

    def _table(self, cycle: int) -> tuple[Int64, Int64]:
        """Return the source of each unit of a cycle, and its rank among the cycle's units of that source."""
        if cycle not in self._tables:
            units = np.arange(self.length, dtype=np.int64)
            mixed = permute(units, np.full_like(units, self.length), keys_of(self.seed, 8, units * 0 + cycle))
            source = np.searchsorted(self._ends, mixed, side="right").astype(np.int64)
            rank = np.empty_like(units)
            rank[np.argsort(source, kind="stable")] = units
            rank -= (self._ends - self.quotas)[source]
            if len(self._tables) >= KEPT_CYCLES:
                del self._tables[next(iter(self._tables))]
            self._tables[cycle] = (source, rank)
        return self._tables[cycle]


class MixedStream:
    """Samples of several sources, each of which draws its source: the stream for parts = 0.

    Every source is walked through in its own order: each of its samples once in its own epoch.
    """

    def __init__(self, orders: Sequence[Order], cycle: Cycle, settings: dict[str, Any]) -> None:
        """Use one order a source; `settings` are what a run may not change, in JSON types."""
        self.orders, self.cycle, self._settings = list(orders), cycle, settings
        self.size = sum(order.size for order in orders)

    def at(self, positions: Int64) -> tuple[Int64, Int64]:
        """Return source and sample of each position [n]."""
        sources, numbers = self.cycle.at(positions)
        rows = np.empty_like(numbers)
        for source in np.unique(sources).tolist():
            here = sources == source
            rows[here] = self.orders[source].at(numbers[here])
        return sources, rows

    def identity(self) -> dict[str, Any]:
        """Return names and quotas of the sources, and the settings of their orders."""
        return {**self._settings, "quotas": self.cycle.quotas.tolist()}


class PartsPlan:
    """Batches of `parts` equal parts, each of which is a small batch of one source's own plan.

    The number of ranks divides that of the parts, or the other way round, so that the ranks' parts are whole
    or a part is shared by several ranks.
    """

    def __init__(self, plans: Sequence[Plan], cycle: Cycle, parts: int, settings: dict[str, Any]) -> None:
        """Use one plan a source, over source 0; `settings` are what a run may not change, in JSON types."""
        self.plans, self.cycle, self.parts, self._settings = list(plans), cycle, parts, settings
        # A source's batches are parts here. Over a cycle each source gives its quota of them.
        epochs = [plan.batches_per_epoch for plan in plans]
        self.batches_per_epoch = sum(epochs) / parts

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return a rank's parts, or its slice of the part it shares.

        Raises:
            DataError: neither of the numbers of ranks and parts divides the other.
        """
        check_parts(self.parts, world)
        sharing = max(world // self.parts, 1)
        first, last = slice_of(self.parts, rank // sharing, max(world // sharing, 1))
        sources, numbers = self.cycle.at(number * self.parts + np.arange(first, last, dtype=np.int64))
        drawn = [
            self._part(source, i, rank % sharing, sharing)
            for source, i in zip(sources.tolist(), numbers.tolist(), strict=True)
        ]
        return _joined(drawn)

    def _part(self, source: int, number: int, rank: int, world: int) -> Drawn:
        found = self.plans[source].batch(number, rank, world)
        # Positions of a source's own plan are unique within it; these are unique over all.
        positions = found.positions * len(self.plans) + source
        return Drawn(found.sources + source, found.rows, positions, found.packs)

    def identity(self) -> dict[str, Any]:
        """Return names and quotas of the sources and the settings of their plans."""
        return {**self._settings, "quotas": self.cycle.quotas.tolist(), "parts": self.parts}

    def anchor(self, number: int) -> dict[str, Any]:
        """Return the anchors of the sources' plans, where they have any."""
        drawn = self._drawn(number)
        anchors = [plan.anchor(i) for plan, i in zip(self.plans, drawn, strict=True)]
        return {"sources": anchors} if any(anchors) else {}

    def start(self, anchor: dict[str, Any]) -> None:
        """Hand each source's plan its anchor."""
        for plan, own in zip(self.plans, anchor.get("sources", []), strict=False):
            plan.start(own)

    def _drawn(self, number: int) -> list[int]:
        """Return how many parts each source has given before batch `number`."""
        cycles, rest = divmod(number * self.parts, self.cycle.length)
        before = np.arange(rest, dtype=np.int64) + cycles * self.cycle.length
        counts = np.bincount(self.cycle.at(before)[0], minlength=len(self.plans))
        drawn: list[int] = (counts + cycles * self.cycle.quotas).tolist()
        return drawn


def check_parts(parts: int, world: int) -> None:
    """Refuse a number of ranks that does not go with `data.mixture.parts`.

    Raises:
        DataError: neither divides the other.
    """
    if parts and world % parts and parts % world:
        raise DataError(
            f"data.mixture.parts = {parts} does not go with {world} ranks: one number must divide the other; "
            f"set it to {world} (each rank draws its own source), 1 or 0"
        )


def _joined(drawn: Sequence[Drawn]) -> Drawn:
    """Return parts as one batch; packed sequences are counted on from part to part."""
    packs: list[Int64] = []
    rows = 0
    for part in drawn:
        if part.packs is not None:
            packs.append(part.packs + rows)
            rows += int(part.packs[-1]) + 1
    return Drawn(
        np.concatenate([part.sources for part in drawn]),
        np.concatenate([part.rows for part in drawn]),
        np.concatenate([part.positions for part in drawn]),
        np.concatenate(packs) if packs else None,
    )

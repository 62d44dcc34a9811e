"""Which source each drawn batch is of, and how many of that source came before it. S sources.

A step has `draws` draws, numbered from 0 on through the whole run: draw u is number u mod draws of step
u // draws.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from diptych.data.config import DataConfig
from diptych.data.mixture import Cycle, quotas, shares
from diptych.data.order import Int64
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection


class Turns(Protocol):
    """Draw number -> source: a pure function of the settings and the seed."""

    quotas: Int64
    """[S] draws of each source in `length` draws."""
    length: int

    def at(self, units: Int64) -> tuple[Int64, Int64]:
        """Return the source [n] of draws [n], and how often that source was drawn before [n]."""
        ...


class Repeated:
    """Draws in an order that comes again and again."""

    def __init__(self, sources: Int64, count: int) -> None:
        """Take the source of each draw of a round [n], and the number of sources."""
        self._sources = np.asarray(sources, dtype=np.int64)
        self.length = len(self._sources)
        self.quotas = np.bincount(self._sources, minlength=count).astype(np.int64)
        self._rank = np.empty_like(self._sources)
        for source in range(count):
            here = self._sources == source
            self._rank[here] = np.arange(int(here.sum()))

    def at(self, units: Int64) -> tuple[Int64, Int64]:
        """Return the source [n] of draws [n], and how often that source was drawn before [n]."""
        rounds, offsets = np.divmod(np.asarray(units, dtype=np.int64), self.length)
        sources = self._sources[offsets]
        return sources, rounds * self.quotas[sources] + self._rank[offsets]


def draws_of(config: DataConfig, sources: int, world: int) -> int:
    """Return how many batches are drawn for a step, all ranks together.

    Raises:
        DataError: they cannot be dealt out to the ranks.
    """
    mixture = config.mixture
    if mixture.draw == "batches":
        return mixture.draws or (sources if mixture.rule == "fixed" else 1)
    draws = mixture.draws or world
    if draws % world:
        raise DataError(
            f"data.mixture.draws = {draws} does not go with {world} ranks, each of which takes as many whole "
            f"batches as the others; set it to a multiple of {world}"
        )
    return draws


def make_turns(sources: "Mapping[str, Selection]", config: DataConfig, draws: int, seed: int) -> Turns:
    """Return which sources are drawn (`data.mixture.rule`).

    Raises:
        ConfigError: weights that do not add up, or more sources than a cycle has room for.
    """
    count, mixture = len(sources), config.mixture
    if mixture.rule == "weights" and count > 1:
        known = [config.sources[name] for name in sources]
        wanted = shares(
            [len(selection) for selection in sources.values()],
            [source.weight for source in known],
            [source.cap for source in known],
            mixture.temperature,
        )
        return Cycle(quotas(wanted, mixture.cycle), seed)
    steps, numbers = np.divmod(np.arange(count * draws, dtype=np.int64), draws)
    order = {"turn": steps, "fixed": numbers, "shifted": steps + numbers}.get(mixture.rule, numbers)
    return Repeated(order % count, count)


def drawn_before(turns: Turns, unit: int) -> list[int]:
    """Return how often each source was drawn before a draw."""
    cycles, rest = divmod(unit, turns.length)
    before = np.arange(rest, dtype=np.int64) + cycles * turns.length
    counts = np.bincount(turns.at(before)[0], minlength=len(turns.quotas)) + cycles * turns.quotas
    found: list[int] = counts.tolist()
    return found

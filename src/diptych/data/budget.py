"""Batches of about equal cost: samples of a window are sorted by it and cut where a budget is full.

n samples of a window, N of a source.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.order import Int64, keys_of, permute
from diptych.data.plan import Drawn, Stream, slice_of
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.config import DataConfig
    from diptych.data.index import Selection

Costs = NDArray[np.int32]

LETTERS_PER_TOKEN = 4
PATCH = 16
"""Side of the patches that pictures are counted in, in pixels."""
KEPT_CUTS = 4
"""Windows whose batches a process remembers: read-ahead asks for batches of the next ones in between."""
KEPT_WINDOWS = 4096
"""Starts of windows that a process remembers, to go back without walking from the start."""
SAMPLED_WINDOWS = 8
"""Windows that the number of batches of an epoch is estimated from."""


def sample_costs(selection: "Selection", config: "DataConfig", by: str) -> Costs:
    """Return what each sample of a selection costs, [N] int32 of at least 1; `by` as `loader.budget_by`.

    Raises:
        DataError: no such column, one that holds no numbers, or numbers that are missing or too large.
    """
    if by == "text":
        known = "text_tokens" in selection.columns
        letters = _numbers(selection, "text_tokens" if known else "text_chars", missing=0)
        tokens = letters if known else np.ceil(letters / LETTERS_PER_TOKEN)
        # Two more for the tokens at both ends; longer texts are cut.
        costs = np.minimum(tokens + 2, config.text.max_tokens)
    elif by == "image":
        width, height = (_numbers(selection, name, missing=1) for name in ("width", "height"))
        costs = np.ceil(width / PATCH) * np.ceil(height / PATCH)
    elif by == "tiles":
        costs = _tile_costs(selection, config)
    elif by == "frames" and config.video.frames:
        costs = np.full(len(selection), config.video.frames, dtype=np.float64)
    else:
        costs = np.ceil(_numbers(selection, by, missing=1 if by == "frames" else None))
    if len(costs) and costs.max() > np.iinfo(np.int32).max:
        raise DataError(f"data.loader.budget_by = {by}: a sample costs {costs.max():g}; that is too much")
    found: Costs = np.maximum(costs, 1).astype(np.int32)
    return found


def _tile_costs(selection: "Selection", config: "DataConfig") -> NDArray[np.float64]:
    """Return how many views each picture becomes, [N]; 1 for samples without one."""
    from diptych.data.tiling import plan_tiles

    tiling = config.image.tiling
    sides = np.stack([_numbers(selection, name, missing=0) for name in ("width", "height")], 1)
    # Few sizes are different, and each takes a loop.
    sizes, which = np.unique(sides.astype(np.int64), axis=0, return_inverse=True)
    views = np.ones(len(sizes))
    for i, (width, height) in enumerate(sizes.tolist()):
        if width and height:
            plan = plan_tiles(width, height, tiling, training=True)
            views[i] = tiling.views(plan.rows, plan.columns)
    found: NDArray[np.float64] = views[which.reshape(-1)]
    return found


def _numbers(selection: "Selection", name: str, *, missing: int | None) -> NDArray[np.float64]:
    """Return a column of numbers; `missing` stands where there is none (None: that is an error)."""
    values = selection.column(name)
    if isinstance(values, np.ndarray) and values.dtype != np.bool_:
        found = values.astype(np.float64)
    else:
        kinds = {type(value) for value in values if value is not None}
        if kinds - {int, float}:
            raise DataError(
                f"data.loader.budget_by = {name}: expected a column of numbers in {selection.dataset.name}, "
                f"it holds {', '.join(sorted(kind.__name__ for kind in kinds))}"
            )
        found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    lacking = np.isnan(found)
    if lacking.any() and missing is None:
        raise DataError(
            f"data.loader.budget_by = {name}: {lacking.sum()} samples of {selection.dataset.name} have no "
            f"value; leave them out with data.where = '{name} is not null'"
        )
    return np.where(lacking, 0 if missing is None else missing, found)


@dataclass(frozen=True)
class Cut:
    """A batch of a window."""

    members: Int64
    """[n] places of its samples in the window."""
    packs: Int64 | None = None
    """[n] ascending from 0: the packed sequence of each; None without packing."""


Cutter = Callable[[Int64, int], Sequence[Cut]]
"""(costs [n] of a window's samples, its number) -> its batches."""


def cut_by_budget(costs: Int64, budget: int, most: int) -> list[Int64]:
    """Return places of samples, batch by batch, each place once.

    A batch costs its number of samples times its most expensive one: at most `budget`. It has at most `most`
    samples. Batches are made from the expensive end; the last two share what is left evenly, so that no batch
    has fewer samples than half of what the budget allows (unless there are no more).

    Args:
        costs: [n] int64, 1 .. `budget` each.
        budget: largest cost of a batch.
        most: largest number of samples of a batch.
    """
    falling = np.argsort(-costs, kind="stable")
    sorted_costs = costs[falling].tolist()
    starts = [0]
    while starts[-1] < len(falling):
        starts.append(starts[-1] + min(most, budget // sorted_costs[starts[-1]]))
    starts[-1] = len(falling)
    if len(starts) > 2 and starts[-1] - starts[-2] < starts[-2] - starts[-3]:
        # The samples that move are cheaper than the batch they leave, so the cost stays below its cost.
        starts[-2] = (starts[-1] + starts[-3] + 1) // 2
    return [falling[a:b].astype(np.int64) for a, b in pairwise(starts)]


class BudgetCutter:
    """Cuts windows by `cut_by_budget`; their batches come in random order."""

    def __init__(self, seed: int, budget: int, most: int) -> None:
        self.seed, self.budget, self.most = seed, budget, most

    def __call__(self, costs: Int64, window: int) -> Sequence[Cut]:
        """Return the batches of a window."""
        found = [Cut(members) for members in cut_by_budget(costs, self.budget, self.most)]
        numbers = np.arange(len(found), dtype=np.int64)
        mixed = permute(
            numbers, np.full_like(numbers, len(found)), keys_of(self.seed, 9, numbers * 0 + window)
        )
        return [found[i] for i in mixed.tolist()]


class WindowPlan:
    """Batches that are cut out of windows of a stream.

    A window lies within one epoch of the stream; windows of an epoch are equally long, give or take one. How
    many batches they give depends on their samples, so the plan walks from window to window, forwards from
    the start or from an anchor; that takes about a millisecond for a thousand samples.
    """

    def __init__(
        self, stream: Stream, costs: Sequence[Costs], cutter: Cutter, window: int, settings: dict[str, Any]
    ) -> None:
        """Make the plan.

        Args:
            stream: the samples.
            costs: what each sample of each source costs.
            cutter: makes batches of a window.
            window: samples of a window, about.
            settings: what a run may not change besides the stream's settings, in JSON types.
        """
        self.stream, self._costs, self._cutter, self._settings = stream, costs, cutter, settings
        self.windows = max(1, round(stream.size / window))
        self._firsts, self._known = [0], [0]
        self._cuts: dict[int, list[Cut]] = {}
        sampled = np.unique(np.linspace(0, self.windows - 1, SAMPLED_WINDOWS).astype(np.int64))
        counts = [len(self._cut_window(int(w))) for w in sampled]
        self.batches_per_epoch = self.windows * sum(counts) / len(counts)

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        """Return every `world`-th sample (or packed sequence) of a batch, from number `rank` on.

        Raises:
            DataError: the batch has fewer of them than there are ranks.
        """
        window, first = self._seek(number)
        cut = self._batches_of(window)[number - first]
        start, _ = self._bounds(window)
        of = np.arange(len(cut.members)) if cut.packs is None else cut.packs
        units = int(of[-1]) + 1
        if units < world:
            what = "sequences" if cut.packs is not None else "samples"
            raise DataError(
                f"batch {number} has {units} {what} for {world} ranks; raise data.loader.budget or "
                "data.loader.budget_window, or use fewer ranks"
            )
        mine = of % world == rank
        positions = start + cut.members[mine]
        sources, rows = self.stream.at(positions)
        return Drawn(sources, rows, positions, None if cut.packs is None else cut.packs[mine] // world)

    def identity(self) -> dict[str, Any]:
        """Return the settings of the windows, their cutting, and the stream."""
        return {**self._settings, **self.stream.identity()}

    def anchor(self, number: int) -> dict[str, Any]:
        """Return the window that batch `number` lies in and the number of that window's first batch."""
        window, first = self._seek(number)
        return {"window": window, "first": first}

    def start(self, anchor: dict[str, Any]) -> None:
        """Walk from the window of an anchor; batches before it take the long way from the start."""
        self._walk_from(int(anchor.get("window", 0)), int(anchor.get("first", 0)))

    def _walk_from(self, window: int, first: int) -> None:
        self._firsts, self._known = [first], [window]

    def _seek(self, number: int) -> tuple[int, int]:
        """Return the window that holds batch `number`, and the number of its first batch."""
        if number < self._firsts[0]:
            self._walk_from(0, 0)
        i = bisect_right(self._firsts, number) - 1
        while True:
            window, first = self._known[i], self._firsts[i]
            end = first + len(self._batches_of(window))
            if number < end:
                return window, first
            i += 1
            if i == len(self._firsts):
                self._firsts.append(end)
                self._known.append(window + 1)
                if i == 2 * KEPT_WINDOWS:
                    del self._firsts[:KEPT_WINDOWS], self._known[:KEPT_WINDOWS]
                    i -= KEPT_WINDOWS

    def _batches_of(self, window: int) -> list[Cut]:
        if window not in self._cuts:
            while len(self._cuts) >= KEPT_CUTS:
                del self._cuts[next(iter(self._cuts))]
            self._cuts[window] = self._cut_window(window)
        return self._cuts[window]

    def _cut_window(self, window: int) -> list[Cut]:
        start, end = self._bounds(window)
        sources, rows = self.stream.at(np.arange(start, end, dtype=np.int64))
        costs = np.empty(len(rows), dtype=np.int64)
        for source in np.unique(sources).tolist():
            here = sources == source
            costs[here] = self._costs[source][rows[here]]
        return list(self._cutter(costs, window))

    def _bounds(self, window: int) -> tuple[int, int]:
        """Return first and last + 1 position of a window."""
        epoch, number = divmod(window, self.windows)
        first, last = slice_of(self.stream.size, number, self.windows)
        return epoch * self.stream.size + first, epoch * self.stream.size + last

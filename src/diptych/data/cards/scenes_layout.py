"""What a scene shows: groups of equal objects on coloured tiles of a grid, drawn from (seed, pair)."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from diptych.data.cards.scenes_nouns import Noun
from diptych.errors import DataError

T = TypeVar("T")

GRID = 3
"""Rows and columns."""

MAX_OBJECTS = 5

COLORS = {
    "red": (214, 58, 54),
    "orange": (245, 140, 40),
    "yellow": (250, 214, 60),
    "green": (76, 166, 80),
    "blue": (62, 120, 216),
    "purple": (140, 86, 190),
    "pink": (244, 150, 190),
    "gray": (150, 155, 160),
}
"""Tile colour -> RGB."""

OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}

SPLITS = ("train",) * 8 + ("val", "test")
"""Split of ten pairs in a row, and of the ten hash buckets of sprite combinations."""

_TRIES = 20_000
_TRIES_BEFORE_LETTING_GO = 1_000
"""With few items, the ones to keep may leave no combination of the split: then one of them is given up."""


class Draws:
    """Random draws that stay the same in every version of Python.

    They use `Random.random` only, the one method whose sequence Python promises to keep.
    """

    def __init__(self, seed: str) -> None:
        self._next = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._next() < probability

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int(self._next() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[int(self._next() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different ones of `items`, in random order."""
        pool = list(items)
        for i in range(count):
            j = self.integer(i, len(pool) - 1)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]


@dataclass(frozen=True)
class Item:
    """An emoji that may appear: its concept and its word."""

    hexcode: str
    noun: Noun


@dataclass(frozen=True)
class Group:
    """Equal objects on tiles of one colour."""

    item: Item
    color: str
    cells: tuple[tuple[int, int], ...]
    """(row, column) of each object, from the top left."""

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.cells)


@dataclass(frozen=True)
class Scene:
    """One picture's content. The concepts of its groups differ."""

    groups: tuple[Group, ...]
    target: int
    """The group whose number of objects was drawn evenly from 1 to 4: counting questions ask for it."""
    style: str

    @property
    def combination(self) -> str:
        """The concepts, sorted, as one text: what the splits keep apart."""
        return combination([group.item for group in self.groups])

    def find(self, item: Item) -> Group | None:
        """Return the group that shows `item`, if any."""
        return next((group for group in self.groups if group.item == item), None)

    def count(self, item: Item) -> int:
        """Return how many objects show `item`."""
        group = self.find(item)
        return group.count if group else 0

    def layout(self) -> dict[str, Any]:
        """Return the content as JSON: `grid` (rows, columns) and `objects` in the order of the groups."""
        objects = [
            {"name": g.item.noun.singular, "concept": g.item.hexcode, "color": g.color, "row": r, "column": c}
            for g in self.groups
            for r, c in g.cells
        ]
        return {"grid": [GRID, GRID], "objects": objects}


def relations(a: Group, b: Group) -> list[str]:
    """Return the relations in which every object of `a` stands to every object of `b`."""
    found = []
    if max(c for _, c in a.cells) < min(c for _, c in b.cells):
        found.append("to the left of")
    if min(c for _, c in a.cells) > max(c for _, c in b.cells):
        found.append("to the right of")
    if max(r for r, _ in a.cells) < min(r for r, _ in b.cells):
        found.append("above")
    if min(r for r, _ in a.cells) > max(r for r, _ in b.cells):
        found.append("below")
    return found


def combination(items: Sequence[Item]) -> str:
    """Return the sorted hexcodes of `items`, joined by `+`."""
    return "+".join(sorted(item.hexcode for item in items))


def split_of_combination(text: str) -> str:
    """Return the split that owns a combination, whatever the seed."""
    return SPLITS[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % len(SPLITS)]


def split_of_pair(pair: int) -> str:
    """Return the split of a pair: of ten in a row eight train, one validates and one tests."""
    return SPLITS[pair % len(SPLITS)]


def draw_pair(seed: int, pair: int, items: Sequence[Item], styles: Sequence[str]) -> tuple[Scene, Scene]:
    """Draw the two scenes of a pair; a pure function of its arguments.

    The second scene shares up to two concepts with the first, half of them on tiles of the same colour, so
    that statements about both are not idle.

    Raises:
        DataError: too few items to find a combination that belongs to the pair's split.
    """
    draws = Draws(f"{seed}/{pair}")
    split = split_of_pair(pair)
    left = _draw_scene(draws, split, items, {}, styles)
    shared = draws.sample(left.groups, draws.integer(0, 2))
    kept = {group.item: group.color if draws.chance(0.5) else None for group in shared}
    return left, _draw_scene(draws, split, items, kept, styles)


def _draw_scene(
    draws: Draws,
    split: str,
    items: Sequence[Item],
    kept: Mapping[Item, str | None],
    styles: Sequence[str],
) -> Scene:
    """`kept`: items that the scene is to show, with the colour of their tiles where that is given."""
    counts = _draw_counts(draws)
    chosen = _draw_items(draws, split, items, list(kept), len(counts))
    # The kept items come first in `chosen`; shuffled, so that they are not always the counted ones.
    chosen = draws.sample(chosen, len(chosen))
    colors = _draw_colors(draws, len(counts))
    cells = _draw_cells(draws, counts)
    groups = [Group(chosen[i], kept.get(chosen[i]) or colors[i], cells[i]) for i in range(len(counts))]
    order = draws.sample(range(len(counts)), len(counts))
    return Scene(tuple(groups[i] for i in order), order.index(0), draws.pick(styles))


def _draw_counts(draws: Draws) -> list[int]:
    """Sizes of the groups, the target first; at least two groups, at most five objects."""
    target = draws.integer(1, MAX_OBJECTS - 1)
    rest = draws.integer(1, MAX_OBJECTS - target)
    counts = [target]
    while rest:
        counts.append(draws.integer(1, rest))
        rest -= counts[-1]
    return counts


def _draw_items(
    draws: Draws, split: str, items: Sequence[Item], kept: Sequence[Item], count: int
) -> list[Item]:
    """`count` different items, the kept ones among them, whose combination belongs to `split`."""
    kept = kept[:count]
    others = [item for item in items if item not in kept]
    if count <= len(others):
        for attempt in range(_TRIES):
            if kept and attempt and attempt % _TRIES_BEFORE_LETTING_GO == 0:
                kept = kept[:-1]
                others = [item for item in items if item not in kept]
            chosen = [*kept, *draws.sample(others, count - len(kept))]
            if split_of_combination(combination(chosen)) == split:
                return chosen
            # Nothing but kept items never changes: give one up.
            kept = kept[: count - 1]
    raise DataError(
        f"card 'emoji-scenes': no combination of {count} of {len(items)} emoji belongs to split '{split}'; "
        "the raw packages hold too few concepts"
    )


def _draw_colors(draws: Draws, count: int) -> list[str]:
    names = list(COLORS)
    if draws.chance(0.7):
        return draws.sample(names, count)
    return [draws.pick(names) for _ in range(count)]


def _draw_cells(draws: Draws, counts: Sequence[int]) -> list[tuple[tuple[int, int], ...]]:
    """Different cells for each group, every cell equally likely."""
    grid = [(row, column) for row in range(GRID) for column in range(GRID)]
    free = draws.sample(grid, sum(counts))
    placed = []
    for count in counts:
        placed.append(tuple(sorted(free[:count])))
        free = free[count:]
    return placed

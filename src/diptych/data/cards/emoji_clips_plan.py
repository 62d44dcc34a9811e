"""What a clip shows: things on coloured tiles and what becomes of them, drawn from (seed, pair).

Clips come in pairs: the second one is the first played backwards. So whatever the order of frames decides has
another answer in the other clip of the pair, which shows the same frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from diptych.data.cards.scenes_layout import COLORS, GRID, Draws, Item, split_of_combination, split_of_pair
from diptych.errors import DataError

KINDS = ("move", "size", "sight", "spin", "change")
"""What may become of a thing; played backwards a kind stays the same."""
FORMS = ("one", "two", "together")
"""One event; two in sequence; two at the same time."""

SMALL = 0.55
"""Side of a small thing, as a share of a large one."""
TURN = 360.0

_WEIGHTS = (("move", 4), ("size", 2), ("sight", 2), ("spin", 2), ("change", 2))
_KIND_DRAWS = tuple(kind for kind, weight in _WEIGHTS for _ in range(weight))
_FORM_DRAWS = ("one",) * 2 + ("two",) * 2 + ("together",)
_TRIES = 20_000
_ROUND = frozenset(
    {
        "baseball", "basketball", "coconut", "coin", "cookie", "doughnut", "egg", "flying disc", "gear",
        "melon", "ring", "shamrock", "snowflake", "soccer ball", "spider", "star", "stop sign", "sunflower",
        "volleyball",
    }
)  # fmt: skip
"""Look much the same when they are turned: they do not spin."""

Cell = tuple[int, int]


@dataclass(frozen=True)
class State:
    """A thing at one moment."""

    item: Item
    row: int
    column: int
    size: float = 1.0
    """1 or `SMALL`."""
    opacity: float = 1.0
    """0: it is not there."""
    angle: float = 0.0
    """Degrees clockwise."""

    @property
    def cell(self) -> Cell:
        """Row and column."""
        return self.row, self.column


@dataclass(frozen=True)
class Thing:
    """A tile with an emoji on it."""

    color: str
    states: tuple[State, ...]
    """At the start, (between two events) and at the end; in between, what differs changes evenly."""

    @cached_property
    def events(self) -> tuple[str, ...]:
        """What it does in each part of the clip: `moves left`, `grows`, ...; empty: nothing."""
        return tuple(action(a, b) for a, b in zip(self.states, self.states[1:], strict=False))

    @property
    def acts(self) -> bool:
        """Whether anything becomes of it."""
        return any(self.events)

    @property
    def item(self) -> Item:
        """The emoji at the start."""
        return self.states[0].item

    @property
    def changes(self) -> bool:
        """Whether it is another emoji at the end."""
        return self.states[0].item != self.states[-1].item

    @property
    def items(self) -> tuple[Item, ...]:
        """The emoji that it is, one or two."""
        return tuple(dict.fromkeys(state.item for state in self.states))

    @cached_property
    def path(self) -> tuple[Cell, ...]:
        """The cells that it is on or crosses."""
        rows, columns = zip(*(state.cell for state in self.states), strict=True)
        return tuple(
            (row, column)
            for row in range(min(rows), max(rows) + 1)
            for column in range(min(columns), max(columns) + 1)
        )

    def reversed(self) -> "Thing":
        """Return the thing played backwards."""
        return replace(self, states=self.states[::-1])

    def kinds(self) -> str:
        """Return the kinds of what it does, sorted; `stay` for nothing. The same backwards."""
        found = sorted(kind_of(event) for event in self.events if event)
        return ",".join(found) or "stay"


@dataclass(frozen=True)
class Clip:
    """What a clip shows. All emoji differ, and so do the colours; what acts comes first."""

    form: str
    things: tuple[Thing, ...]
    style: str

    @property
    def parts(self) -> int:
        """How many parts the clip has: 2 with events in sequence."""
        return len(self.things[0].states) - 1

    @property
    def items(self) -> tuple[Item, ...]:
        """All emoji that it shows."""
        return tuple(item for thing in self.things for item in thing.items)

    @property
    def still(self) -> tuple[Thing, ...]:
        """The things that nothing becomes of."""
        return tuple(thing for thing in self.things if not thing.acts)

    @property
    def combination(self) -> str:
        """Which emoji do what kind of thing, sorted, as one text: what the splits keep apart."""
        parts = ("/".join(sorted(i.hexcode for i in t.items)) + ":" + t.kinds() for t in self.things)
        return "+".join(sorted(parts))

    def reversed(self) -> "Clip":
        """Return the clip played backwards."""
        return replace(self, things=tuple(thing.reversed() for thing in self.things))

    def doing(self, event: str) -> list[Thing]:
        """Return the things that do something, for example `moves left`."""
        return [thing for thing in self.things if event in thing.events]

    def passed(self, thing: Thing) -> list[Thing]:
        """Return the still things that a mover passes: those beside the middle of a way of two cells."""
        path = thing.path
        if len(path) < GRID:
            return []
        row, column = path[1]
        beside = {(row - 1, column), (row + 1, column)} if path[0][0] == row else set[Cell]()
        if path[0][1] == column:
            beside = {(row, column - 1), (row, column + 1)}
        return [other for other in self.still if other.states[0].cell in beside]

    def layout(self) -> dict[str, Any]:
        """Return the content as JSON."""
        things = [
            {
                "color": thing.color,
                "states": [
                    {
                        "name": state.item.noun.singular,
                        "concept": state.item.hexcode,
                        "row": state.row,
                        "column": state.column,
                        "size": state.size,
                        "opacity": state.opacity,
                        "angle": state.angle,
                    }
                    for state in thing.states
                ],
            }
            for thing in self.things
        ]
        return {"grid": [GRID, GRID], "things": things}


def action(before: State, after: State) -> str:
    """Return what leads from one state to another: `moves left`, `grows`, ...; empty: nothing."""
    if before.item != after.item:
        return "changes"
    pairs = (
        (after.column - before.column, "moves right", "moves left"),
        (after.row - before.row, "moves down", "moves up"),
        (after.size - before.size, "grows", "shrinks"),
        (after.opacity - before.opacity, "appears", "vanishes"),
        (after.angle - before.angle, "spins clockwise", "spins counterclockwise"),
    )
    return next((more if change > 0 else less for change, more, less in pairs if change), "")


BACKWARDS = {
    "moves right": "moves left",
    "moves down": "moves up",
    "grows": "shrinks",
    "appears": "vanishes",
    "spins clockwise": "spins counterclockwise",
}
BACKWARDS |= {b: a for a, b in BACKWARDS.items()}
"""What an event is when it is played backwards; `changes` stays."""

_KIND_OF = {
    "moves": "move",
    "grows": "size",
    "shrinks": "size",
    "appears": "sight",
    "vanishes": "sight",
    "spins": "spin",
    "changes": "change",
}


def kind_of(event: str) -> str:
    """Return the kind of an event."""
    return _KIND_OF[event.split()[0]]


def draw_clip(seed: int, pair: int, items: Sequence[Item], styles: Sequence[str], objects: int) -> Clip:
    """Draw the first clip of a pair; a pure function of its arguments.

    Raises:
        DataError: too few items to find a combination that belongs to the pair's split.
    """
    draws, split = Draws(f"clips {seed}/{pair}"), split_of_pair(pair)
    for _ in range(_TRIES):
        clip = _draw(draws, items, styles, objects)
        if clip is not None and split_of_combination(clip.combination) == split:
            return clip
    raise DataError(
        f"card 'emoji-clips': no combination of {len(items)} emoji belongs to split '{split}'; "
        "the raw packages hold too few concepts"
    )


def _draw(draws: Draws, items: Sequence[Item], styles: Sequence[str], objects: int) -> Clip | None:
    """None where chance found no room on the grid or no emoji that can do what it is to do."""
    form = draws.pick(_FORM_DRAWS)
    # Events of each thing that acts, one a part.
    plans = {"one": _one, "two": _two, "together": _together}[form](draws)
    count = max(len(plans), draws.integer(2, objects))
    chosen, colors = iter(draws.sample(items, count + len(plans))), draws.sample(list(COLORS), count)
    free = {(row, column) for row in range(GRID) for column in range(GRID)}
    things: list[Thing] = []
    for color, plan in zip(colors, plans, strict=False):
        item, other = next(chosen), next(chosen)
        thing = Thing(color, _states(draws, plan, item, other))
        if not free.issuperset(thing.path) or ("spin" in thing.kinds() and _is_round(thing)):
            return None
        free -= set(thing.path)
        things.append(thing)
    acting = len(things)
    for color in colors[acting:]:
        cell = _still_cell(draws, things[:acting], free)
        if cell is None:
            return None
        free.remove(cell)
        state = State(next(chosen), *cell, size=_size(draws))
        things.append(Thing(color, (state,) * len(things[0].states)))
    return Clip(form, tuple(things), draws.pick(styles))


def _is_round(thing: Thing) -> bool:
    return any(item.noun.singular in _ROUND for item in thing.items)


_Plan = tuple[str, ...]
"""What a thing does in each part: `moves left`, `grows`, ...; empty: nothing."""


def _one(draws: Draws) -> list[_Plan]:
    return [(_event(draws),)]


def _together(draws: Draws) -> list[_Plan]:
    return [(event,) for event in _two_events(draws)]


def _two(draws: Draws) -> list[_Plan]:
    if draws.chance(0.7):
        first, second = _two_events(draws)
        return [(first, ""), ("", second)]
    first = _event(draws)
    second = _event(draws, without=kind_of(first))
    # Nobody sees what something does before it appears, or after it vanishes.
    first = "appears" if kind_of(first) == "sight" else first
    return [(first, "vanishes" if kind_of(second) == "sight" else second)]


def _two_events(draws: Draws) -> tuple[str, str]:
    """Two events of different things; half of the time one is the other backwards."""
    first = _event(draws)
    if draws.chance(0.5) and first in BACKWARDS:
        return first, BACKWARDS[first]
    return first, _event(draws)


def _event(draws: Draws, without: str = "") -> str:
    kind = draws.pick([kind for kind in _KIND_DRAWS if kind != without])
    return draws.pick([event for event in (*BACKWARDS, "changes") if kind_of(event) == kind])


_STEPS: dict[str, Cell] = {
    "moves left": (0, -1),
    "moves right": (0, 1),
    "moves up": (-1, 0),
    "moves down": (1, 0),
}


def _states(draws: Draws, plan: _Plan, item: Item, other: Item) -> tuple[State, ...]:
    """States of a thing that does something, somewhere on the grid."""
    move = next((_STEPS[event] for event in plan if event in _STEPS), (0, 0))
    length = 2 if draws.chance(0.6) else 1
    row, column = (_start(draws, step * length) for step in move)
    size = 1.0 if any(event.startswith(("spins", "changes")) for event in plan) else _size(draws)
    if set(plan) & {"grows", "shrinks"}:
        size = SMALL if "grows" in plan else 1.0
    states = [State(item, row, column, size, 0.0 if "appears" in plan else 1.0)]
    for event in plan:
        states.append(_APPLY[event.split()[0] if event else ""](states[-1], event, length, other))
    return tuple(states)


def _start(draws: Draws, way: int) -> int:
    """A row or column from which it is possible to go so far."""
    return draws.integer(max(0, -way), GRID - 1 - max(0, way))


def _size(draws: Draws) -> float:
    return SMALL if draws.chance(0.25) else 1.0


def _moved(state: State, event: str, length: int, other: Item) -> State:
    rows, columns = _STEPS[event]
    return replace(state, row=state.row + length * rows, column=state.column + length * columns)


def _spun(state: State, event: str, length: int, other: Item) -> State:
    return replace(state, angle=state.angle + (TURN if event == "spins clockwise" else -TURN))


_APPLY: dict[str, Callable[[State, str, int, Item], State]] = {
    "": lambda state, event, length, other: state,
    "moves": _moved,
    "spins": _spun,
    "grows": lambda state, event, length, other: replace(state, size=1.0),
    "shrinks": lambda state, event, length, other: replace(state, size=SMALL),
    "appears": lambda state, event, length, other: replace(state, opacity=1.0),
    "vanishes": lambda state, event, length, other: replace(state, opacity=0.0),
    "changes": lambda state, event, length, other: replace(state, item=other),
}


def _still_cell(draws: Draws, acting: Sequence[Thing], free: set[Cell]) -> Cell | None:
    """A free cell; half of the time one that a mover passes, where there is one."""
    if not free:
        return None
    cells = sorted(free)
    middles = [thing.path[1] for thing in acting if len(thing.path) == GRID]
    beside = [cell for cell in cells if any(abs(cell[0] - r) + abs(cell[1] - c) == 1 for r, c in middles)]
    return draws.pick(beside if beside and draws.chance(0.5) else cells)

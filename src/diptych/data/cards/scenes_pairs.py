"""Statements about two scenes, true or false (the form of NLVR2)."""

from collections.abc import Callable, Sequence
from typing import Any

from diptych.data.cards.scenes_layout import COLORS, MAX_OBJECTS, OPPOSITE, Draws, Group, Item, Scene
from diptych.data.cards.scenes_nouns import NUMBERS
from diptych.data.cards.scenes_text import absent_item, related_groups, tiles

PER_PAIR = 4
"""Statements for each pair of scenes, half of them true."""

_TRIES = 40


def statements(left: Scene, right: Scene, items: Sequence[Item], draws: Draws) -> list[dict[str, Any]]:
    """Return `{"kind", "statement", "label"}` for a pair; labels alternate, so they are exactly balanced.

    A kind is drawn until its statement is as true as it has to be, so within a kind the labels are nearly
    balanced too, and words alone do not give them away.
    """
    first = draws.chance(0.5)
    kinds = draws.sample(list(_KINDS), len(_KINDS))
    made: list[dict[str, Any]] = []
    for kind in kinds:
        label = first == (len(made) % 2 == 0)
        for _ in range(_TRIES):
            found = _KINDS[kind](_Pair(left, right, items, draws))
            if found is not None and found[1] == label:
                made.append({"kind": kind, "statement": found[0], "label": label})
                break
        if len(made) == PER_PAIR:
            break
    return made


class _Pair:
    """Two scenes and chance, with the draws that several kinds share."""

    def __init__(self, left: Scene, right: Scene, items: Sequence[Item], draws: Draws) -> None:
        self.scenes = (left, right)
        self.items = items
        self.draws = draws

    def side(self) -> tuple[str, Scene]:
        i = self.draws.integer(0, 1)
        return ("left", "right")[i], self.scenes[i]

    def item(self) -> Item:
        """An item of either scene, or sometimes of neither."""
        left, right = self.scenes
        if self.draws.chance(0.15):
            return absent_item(left, self.items, left, self.draws)
        return self.draws.pick([*left.groups, *right.groups]).item

    def counts(self, item: Item) -> tuple[int, int]:
        return self.scenes[0].count(item), self.scenes[1].count(item)


_Made = tuple[str, bool] | None


def _count_word(item: Item, count: int) -> str:
    noun = item.noun.singular if count == 1 else item.noun.plural
    return f"{NUMBERS[count]} {noun}"


def _there(count: int) -> str:
    return "There is" if count == 1 else "There are"


def _near(draws: Draws, truth: int, highest: int) -> int:
    """The true number or, as often, one beside it."""
    if draws.chance(0.5):
        return truth
    return min(highest, max(0, truth + draws.pick((-1, 1))))


def _exactly(pair: _Pair) -> _Made:
    side, scene = pair.side()
    item = pair.item()
    said = _near(pair.draws, scene.count(item), MAX_OBJECTS)
    # "exactly no cats" is no English.
    exactly = "exactly " if said else ""
    return f"{_there(said)} {exactly}{_count_word(item, said)} in the {side} image.", scene.count(
        item
    ) == said


def _total(pair: _Pair) -> _Made:
    item = pair.item()
    truth = sum(pair.counts(item))
    said = _near(pair.draws, truth, 2 * MAX_OBJECTS)
    return f"{_there(said)} {_count_word(item, said)} in the two images together.", truth == said


def _both(pair: _Pair) -> _Made:
    left, right = pair.scenes
    if not any(right.count(group.item) for group in left.groups):
        return None  # never true of such pairs: the labels would lose their balance
    item = pair.item()
    return f"Both images show {item.noun.counted(1)}.", min(pair.counts(item)) > 0


def _only_one(pair: _Pair) -> _Made:
    item = pair.item()
    left, right = pair.counts(item)
    return f"Only one of the images shows {item.noun.counted(1)}.", (left > 0) != (right > 0)


def _more(pair: _Pair) -> _Made:
    item = pair.item()
    left, right = pair.counts(item)
    i = pair.draws.integer(0, 1)
    more, less = (("left", "right"), ("right", "left"))[i]
    return (
        f"There are more {item.noun.plural} in the {more} image than in the {less} image.",
        (left > right) if i == 0 else (right > left),
    )


def _color_in(pair: _Pair) -> _Made:
    side, scene = pair.side()
    group = pair.draws.pick(scene.groups)
    color = group.color if pair.draws.chance(0.5) else pair.draws.pick(list(COLORS))
    verb = "is" if group.count == 1 else "are"
    subject = group.item.noun.definite(group.count)
    return f"In the {side} image, {subject} {verb} on {tiles(color, group.count)}.", color == group.color


def _same_color(pair: _Pair) -> _Made:
    """For something that both images show."""
    left, right = pair.scenes
    shared: list[tuple[Group, Group]] = []
    for group in left.groups:
        other = right.find(group.item)
        if other is not None:
            shared.append((group, other))
    if not shared:
        return None
    a, b = pair.draws.pick(shared)
    return f"The {a.item.noun.plural} in both images are on tiles of the same color.", a.color == b.color


def _beside(pair: _Pair) -> _Made:
    side, scene = pair.side()
    found = related_groups(scene)
    if not found:
        return None
    a, b, relation = pair.draws.pick(found)
    truth = pair.draws.chance(0.5)
    verb = "is" if a.count == 1 else "are"
    said = relation if truth else OPPOSITE[relation]
    subject, other = a.item.noun.definite(a.count), b.item.noun.definite(b.count)
    return f"In the {side} image, {subject} {verb} {said} {other}.", truth


_KINDS: dict[str, Callable[[_Pair], _Made]] = {
    "count": _exactly,
    "total": _total,
    "both": _both,
    "only_one": _only_one,
    "more": _more,
    "color": _color_in,
    "same_color": _same_color,
    "relation": _beside,
}

"""Captions of a scene, and questions with their answers."""

from collections.abc import Callable, Sequence

from diptych.data.cards.scenes_layout import COLORS, OPPOSITE, Draws, Group, Item, Scene, relations

ABSENT_SHARE = 0.2
"""Share of the counting questions about something absent: with the target's 1 to 4, five even answers."""

_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "center", "right")


def captions(scene: Scene, draws: Draws) -> tuple[str, ...]:
    """Describe a scene: everything with colours; what is there; one relation between groups, if any."""
    texts = [_full(scene), enumerate_words([g.item.noun.counted(g.count) for g in scene.groups])]
    related = related_groups(scene)
    if related:
        a, b, relation = draws.pick(related)
        texts.append(f"{a.item.noun.counted(a.count)} {relation} {b.item.noun.counted(b.count)}")
    return tuple(texts)


def questions(scene: Scene, items: Sequence[Item], other: Scene, draws: Draws) -> list[dict[str, str]]:
    """Return `{"kind", "question", "answer"}` for each kind of question that has one right answer.

    Args:
        scene: what is asked about.
        items: all emoji that may appear.
        other: the other scene of the pair; absent things are taken from it where possible.
        draws: source of chance.
    """
    asked = []
    for kind, ask in _KINDS.items():
        found = ask(scene, absent_item(scene, items, other, draws), draws)
        if found is not None:
            asked.append({"kind": kind, "question": found[0], "answer": found[1]})
    return asked


def related_groups(scene: Scene) -> list[tuple[Group, Group, str]]:
    """Return every (a, b, relation) that holds between whole groups."""
    pairs = [(a, b) for a in scene.groups for b in scene.groups if a is not b]
    return [(a, b, relation) for a, b in pairs for relation in relations(a, b)]


def absent_item(scene: Scene, items: Sequence[Item], other: Scene, draws: Draws) -> Item:
    """Return an item that `scene` does not show, one of the other scene's where there is any."""
    near = [group.item for group in other.groups if not scene.count(group.item)]
    while True:
        item = draws.pick(near or items)
        if not scene.count(item):
            return item


def position_name(cell: tuple[int, int]) -> str:
    """Return `top left`, `middle right`, `center`, ... for a (row, column)."""
    row, column = cell
    return "center" if cell == (1, 1) else f"{_ROWS[row]} {_COLUMNS[column]}"


def enumerate_words(words: Sequence[str]) -> str:
    """Join with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def tiles(color: str, count: int) -> str:
    """Return `a red tile` or `red tiles`."""
    if count > 1:
        return f"{color} tiles"
    return f"{'an' if color == 'orange' else 'a'} {color} tile"


def _full(scene: Scene) -> str:
    phrases = [f"{g.item.noun.counted(g.count)} on {tiles(g.color, g.count)}" for g in scene.groups]
    related = related_groups(scene)
    if not related:
        return enumerate_words(phrases)
    a, b, relation = related[0]
    i, j = scene.groups.index(a), scene.groups.index(b)
    rest = [phrase for k, phrase in enumerate(phrases) if k not in (i, j)]
    start = f"{phrases[i]} {relation} {phrases[j]}"
    return f"{start}, with {enumerate_words(rest)}" if rest else start


_Asked = tuple[str, str] | None


def _be(count: int) -> str:
    return "Is" if count == 1 else "Are"


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _count(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    item = absent if draws.chance(ABSENT_SHARE) else scene.groups[scene.target].item
    return f"How many {item.noun.plural} are there?", str(scene.count(item))


def _presence(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    truth = draws.chance(0.5)
    item = draws.pick(scene.groups).item if truth else absent
    return f"Is there {item.noun.counted(1)} in the picture?", _yes(truth)


def _color(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    group = draws.pick(scene.groups)
    verb, noun = ("is", "tile") if group.count == 1 else ("are", "tiles")
    return f"What color {verb} the {noun} under {group.item.noun.definite(group.count)}?", group.color


def _color_check(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    group = draws.pick(scene.groups)
    truth = draws.chance(0.5)
    color = group.color if truth else draws.pick([name for name in COLORS if name != group.color])
    subject = group.item.noun.definite(group.count)
    return f"{_be(group.count)} {subject} on {tiles(color, group.count)}?", _yes(truth)


def _position(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    single = [group for group in scene.groups if group.count == 1]
    if not single:
        return None
    group = draws.pick(single)
    return f"Where in the picture is the {group.item.noun.singular}?", position_name(group.cells[0])


def _on_color(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    colors = [group.color for group in scene.groups]
    alone = [group for group in scene.groups if colors.count(group.color) == 1]
    if not alone:
        return None
    group = draws.pick(alone)
    noun = "tile" if group.count == 1 else "tiles"
    return f"What is on the {group.color} {noun}?", group.item.noun.singular


def _what_is_beside(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    """Asks for the only kind of object that has members on one side of a group, all of them there."""
    found = []
    for b in scene.groups:
        for relation in OPPOSITE:
            some = [a for a in scene.groups if a is not b and _any_on_side(a, b, relation)]
            if len(some) == 1 and relation in relations(some[0], b):
                found.append((some[0], b, relation))
    if not found:
        return None
    a, b, relation = draws.pick(found)
    return f"What is {relation} {b.item.noun.definite(b.count)}?", a.item.noun.singular


def _any_on_side(a: Group, b: Group, relation: str) -> bool:
    return any(
        relation in relations(Group(a.item, a.color, (cell,)), Group(b.item, b.color, (anchor,)))
        for cell in a.cells
        for anchor in b.cells
    )


def _relation(scene: Scene, absent: Item, draws: Draws) -> _Asked:
    found = related_groups(scene)
    if not found:
        return None
    a, b, relation = draws.pick(found)
    truth = draws.chance(0.5)
    said = relation if truth else OPPOSITE[relation]
    return f"{_be(a.count)} {a.item.noun.definite(a.count)} {said} {b.item.noun.definite(b.count)}?", _yes(
        truth
    )


_KINDS: dict[str, Callable[[Scene, Item, Draws], _Asked]] = {
    "count": _count,
    "presence": _presence,
    "color": _color,
    "color_check": _color_check,
    "position": _position,
    "object_on_color": _on_color,
    "object_beside": _what_is_beside,
    "relation": _relation,
}

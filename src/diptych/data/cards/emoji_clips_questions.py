"""Open questions about a clip, each asked of its mirror (the clip played backwards) too.

Kinds in `ORDERED` have another answer in the mirror, the others the same: who does not see the order of
frames answers at most half of the former.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from diptych.data.cards.emoji_clips_plan import BACKWARDS, Clip, Thing, kind_of
from diptych.data.cards.emoji_clips_text import actors
from diptych.data.cards.scenes_layout import Draws, Item
from diptych.data.cards.scenes_text import position_name

MOST_UNORDERED = 3
"""Questions about a clip that do not need the order; about as many do."""

Asked = tuple[str, str, str] | None
"""Question, answer of the clip, answer of its mirror."""


class Pair:
    """A clip and its mirror, with what questions are about."""

    def __init__(self, clip: Clip, items: Sequence[Item], draws: Draws) -> None:
        self.clip, self.mirror, self.items, self.draws = clip, clip.reversed(), items, draws

    def pick(self, accept: Callable[[Thing], bool]) -> tuple[Thing, Thing] | None:
        """Return one of the things and what it is in the mirror; None if there is no such thing."""
        found = [i for i, thing in enumerate(self.clip.things) if accept(thing)]
        if not found:
            return None
        number = self.draws.pick(found)
        return self.clip.things[number], self.mirror.things[number]

    def single(self, kind: str) -> tuple[Thing, Thing] | None:
        """Return a thing that does something of a kind and is the same emoji all the time."""
        return self.pick(lambda thing: not thing.changes and kind in thing.kinds().split(","))


def questions(
    clip: Clip, items: Sequence[Item], draws: Draws
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return `{"kind", "question", "answer", "ordered"}` about a clip, and the same about its mirror.

    All ordered kinds that there is something to ask of, and `MOST_UNORDERED` of the others.
    """
    pair = Pair(clip, items, draws)
    found = [(kind, True, ask(pair)) for kind, ask in ORDERED.items()]
    others = ((kind, False, UNORDERED[kind](pair)) for kind in draws.sample(list(UNORDERED), len(UNORDERED)))
    found += islice((entry for entry in others if entry[2] is not None), MOST_UNORDERED)
    told: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for kind, ordered, asked in found:
        if asked is not None:
            for entries, answer in zip(told, asked[1:], strict=True):
                entry = {"kind": kind, "question": asked[0], "answer": answer, "ordered": ordered}
                entries.append(entry)
    return told


def event_of(thing: Thing, kind: str) -> str:
    """Return what a thing does of a kind."""
    return next(event for event in thing.events if event and kind_of(event) == kind)


def the(thing: Thing) -> str:
    """Return `the cat`."""
    return thing.item.noun.definite(1)


def _way(kind: str, form: str, word: int) -> Callable[[Pair], Asked]:
    """Ask which way it goes; the answer is the given word of the event."""

    def ask(pair: Pair) -> Asked:
        found = pair.single(kind)
        if found is None:
            return None
        first, second = (event_of(thing, kind).split()[word] for thing in found)
        return form.format(the(found[0])), first, second

    return ask


def _stem(event: str) -> str:
    """`moves left` -> `move left`; verbs here lose no more than the s, but for `vanishes`."""
    verb, _, rest = event.partition(" ")
    verb = verb.removesuffix("es") if verb == "vanishes" else verb.removesuffix("s")
    return f"{verb} {rest}".strip()


def _either(kind: str, form: str) -> Callable[[Pair], Asked]:
    def ask(pair: Pair) -> Asked:
        found = pair.single(kind)
        if found is None:
            return None
        first, second = (_stem(event_of(thing, kind)) for thing in found)
        return form.format(the(found[0])), first, second

    return ask


def _tile_at(pair: Pair) -> Asked:
    found = pair.pick(lambda thing: thing.changes)
    if found is None:
        return None
    when, state = (("start", 0), ("end", -1))[pair.draws.integer(0, 1)]
    first, second = (thing.states[state].item.noun.singular for thing in found)
    return f"What is on the {found[0].color} tile at the {when}?", first, second


def _place(pair: Pair) -> Asked:
    found = pair.pick(
        lambda thing: "move" in thing.kinds() and not thing.changes and "sight" not in thing.kinds()
    )
    if found is None:
        return None
    when, state = (("start", 0), ("end", -1))[pair.draws.integer(0, 1)]
    first, second = (position_name(thing.states[state].cell) for thing in found)
    return f"Where is {the(found[0])} at the {when}?", first, second


def _two_in_turn(pair: Pair) -> tuple[Thing, Thing] | None:
    """Return the two things that act one after the other, in this order."""
    acting = actors(pair.clip)
    if pair.clip.form != "two" or len(acting) != 2 or any(thing.changes for thing in acting):
        return None
    return acting[0], acting[1]


def _first(pair: Pair) -> Asked:
    found = _two_in_turn(pair)
    if found is None:
        return None
    named = pair.draws.sample(found, 2)
    first, second = (thing.item.noun.singular for thing in found)
    when, answers = (("first", (first, second)), ("last", (second, first)))[pair.draws.integer(0, 1)]
    return f"Which acts {when}, {the(named[0])} or {the(named[1])}?", *answers


def _before(pair: Pair) -> Asked:
    found = _two_in_turn(pair)
    if found is None:
        return None
    a, b = pair.draws.sample(found, 2)
    first, second = ("yes", "no") if a is found[0] else ("no", "yes")
    return f"Does {the(a)} act before {the(b)}?", first, second


def _does_first(pair: Pair) -> Asked:
    found = pair.pick(lambda thing: all(thing.events) and len(thing.events) > 1 and not thing.changes)
    if found is None:
        return None
    when, part = (("first", 0), ("last", -1))[pair.draws.integer(0, 1)]
    first, second = (thing.events[part] for thing in found)
    return f"What does {the(found[0])} do {when}?", first, second


def _who(pair: Pair) -> Asked:
    """Where one thing does backwards what another one does."""
    events = [event for thing in pair.clip.things for event in thing.events if event in BACKWARDS]
    found = []
    for event in events:
        these, those = pair.clip.doing(event), pair.clip.doing(BACKWARDS[event])
        if len(these) == len(those) == 1 and not (these[0].changes or those[0].changes):
            found.append((event, these[0], those[0]))
    if not found:
        return None
    event, this, that = pair.draws.pick(found)
    return f"What {event}?", this.item.noun.singular, that.item.noun.singular


def _check(pair: Pair) -> Asked:
    found = pair.pick(lambda thing: not thing.changes and thing.acts)
    if found is None:
        return None
    event = pair.draws.pick([event for event in found[0].events if event])
    truth = pair.draws.chance(0.5)
    said = event if truth else BACKWARDS[event]
    first, second = ("yes", "no") if truth else ("no", "yes")
    return f"Does {the(found[0])} {_stem(said)}?", first, second


def _color(pair: Pair) -> Asked:
    found = pair.pick(lambda thing: not thing.changes)
    return None if found is None else _same(f"What color is the tile under {the(found[0])}?", found[0].color)


def _on_color(pair: Pair) -> Asked:
    found = pair.pick(lambda thing: not thing.changes)
    if found is None:
        return None
    return _same(f"What is on the {found[0].color} tile?", found[0].item.noun.singular)


def _still(pair: Pair) -> Asked:
    still = pair.clip.still
    return _same("What stays still?", still[0].item.noun.singular) if len(still) == 1 else None


_ACTOR = {"move": "moves", "size": "changes its size", "sight": "is not always there", "spin": "spins"}


def _actor(pair: Pair) -> Asked:
    """What does something of a kind, where only one thing does."""
    kinds = {kind: [t for t in pair.clip.things if kind in t.kinds().split(",")] for kind in _ACTOR}
    found = [(kind, t[0]) for kind, t in kinds.items() if len(t) == 1 and not t[0].changes]
    if not found:
        return None
    kind, thing = pair.draws.pick(found)
    return _same(f"What {_ACTOR[kind]}?", thing.item.noun.singular)


def _count(pair: Pair) -> Asked:
    return _same("How many tiles are there?", str(len(pair.clip.things)))


def _count_still(pair: Pair) -> Asked:
    return _same("How many things stay still?", str(len(pair.clip.still)))


def _presence(pair: Pair) -> Asked:
    shown = pair.clip.items
    if pair.draws.chance(0.5):
        return _same(f"Is there {pair.draws.pick(shown).noun.counted(1)} in the video?", "yes")
    absent = [item for item in pair.items if item not in shown]
    return _same(f"Is there {pair.draws.pick(absent).noun.counted(1)} in the video?", "no")


def _stays(pair: Pair) -> Asked:
    truth = pair.draws.chance(0.5)
    found = pair.pick(lambda thing: thing.acts is not truth and not thing.changes)
    if found is None:
        return None
    return _same(f"Does {the(found[0])} stay still?", "yes" if truth else "no")


def _same(question: str, answer: str) -> Asked:
    return question, answer, answer


ORDERED: dict[str, Callable[[Pair], Asked]] = {
    "direction": _way("move", "In which direction does {} move?", 1),
    "spin": _way("spin", "Which way does {} spin?", 1),
    "size": _either("size", "Does {} grow or shrink?"),
    "sight": _either("sight", "Does {} appear or vanish?"),
    "tile_at": _tile_at,
    "place": _place,
    "first": _first,
    "before": _before,
    "does_first": _does_first,
    "who": _who,
    "check": _check,
}
"""Kinds that need the order of frames."""

UNORDERED: dict[str, Callable[[Pair], Asked]] = {
    "color": _color,
    "on_color": _on_color,
    "still": _still,
    "actor": _actor,
    "count": _count,
    "count_still": _count_still,
    "presence": _presence,
    "stays": _stays,
}
"""Kinds that do not. Still, actor, count_still and stays need several frames, in any order."""

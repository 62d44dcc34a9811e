"""Five-way choices about a clip and its mirror (the clip played backwards)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from diptych.data.cards.emoji_clips_plan import BACKWARDS, Clip, Thing
from diptych.data.cards.emoji_clips_questions import Pair, the
from diptych.data.cards.emoji_clips_text import caption
from diptych.data.cards.scenes_layout import COLORS, Draws, Item

T = TypeVar("T")

OPTIONS = 5
Chosen = tuple[str, list[str], int, int] | None
"""Question, options, place of the right one for the clip and for its mirror."""


def choices(
    clip: Clip, items: tuple[Item, ...], draws: Draws
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return `{"kind", "question", "options", "answer", "ordered"}` about a clip, and about its mirror.

    Ordered ones have the same options for both, and another right one.
    """
    pair = Pair(clip, items, draws)
    told: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for kind, found in (("order", _order(pair)), ("action", _action(pair))):
        if found is not None:
            question, options, *places = found
            for entries, place in zip(told, places, strict=True):
                entries.append(_entry(kind, question, options, place, ordered=True))
    shown, place = _looks(pair)
    for entries, backwards in zip(told, (False, True), strict=True):
        options = [caption(other.reversed() if backwards else other) for other in shown]
        entries.append(_entry("looks", "", options, place, ordered=False))
    return told


def _entry(kind: str, question: str, options: list[str], answer: int, *, ordered: bool) -> dict[str, Any]:
    return {"kind": kind, "question": question, "options": options, "answer": answer, "ordered": ordered}


def _order(pair: Pair) -> Chosen:
    """Which caption: of the clip, of its mirror, the same with another emoji, or with yet another one.

    Which of the first two emoji is shown cannot be told from the captions: the third one varies either.
    """
    number = pair.draws.integer(0, len(pair.clip.things) - 1)
    absent = [item for item in pair.items if item not in pair.clip.items]
    second, third = pair.draws.sample(absent, 2)
    shown = pair.clip.things[number].item
    other, another = (_with_item(pair.clip, number, shown, item) for item in (second, third))
    texts = [caption(clip) for clip in (pair.clip, pair.mirror, other, other.reversed())]
    texts.append(caption(another if pair.draws.chance(0.5) else another.reversed()))
    return _shuffled(pair.draws, "", texts)


def _action(pair: Pair) -> Chosen:
    """What something does first (or all in all); each event and the same backwards, and one more."""
    found = pair.pick(lambda thing: not thing.changes and thing.acts)
    if found is None:
        return None
    events = [event for event in found[0].events if event]
    when = ""
    if len(events) > 1:
        when = " first"
        truth, mirrored = events[0], BACKWARDS[events[1]]
        texts = [truth, mirrored, BACKWARDS[truth], BACKWARDS[mirrored]]
    else:
        truth = events[0]
        other = pair.draws.pick([event for event in BACKWARDS if event not in (truth, BACKWARDS[truth])])
        texts = [truth, BACKWARDS[truth], other, BACKWARDS[other]]
    texts.append(pair.draws.pick([event for event in BACKWARDS if event not in texts]))
    return _shuffled(pair.draws, f"What does {the(found[0])} do{when}?", texts)


def _looks(pair: Pair) -> tuple[list[Clip], int]:
    """Five clips that differ in an emoji and a tile, and the place of the right one.

    Emoji a and b, each with both colours, and emoji c with one of them: the right one may be any of the five.
    """
    draws, clip = pair.draws, pair.clip
    number = draws.integer(0, len(clip.things) - 1)
    absent = [item for item in pair.items if item not in clip.items]
    unused = [color for color in COLORS if all(thing.color != color for thing in clip.things)]
    pattern = [(0, 0), (0, 1), (1, 0), (1, 1), (2, draws.integer(0, 1))]
    right = draws.integer(0, OPTIONS - 1)
    shown = clip.things[number].item
    items = _around(pattern[right][0], shown, draws.sample(absent, 2))
    colors = _around(pattern[right][1], clip.things[number].color, [draws.pick(unused)])
    made = [
        _with_color(_with_item(clip, number, shown, items[item]), number, colors[color])
        for item, color in pattern
    ]
    order = draws.sample(range(OPTIONS), OPTIONS)
    return [made[i] for i in order], order.index(right)


def _around(place: int, own: T, others: Sequence[T]) -> list[T]:
    return [*others[:place], own, *others[place:]]


def _with_item(clip: Clip, number: int, old: Item, new: Item) -> Clip:
    thing = clip.things[number]
    states = tuple(replace(state, item=new) if state.item == old else state for state in thing.states)
    return _with(clip, number, replace(thing, states=states))


def _with_color(clip: Clip, number: int, color: str) -> Clip:
    return _with(clip, number, replace(clip.things[number], color=color))


def _with(clip: Clip, number: int, thing: Thing) -> Clip:
    return replace(clip, things=(*clip.things[:number], thing, *clip.things[number + 1 :]))


def _shuffled(draws: Draws, question: str, texts: list[str]) -> Chosen:
    """The first of the texts is right for the clip, the second for its mirror."""
    order = draws.sample(range(len(texts)), len(texts))
    return question, [texts[i] for i in order], order.index(0), order.index(1)

"""The `emoji-scenes` card: composed scenes with exact captions, questions, answers and statement pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Split
from diptych.data.cards.emoji import CARD as EMOJI
from diptych.data.cards.emoji_raw import read_raw
from diptych.data.cards.options import Options
from diptych.data.cards.scenes_draw import Painter
from diptych.data.cards.scenes_layout import Draws, Item, Scene, draw_pair, split_of_pair
from diptych.data.cards.scenes_nouns import NOUNS
from diptych.data.cards.scenes_pairs import statements
from diptych.data.cards.scenes_text import captions, questions
from diptych.data.cards.sprites import SHIPPED_SIZE, STYLES, Concept, shipped
from diptych.data.sample import Sample
from diptych.errors import DataError

DEFAULT_SIZE = 10_000
DEFAULT_RESOLUTION = 128
MIN_ITEMS = 10

OPTIONS = {
    "size": f"number of scenes (default {DEFAULT_SIZE})",
    "seed": "another seed gives other scenes with the same split of combinations (default 0)",
    "resolution": f"side of the pictures in pixels, 48 to 1024 (default {DEFAULT_RESOLUTION})",
    "style": f"art styles to use, with commas; one a scene (default all: {','.join(STYLES)})",
    "kinds": f"number of different emoji, {MIN_ITEMS} to {len(NOUNS)}, spread over the list (default all)",
}


@dataclass(frozen=True)
class Sprites:
    """What scenes are made of."""

    items: tuple[Item, ...]
    pictures: Mapping[tuple[str, str], bytes]
    """(hexcode, style) -> encoded picture."""


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
    """Yield scenes; scene i depends on the seed and i only (and on the kinds, the styles and the resolution).

    Raises:
        UsageError: an unknown option or a bad value.
        DataError: packages under `raw` are missing or hold too few of the emoji that scenes use.
    """
    given = Options("emoji-scenes", options, OPTIONS)
    size = given.integer("size", DEFAULT_SIZE, 1, 10**9)
    seed = given.integer("seed", 0, 0, 2**63 - 1)
    resolution = given.integer("resolution", DEFAULT_RESOLUTION, 48, 1024)
    styles = given.several("style", STYLES, STYLES)
    kinds = given.integer("kinds", len(NOUNS), MIN_ITEMS, len(NOUNS))
    concepts = shipped() if raw is None else tuple(read_raw(raw, max(SHIPPED_SIZE, resolution // 3)))
    sprites = load_sprites(concepts)
    items = spread(sprites.items, kinds)
    painter = Painter(resolution, sprites.pictures)
    for index in range(0, size, 2):
        for sample in _pair_samples(seed, index // 2, items, styles, painter)[: size - index]:
            yield sample if index + 1 < size else _without_partner(sample)


def load_sprites(concepts: Sequence[Concept], card: str = "emoji-scenes") -> Sprites:
    """Pick the concepts that have a count noun.

    Raises:
        DataError: fewer than `MIN_ITEMS` of them are there.
    """
    by_name = {concept.name: concept for concept in concepts}
    items = tuple(Item(by_name[noun.name].hexcode, noun) for noun in NOUNS if noun.name in by_name)
    if len(items) < MIN_ITEMS:
        raise DataError(
            f"card '{card}': {len(items)} of the {len(NOUNS)} emoji that scenes use are in the raw "
            f"packages, expected at least {MIN_ITEMS}; get the packages again"
        )
    used = [by_name[item.noun.name] for item in items]
    return Sprites(items, {(c.hexcode, style): data for c in used for style, data in c.sprites.items()})


def spread(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Return `count` of the items, evenly spaced, or all of them where there are no more.

    The list is ordered by theme, so that its first ones would all be animals.
    """
    kept = min(count, len(items))
    return tuple(items[i * len(items) // kept] for i in range(kept))


def _pair_samples(
    seed: int, pair: int, items: Sequence[Item], styles: Sequence[str], painter: Painter
) -> list[Sample]:
    left, right = draw_pair(seed, pair, items, styles)
    # Words have their own source of chance: a change in one does not move the pictures.
    draws = Draws(f"{seed}/{pair}/text")
    texts = [captions(scene, draws) for scene in (left, right)]
    asked = [questions(left, items, right, draws), questions(right, items, left, draws)]
    said = statements(left, right, items, draws)
    return [
        _sample(pair, i, scene, painter, texts[i], asked[i], said if i == 0 else [])
        for i, scene in enumerate((left, right))
    ]


def _sample(
    pair: int,
    side: int,
    scene: Scene,
    painter: Painter,
    texts: tuple[str, ...],
    asked: list[dict[str, str]],
    said: list[dict[str, Any]],
) -> Sample:
    return Sample(
        key=_key(2 * pair + side),
        media={"webp": painter.webp(scene)},
        captions=texts,
        split=split_of_pair(pair),
        meta={
            "style": scene.style,
            "objects": sum(group.count for group in scene.groups),
            "kinds": len(scene.groups),
            "combination": scene.combination,
            "pair": pair,
            "pair_side": ("left", "right")[side],
            "pair_other": _key(2 * pair + 1 - side),
            "layout": scene.layout(),
            "questions": asked,
            "statements": said,
        },
    )


def _key(index: int) -> str:
    return f"scene_{index:09d}"


def _without_partner(sample: Sample) -> Sample:
    """The last scene of an odd number: its statements would be about a picture that is not there."""
    meta = {**sample.meta, "pair_other": "", "statements": []}
    return Sample(sample.key, sample.media, sample.captions, sample.match_id, sample.split, meta)


CARD = Card(
    name="emoji-scenes",
    title="Composed emoji scenes",
    description=(
        "Two to five emoji on coloured tiles of a 3 x 3 grid, drawn from a seed, with exact ground truth. "
        "Captions: everything with counts, colours and a relation; what is there; one relation. "
        "`questions`: `{kind, question, answer}` of the kinds count, presence, color, color_check, position, "
        "object_on_color, object_beside and relation. "
        "Scenes come in pairs that share up to two kinds of emoji: `pair`, `pair_side` (left or right) and "
        "`pair_other` (key of the other picture) are columns of the index; the left one's `statements` are "
        "`{kind, statement, label}` about both, half of them true. "
        "`layout` holds each object's name, concept, tile colour, row and column. "
        "The splits have no combination of emoji in common, for any seed."
    ),
    licence=EMOJI.licence,
    convert=convert,
    splits={
        "train": Split("split = 'train'", note="eight of ten pairs"),
        "val": Split("split = 'val'", note="one of ten pairs"),
        "test": Split("split = 'test'", note="one of ten pairs"),
    },
    sources=EMOJI.sources,
    options=OPTIONS,
    prepared=(
        "- key: `scene_` and the number of the scene with 9 digits; match id: the same\n"
        "- medium: `webp`\n"
        "- captions: two or three, see above\n"
        "- columns: `style`, `objects`, `kinds`, `combination`, `pair`, `pair_side`, `pair_other`, "
        "`questions` and `statements` (how many)\n"
        "- in the JSON: `questions`, `statements`, `layout`"
    ),
    oddities=(
        "- Scenes are made when they are prepared; equal seeds and options give equal bytes.\n"
        "- An odd `size` leaves the last scene without a partner: it has no statements."
    ),
    homepage=EMOJI.homepage,
    needs_raw=False,
)

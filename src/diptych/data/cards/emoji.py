"""The `emoji` card: the same concepts drawn in four art styles, with their names."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.emoji_raw import PACKAGES, read_raw
from diptych.data.cards.options import Options
from diptych.data.cards.sprites import SHIPPED_SIZE, STYLES, Concept, shipped
from diptych.data.sample import Sample
from diptych.errors import UsageError

CONCEPTS = 1378
HELD_OUT = 137
TEST_STYLE = "twemoji"

OPTIONS = {
    "size": f"side of the pictures in pixels, 16 to 512 (default {SHIPPED_SIZE}; other sizes need --raw; "
    "Noto and Twemoji come at 64 pixels and are enlarged above)",
    "captions": "`name` (default): the name is the only caption; `tags`: a second caption holds the tags "
    "(several concepts share some, so it is a training text, not a test query)",
}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
    """Yield the four pictures of each concept in turn, concepts in Unicode order.

    Raises:
        UsageError: an unknown option, or a size that the shipped pictures do not have.
        DataError: a package under `raw` is missing or damaged.
    """
    given = Options("emoji", options, OPTIONS)
    size = given.integer("size", SHIPPED_SIZE, 16, 512)
    with_tags = given.choice("captions", "name", ("name", "tags")) == "tags"
    if raw is None and size != SHIPPED_SIZE:
        raise UsageError(
            f"card 'emoji', option size={size}: the shipped pictures have {SHIPPED_SIZE} pixels; "
            "other sizes are made from the npm packages (--raw DIR)"
        )
    concepts: Iterable[Concept] = shipped() if raw is None else read_raw(raw, size)
    for order, concept in enumerate(concepts):
        for style in STYLES:
            yield _sample(concept, style, order, with_tags)


def _sample(concept: Concept, style: str, order: int, with_tags: bool) -> Sample:
    captions = (concept.name, " ".join(concept.tags)) if with_tags and concept.tags else (concept.name,)
    return Sample(
        key=f"{style}_{concept.hexcode.lower()}",
        media={"webp": concept.sprites[style]},
        captions=captions,
        match_id=concept.hexcode,
        split="unseen_style" if style == TEST_STYLE else "train",
        meta={
            "style": style,
            "concept": concept.hexcode,
            "name": concept.name,
            "category": concept.group,
            "subcategory": concept.subgroup,
            "held_out_concept": concept.held_out,
            "concept_index": order,
            "tags": list(concept.tags),
            "translations": dict(concept.translations),
        },
    )


CARD = Card(
    name="emoji",
    title="Emoji in four art styles",
    description=(
        "Pictures of the same concepts in four art styles (Noto, Twemoji, Fluent 3D, Fluent flat) with "
        "transparency, and their English names, tags, categories and translated names (de, es, fr, ja, zh). "
        "A concept is an emoji that all four styles show. Left out are flags, components (skin tones, hair), "
        "skin-tone variants and zero-width-joiner sequences (mostly variants by gender or profession). "
        "Ships with the package at 64 pixels; the npm packages give any size, and "
        "`python -m diptych.data.cards.emoji_build --raw DIR --out FILE` makes the shipped table from them. "
        "A known quirk of the source: Fluent draws 'grinning cat' and 'cat face' alike."
    ),
    licence=(
        "Noto: Apache-2.0 (Google). Twemoji: CC BY 4.0 (Twitter and contributors). Fluent: MIT (Microsoft). "
        "Names and tags: emojibase, MIT (Miles Johnson)."
    ),
    convert=convert,
    splits={
        "train": Split("style <> 'twemoji'", 3 * CONCEPTS, "all concepts in the three styles for training"),
        "unseen_style": Split("style = 'twemoji'", CONCEPTS, "the same concepts in a style never trained on"),
        "train_seen_concepts": Split(
            "style <> 'twemoji' AND NOT held_out_concept",
            3 * (CONCEPTS - HELD_OUT),
            "without the tenth of the concepts (of each category) that is held out",
        ),
        "unseen_concepts": Split(
            "style <> 'twemoji' AND held_out_concept",
            3 * HELD_OUT,
            "held-out concepts in the training styles; train on train_seen_concepts",
        ),
        "unseen_both": Split(
            "style = 'twemoji' AND held_out_concept",
            HELD_OUT,
            "held-out concepts in the held-out style; train on train_seen_concepts",
        ),
    },
    sources=tuple(
        Source(
            package.tarball, f"npm pack {package.name}@{package.version} (packed or unpacked)", required=False
        )
        for package in PACKAGES
    ),
    options=OPTIONS,
    prepared=(
        "- key: `<style>_<code points>`, `noto_1f600`\n"
        "- medium: `webp` with transparency\n"
        "- captions: the English name; with `-o captions=tags` also the tags\n"
        "- match id: the code points, the same in all styles\n"
        "- columns: `style`, `concept`, `name`, `category`, `subcategory`, `held_out_concept`, "
        "`concept_index`\n"
        "- in the JSON: `tags`, `translations`"
    ),
    oddities=(
        "- Fluent draws 'grinning cat' and 'cat face' alike.\n"
        "- Noto and Twemoji come at 64 pixels; other sizes are enlarged.\n"
        "- Left out are flags, components, skin-tone variants and sequences with a zero-width joiner."
    ),
    homepage="https://emojibase.dev",
    needs_raw=False,
)

"""The `emoji-glue` card: sentences about emoji in the shape of GLUE, from the names and tags that ship."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Split
from diptych.data.cards.emoji import CARD as EMOJI
from diptych.data.cards.glue import FULL_SCORE
from diptych.data.cards.options import Options
from diptych.data.cards.scenes_layout import Draws
from diptych.data.cards.sprites import Concept, shipped
from diptych.data.sample import Sample
from diptych.errors import UsageError

NAME = "emoji-glue"
SAME, GROUP, SIMILARITY = "emoji-same", "emoji-group", "emoji-similarity"
GROUPS = {
    "smileys-emotion": "emotion",
    "people-body": "person",
    "animals-nature": "nature",
    "food-drink": "food",
    "travel-places": "travel",
    "activities": "activity",
    "objects": "object",
    "symbols": "symbol",
}
"""Group of emojibase -> the word for it."""
TASKS: dict[str, dict[str, Any]] = {
    SAME: {"like": "mrpc", "classes": ["no", "yes"]},
    GROUP: {"like": "sst-2", "classes": list(GROUPS.values())},
    SIMILARITY: {"like": "sts-b"},
}
"""Task -> what the task `glue` has to know: whose prompt and figures it has, and the words of its classes."""
_TAGS = 4
"""Tags of a concept that pairs are made of, at most."""
_RELATED, _OTHERS = 3, 2
"""Names that a name is compared with: of concepts that share tags with it, and of any."""
OPTIONS = {
    "tasks": f"tasks to make, with commas (default: all; {', '.join(TASKS)})",
    "seed": "another seed draws other pairs, with the same concepts in each split (default 0)",
}
Row = tuple[tuple[str, ...], dict[str, Any]]


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
    """Yield the rows of each task, split by split; a row depends on the seed and its concept only.

    Raises:
        UsageError: an unknown option, a bad value, or raw files, of which there are none.
    """
    if raw is not None:
        raise UsageError(f"card '{NAME}' is made of what ships with Diptych; leave --raw out")
    given = Options(NAME, options, OPTIONS)
    tasks = given.several("tasks", tuple(TASKS), tuple(TASKS))
    seed = given.integer("seed", 0, 0, 2**63 - 1)
    parts: dict[str, list[Concept]] = {"train": [], "val": [], "test": []}
    for concept in shipped():
        parts[split_of(concept)].append(concept)
    make = {SAME: _same, GROUP: _group, SIMILARITY: _similarity}
    for task in tasks:
        for split, concepts in parts.items():
            rows = (row for concept in concepts for row in make[task](concept, concepts, seed))
            for index, (texts, meta) in enumerate(rows):
                key = f"{task}-{split}-{index}"
                yield Sample(key, {}, texts, "", split, {"task": task, "index": index, **meta})


def split_of(concept: Concept) -> str:
    """Return the split of all rows about a concept: test is the tenth that is held out of `emoji`."""
    if concept.held_out:
        return "test"
    digest = hashlib.sha256(f"val {concept.hexcode}".encode()).digest()
    return "val" if digest[0] * 9 < 256 else "train"


def similarity(a: Concept, b: Concept) -> float:
    """Return how many tags two concepts share, as a score from 0 to 5 (Dice's), to two decimals."""
    shared = len(set(a.tags) & set(b.tags))
    return round(FULL_SCORE * 2 * shared / (len(a.tags) + len(b.tags)), 2)


def _same(concept: Concept, concepts: Sequence[Concept], seed: int) -> Iterator[Row]:
    """Yield (name, tag): each tag that is the concept's, then one of another's that is not."""
    draws = Draws(f"{seed}/{SAME}/{concept.hexcode}")
    own = {*concept.tags, *concept.name.split()}
    told = {concept.name}
    for tag in draws.sample(concept.tags, min(_TAGS, len(concept.tags))):
        wrong = next(t for t in _endless(draws, concepts) if t not in own and t not in told)
        told.add(wrong)
        for text, label in ((tag, 1), (wrong, 0)):
            yield (concept.name, text), _classified(SAME, label, concept)


def _endless(draws: Draws, concepts: Sequence[Concept]) -> Iterator[str]:
    """Yield tags of concepts drawn at random."""
    while True:
        yield draws.pick(draws.pick(concepts).tags)


def _group(concept: Concept, concepts: Sequence[Concept], seed: int) -> Iterator[Row]:
    """Yield the name, and the tags as a list, each with the concept's group."""
    label = list(GROUPS).index(concept.group)
    for text in (concept.name, ", ".join(concept.tags)):
        yield (text,), _classified(GROUP, label, concept)


def _similarity(concept: Concept, concepts: Sequence[Concept], seed: int) -> Iterator[Row]:
    """Yield the name beside names of concepts that share tags with it, and of any others."""
    draws = Draws(f"{seed}/{SIMILARITY}/{concept.hexcode}")
    others = [other for other in concepts if other is not concept]
    related = [other for other in others if set(other.tags) & set(concept.tags)]
    chosen = draws.sample(related, min(_RELATED, len(related)))
    chosen += draws.sample([other for other in others if other not in chosen], _OTHERS)
    for other in chosen:
        score = similarity(concept, other)
        facts = {"score": score, "target": round(score / FULL_SCORE, 3), "concept": concept.hexcode}
        yield (concept.name, other.name), facts


def _classified(task: str, label: int, concept: Concept) -> dict[str, Any]:
    name = TASKS[task]["classes"][label]
    return {"label": label, "class_name": name, "concept": concept.hexcode}


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what the tasks are like, and their classes, for the task `glue`."""
    return {"glue": TASKS}


_COUNTS = {SAME: (7_676, 938, 956), GROUP: (2_214, 268, 274), SIMILARITY: (5_333, 527, 583)}
"""Task -> rows of train, val and test, with any seed."""

CARD = Card(
    name=NAME,
    title="Sentences about emoji, in the shape of GLUE",
    description=(
        "Three tasks on text alone, made of the English names and tags of the emoji that ship with Diptych, "
        "so that what trains on GLUE trains without a download. `emoji-same`: a name and a tag, of the same "
        "emoji or not. `emoji-group`: a name or a list of tags, and which of eight groups it belongs to. "
        "`emoji-similarity`: two names, and how many tags their emoji share (0 to 5). All rows about an "
        "emoji are in one split (both of a pair, too), so that names of val and test were never trained on."
    ),
    licence="Names and tags: emojibase, MIT (Miles Johnson).",
    convert=convert,
    facts=facts,
    splits={
        f"{task}_{split}": Split(f"task = '{task}' AND split = '{split}'", count)
        for task, counts in _COUNTS.items()
        for split, count in zip(("train", "val", "test"), counts, strict=True)
    },
    options=OPTIONS,
    media="text",
    prepared=(
        "Key: task, split and row number from 0 (`emoji-same-val-17`). No media. Captions: the sentence, or "
        "both sentences in their order. Columns as those of `glue`: `task`, `index` (the row number), "
        "`label` and `class_name`, or `score` (0 to 5) and `target` (score / 5); and `concept`, the code "
        "points of the emoji. The facts in dataset.json tell the task `glue` of prompts and classes."
    ),
    oddities=(
        "Half of the pairs of `emoji-same` are the same emoji. A wrong tag is none of the emoji's tags and "
        "no word of its name, but may fit it all the same. Test has labels. With `-o tasks=` the counts "
        "of the other tasks are reported as missing."
    ),
    homepage=EMOJI.homepage,
    needs_raw=False,
)

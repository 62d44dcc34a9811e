"""What the page of a dataset says of its quality: counts, failures, texts, pictures that look alike."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.data.expected import warnings_of
from diptych.data.index import ShardDataset
from diptych.data.members import COUNTED
from diptych.data.selection import Selection
from diptych.errors import DiptychError
from diptych.report.pictures import sample_uri

TEXTS = 20_000
"""Samples, at most, of which the texts are read."""
WORDS = 26
LANGUAGES = 12
CLASSIFIED = 3000
"""Texts, at most, whose language is guessed."""
LEAST_LETTERS = 20
"""Texts with fewer letters are too short to guess a language."""
HASHED = 20_000
"""Samples, at most, whose pictures are hashed for the page; larger sets have to be hashed before."""
GROUPS = 12
"""Groups of similar pictures that are shown."""
HOSTS = 12

_FUNCTION_WORDS = """
a an and are as at be by for from has have he her his in is it its of on one or s she some that the their
there this to two was we were what which who will with you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Frequent in any English text, so they tell nothing of a dataset."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class SplitRow:
    """A split, and whether it is as large as it should be."""

    name: str
    where: str
    note: str
    samples: int
    expected: int | None
    texts: int | None
    expected_texts: int | None
    about: bool
    wrong: list[str]
    """What differs."""


@dataclass(frozen=True)
class Cause:
    """Why something was left out or changed."""

    name: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class FetchView:
    """What became of a list of addresses."""

    rows: int
    fetched: int
    causes: list[Cause]
    hosts: list[Mapping[str, Any]]


@dataclass(frozen=True)
class TextView:
    """What the texts are made of."""

    kind: str
    """captions, questions or statements."""
    samples: int
    """Of how many samples."""
    texts: int
    distinct: int
    words: list[tuple[str, int]]
    scripts: list[tuple[str, int]]
    """Writing system -> letters."""
    languages: list[tuple[str, int]]
    classified: int
    """Texts whose language was guessed."""
    guesses: bool
    """Whether languages can be guessed: py3langid is installed."""
    examples: list[str]


@dataclass(frozen=True)
class Alike:
    """A group of samples that look alike or are equal."""

    pictures: list[tuple[str, str, str]]
    """(key, data URI, what it is like the first one)."""
    more: int


@dataclass(frozen=True)
class DuplicateView:
    """Samples that are there twice, or look alike."""

    found: int
    counts: list[tuple[str, int]]
    groups: list[Alike] = field(default_factory=list)
    hashed: bool = True
    """Whether pictures were compared by their looks."""


def split_rows(dataset: ShardDataset) -> list[SplitRow]:
    """Return the splits with what was expected of them."""
    rows = []
    for name, known in dataset.info["splits"].items():
        count = known["count"] if "count" in known else len(dataset.select(name))
        rows.append(
            SplitRow(
                name=name,
                where=known["where"],
                note=known.get("note", ""),
                samples=count,
                expected=known.get("expected"),
                texts=known.get("count_texts"),
                expected_texts=known.get("texts"),
                about=bool(known.get("about")),
                wrong=warnings_of(name, {**known, "count": count}),
            )
        )
    return rows


def causes(counts: Mapping[str, int], examples: Mapping[str, Iterable[str]]) -> list[Cause]:
    """Return causes, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Cause(name, int(count), list(examples.get(name, []))) for name, count in ordered]


def fetch_view(dataset: ShardDataset) -> FetchView | None:
    """Return what `diptych data fetch` left beside a dataset; None if it made none or it cannot be read."""
    try:
        known = json.loads((dataset.root / "fetch.json").read_text(encoding="utf-8"))
        worst = sorted(known["hosts"], key=lambda host: (host["fetched"] - host["rows"], host["host"]))
        return FetchView(
            known["rows"], known["fetched"], causes(known["causes"], known.get("examples", {})), worst[:HOSTS]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def text_view(dataset: ShardDataset) -> TextView | None:
    """Return what the texts of evenly spaced samples are made of; None if there are none."""
    from diptych.data.examples import TEXT, all_entries

    picked = np.unique(np.linspace(0, dataset.size - 1, min(dataset.size, TEXTS)).round().astype(np.int64))
    samples = Selection(dataset, picked)
    for kind in ("captions", *COUNTED):
        if kind not in dataset.columns:
            continue
        texts, owners = list[str](), 0
        try:
            for entries in all_entries(samples, kind):
                found = [
                    str(entry if kind == "captions" else entry.get(TEXT[kind], ""))
                    for entry in entries
                    if kind == "captions" or isinstance(entry, dict)
                ]
                owners += bool(found)
                texts += found
        except DiptychError:
            return None  # `diptych data verify` says what is damaged
        if texts:
            return _texts(kind, owners, texts)
    return None


def _texts(kind: str, samples: int, texts: list[str]) -> TextView:
    words: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for text in texts:
        words.update(word for word in _WORD.findall(text.lower()) if len(word) <= 30)
        letters.update(text)
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[script_of(letter)] += count
    languages, classified = _languages(texts)
    telling = [(word, count) for word, count in words.most_common() if word not in FUNCTION_WORDS]
    middle = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, 8).astype(int)).tolist()]
    return TextView(
        kind=kind,
        samples=samples,
        texts=len(texts),
        distinct=len(set(texts)),
        words=telling[:WORDS],
        scripts=scripts.most_common(LANGUAGES),
        languages=languages,
        classified=classified or 0,
        guesses=classified is not None,
        examples=[text if len(text) < 300 else text[:300] + " ..." for text in middle],
    )


@lru_cache(4096)
def script_of(letter: str) -> str:
    """Return the writing system of a letter by its Unicode name: Latin, Cyrillic, Han, ..."""
    name = unicodedata.name(letter, "other").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "")
    first = name.partition(" ")[0].partition("-")[0]
    return {"CJK": "Han", "MATHEMATICAL": "Latin", "FEMININE": "Latin", "MASCULINE": "Latin"}.get(
        first, first.capitalize()
    )


def _languages(texts: list[str]) -> tuple[list[tuple[str, int]], int | None]:
    """Return guessed languages and of how many texts; None where py3langid is not installed."""
    try:
        import py3langid
    except ImportError:
        return [], None
    long = [text for text in texts if sum(map(str.isalpha, text)) >= LEAST_LETTERS]
    step = max(len(long) // CLASSIFIED, 1)
    picked = long[::step][:CLASSIFIED]
    found = Counter(py3langid.classify(text)[0] for text in picked)
    return found.most_common(LANGUAGES), len(picked)


def duplicate_view(dataset: ShardDataset) -> DuplicateView | None:
    """Return what is there twice; None if it cannot be found out."""
    from diptych.data.dedup import NamedSet, find_duplicates
    from diptych.data.phash import kept

    everything = Selection(dataset, None)
    hashed = dataset.size <= HASHED or kept(dataset)
    try:
        rows = find_duplicates(
            [NamedSet(dataset.name, everything)], kind="near" if hashed else "media"
        ).table.to_pylist()
        return DuplicateView(len(rows), _kinds(rows), _groups(dataset, rows), hashed)
    except DiptychError:
        return None  # a damaged index, or no place for hashes


def _kinds(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    means = {"sample": "equal media and texts", "media": "equal media, other texts", "near": "look alike"}
    counts = Counter(row["kind"] for row in rows)
    return [(meaning, counts[kind]) for kind, meaning in means.items() if counts[kind]]


def _groups(dataset: ShardDataset, rows: list[dict[str, Any]]) -> list[Alike]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["kept_key"], []).append(row)
    # Evenly spaced, so that not all come from the first shard.
    picks = np.unique(np.linspace(0, len(grouped) - 1, min(GROUPS, len(grouped))).astype(int)).tolist()
    names = [list(grouped)[i] for i in picks]
    shown = {name: grouped[name][:3] for name in names}
    keys = {*shown, *(row["key"] for members in shown.values() for row in members)}
    uris = _uris(dataset, keys)
    out = []
    for name, members in shown.items():
        pictures = [(name, uris.get(name, ""), "stays")]
        for row in members:
            bits = f"{row['distance']} bit{'s' if row['distance'] != 1 else ''}"
            how = bits if row["kind"] == "near" else f"equal {row['kind']}"
            pictures.append((row["key"], uris.get(row["key"], ""), how))
        out.append(Alike(pictures, len(grouped[name]) - len(members)))
    return out


def _uris(dataset: ShardDataset, keys: set[str]) -> dict[str, str]:
    if not keys:
        return {}
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in sorted(keys))
    selection = dataset.select(where=f"key in ({quoted})")
    found = {}
    for i in range(len(selection)):
        try:
            sample = selection.read(i)
        except DiptychError:
            continue
        found[sample.key] = sample_uri(sample)
    return found

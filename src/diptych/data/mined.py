"""The files of `diptych words mine`, which are those of the published scripts."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.files import written_whole
from diptych.data.taggers import COUNTED
from diptych.data.words import ABANDONED, KINDS, Ranked, group_words, keep_main_kinds, rank_words
from diptych.errors import DataError

COUNTS = "counts.json"
"""Kind -> word -> number (first stage)."""
ALL = "words_all.json"
"""Ranks and shares of all words of the vocabulary (second stage); `.csv` beside it."""
WORDS = "words.json"
"""The same without the kinds that a word seldom is (third stage): what masking reads."""
GROUPS = "groups.json"
"""Frequent words of each kind, in groups by frequency (third stage)."""

TOP, THRESHOLD = 3000, 0.25
GROUP_THRESHOLDS = (50_000, 30_000, 10_000, 3_000, 0)
"""Published settings."""


@dataclass(frozen=True)
class Mined:
    """What ranking gave."""

    words: Ranked
    """As in `words.json`."""
    counted: int
    """Words that were counted, of all kinds."""
    ranked: int
    """Of these, those that are whole words of the vocabulary and count."""


def rank_and_write(
    counts: Mapping[str, Mapping[str, int]],
    vocabulary: Sequence[str],
    out: Path,
    *,
    abandoned: Collection[str] = ABANDONED,
    top: int = TOP,
    threshold: float = THRESHOLD,
    thresholds: Sequence[int] = GROUP_THRESHOLDS,
) -> Mined:
    """Rank counted words and write all files into `out` (made if needed).

    Args:
        counts: kind in capitals -> word -> number.
        vocabulary: tokens in the order of their ids.
        out: folder.
        abandoned: words that never count.
        top: words up to this rank come into the groups.
        threshold: kinds with a smaller share of a word's occurrences do not count for it.
        thresholds: falling numbers; see `group_words`.

    Raises:
        DataError: no counted word is a word of the vocabulary.
        WriteError: a file cannot be written.
    """
    everything = rank_words(counts, vocabulary, abandoned)
    known = sum(everything.totals)
    if not known:
        raise DataError(
            "none of the counted words is a whole word of the tokenizer's vocabulary that counts; "
            "use a tokenizer with whole words, such as BERT's vocab.txt"
        )
    main = keep_main_kinds(everything, threshold)
    out.mkdir(parents=True, exist_ok=True)
    write_counts(counts, out)
    _write(out / ALL, everything.columns())
    _write(out / WORDS, main.columns())
    _write(out / GROUPS, group_words(main, top, thresholds))
    _write_table(out / Path(ALL).with_suffix(".csv"), everything)
    return Mined(main, sum(sum(words.values()) for words in counts.values()), known)


def write_counts(counts: Mapping[str, Mapping[str, int]], out: Path) -> Path:
    """Write the file of the first stage into `out` (made if needed) and return its path."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / COUNTS, {kind: dict(counts.get(kind, {})) for kind in COUNTED})
    return out / COUNTS


def read_counts(path: Path) -> dict[str, dict[str, int]]:
    """Read a file of the first stage, ours or published.

    Raises:
        DataError: it cannot be read or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected counts of words as JSON") from error
    kinds = [kind.upper() for kind in KINDS]
    right = isinstance(content, dict) and all(
        isinstance(content.get(kind), dict) and all(isinstance(n, int) for n in content[kind].values())
        for kind in kinds
    )
    if not right:
        raise DataError(
            f"{path}: expected an object with {', '.join(kinds)}, each with a number for every word"
        )
    return {kind: content[kind] for kind in COUNTED if isinstance(content.get(kind), dict)}


def top_words(ranked: Ranked, count: int) -> list[tuple[int, str, int, str]]:
    """Return rank, word, number and main kind of the most frequent words."""
    order = sorted((i for i, n in enumerate(ranked.totals) if n), key=lambda i: (ranked.ranks[i], i))
    return [(ranked.ranks[i], ranked.names[i], ranked.totals[i], main_kind(ranked, i)) for i in order[:count]]


def main_kind(ranked: Ranked, word: int) -> str:
    """Return the kind that a word mostly is; empty if it has none left."""
    best = max(KINDS, key=lambda kind: ranked.shares[kind][word])
    return best if ranked.shares[best][word] else ""


def _write(path: Path, content: Any) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_table(path: Path, ranked: Ranked) -> None:
    columns = ranked.columns()
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))

"""Masking the words that carry the meaning of a caption (MSSM of SNP-S3).

Which words do is a matter of how often they occur as noun, verb or adjective in a corpus: `diptych words
mine` counts, and writes what is read here.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diptych.errors import DataError

_MASKED, _REPLACED = 0.8, 0.9
"""Draws below the first become the mask token, those below the second another word, the rest stays."""
_EASE = 0.3
"""Share of a word from which on the number of hidden words is rounded up."""


class Random(Protocol):
    """What is used of Python's generator."""

    def sample(self, population: range, k: int) -> list[int]:
        """Return `k` different numbers."""
        ...

    def random(self) -> float:
        """Return a number in 0..1."""
        ...

    def randint(self, a: int, b: int) -> int:
        """Return a whole number from `a` to `b`, both included."""
        ...


@dataclass(frozen=True)
class Words:
    """Ranks of the words of a vocabulary, and other forms of them."""

    ranks: Sequence[int]
    """By id: place among all words by frequency; rare ones share the last."""
    forms: Sequence[Sequence[int]]
    """By id: ids of other forms of the word; may be empty."""
    top: int = 3000
    """Words up to this rank count as significant."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "chosen", [i for i, rank in enumerate(self.ranks) if rank <= self.top])

    chosen: Sequence[int] = ()
    """Ids of all significant words."""

    def is_significant(self, word: int) -> bool:
        """Tell whether an id is that of a significant word."""
        return 0 <= word < len(self.ranks) and self.ranks[word] <= self.top


def hidden_count(tokens: int, ratio: float) -> int:
    """Return how many of so many tokens are hidden: their share, rounded up from 0.3 on (published)."""
    share = ratio * tokens
    whole = math.floor(share)
    return whole + (share - whole >= _EASE)


@dataclass(frozen=True)
class Hidden:
    """A caption with words hidden."""

    shown: list[int]
    """Ids to show."""
    targets: list[int]
    """Ids to be found; `ignored` elsewhere."""


def hide_significant(
    ids: Sequence[int],
    words: Words,
    mask_id: int,
    random: Random,
    *,
    ratio: float = 0.15,
    ignored: int = -1,
    first_letter: dict[int, int] | None = None,
    published: bool = False,
) -> Hidden:
    """Hide significant words of a caption; others only where there are not enough.

    Of the hidden ones 80 % become the mask token, 10 % a form of another significant word, 10 % stay.

    Args:
        ids: of the caption, without start and end tokens.
        words: which words are significant.
        mask_id: of the mask token.
        random: draws; in the published order, so that its draws give its results.
        ratio: share of the tokens that is hidden.
        ignored: target of tokens that are not to be found.
        first_letter: with `published`, id of a significant word -> id of its first letter.
        published: repeat two defects of the published code: where significant words are too few, numbers of
            the others are taken for places, and the mask token is what is to be found there; and a word
            without other forms is replaced by its first letter instead of itself.
    """
    shown, targets = list(ids), [ignored] * len(ids)
    significant = [i for i, word in enumerate(ids) if words.is_significant(word)]
    others = [i for i, word in enumerate(ids) if not words.is_significant(word)]
    wanted = hidden_count(len(ids), ratio)
    if wanted <= len(significant):
        chosen = sorted(significant[i] for i in random.sample(range(len(significant)), wanted))
    else:
        chosen = significant
        for number in random.sample(range(len(others)), wanted - len(significant)):
            place = number if published else others[number]
            shown[place], targets[place] = mask_id, mask_id if published else ids[place]
    for place in chosen:
        targets[place] = shown[place]
        draw = random.random()
        if draw < _MASKED:
            shown[place] = mask_id
        elif draw < _REPLACED:
            shown[place] = _another(words, random, first_letter if published else None)
    return Hidden(shown, targets)


def _another(words: Words, random: Random, first_letter: dict[int, int] | None) -> int:
    """Draw a form of a significant word."""
    word = words.chosen[random.randint(0, len(words.chosen) - 1)]
    forms = words.forms[word] if word < len(words.forms) else ()
    if forms:
        return forms[random.randint(0, len(forms) - 1)]
    return word if first_letter is None else first_letter[word]


def with_specials(
    ids: Sequence[int],
    targets: Sequence[int],
    start: int,
    end: int,
    length: int,
    pad: int = 0,
    ignored: int = -1,
) -> tuple[list[int], list[int], list[int]]:
    """Put a caption between start and end token and pad it.

    Returns:
        Ids, mask (1 at real tokens) and targets, each of `length`. Of a caption that is too long the end is
        cut off.
    """
    kept = list(ids)[: length - 2]
    inside = [start, *kept, end]
    missing = length - len(inside)
    wanted = [ignored, *targets[: len(kept)], ignored]
    return inside + [pad] * missing, [1] * len(inside) + [0] * missing, wanted + [ignored] * missing


def read_words(
    path: str | Path, vocabulary: Sequence[str], top: int = 3000, forms: str | Path | None = None
) -> Words:
    """Read a file of `diptych words mine`, or a published one (`count_reprocess_*.json`).

    Args:
        path: JSON with the lists `name` and `rank`, one entry a word of the vocabulary.
        vocabulary: tokens in the order of their ids, to see that it is the same.
        top: words up to this rank count as significant.
        forms: JSON list of lists of other forms of each word (`vocab_simi_list_new.json`); None: none.

    Raises:
        DataError: it cannot be read, has another form, or belongs to another vocabulary.
    """
    content = _read(path)
    ranks = content.get("rank") if isinstance(content, dict) else None
    if not isinstance(ranks, list) or not all(isinstance(rank, int) for rank in ranks):
        raise DataError(f"{path}: expected an object with a list of whole numbers 'rank'")
    names = content.get("name")
    if names is not None and list(names) != list(vocabulary):
        raise DataError(
            f"{path}: counts {len(names)} words of another vocabulary than the tokenizer's "
            f"{len(vocabulary)}; "
            "count again with `diptych words mine --tokenizer ...`"
        )
    if len(ranks) != len(vocabulary):
        raise DataError(f"{path}: ranks of {len(ranks)} words, but the tokenizer has {len(vocabulary)}")
    return Words(ranks, _read_forms(forms, vocabulary), top)


def _read_forms(path: str | Path | None, vocabulary: Sequence[str]) -> list[list[int]]:
    if path is None:
        return [[] for _ in vocabulary]
    content = _read(path)
    if not isinstance(content, list) or len(content) != len(vocabulary):
        raise DataError(f"{path}: expected a list with one list of words for each of {len(vocabulary)} words")
    ids = {token: i for i, token in enumerate(vocabulary)}
    return [[ids[form] for form in entry if form in ids] for entry in content]


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error})") from error

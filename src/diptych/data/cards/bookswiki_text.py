"""Running text to passages: cleaned lines, sentences, and how many of them make a sample."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST = 4
"""A line is cut into pieces when it has more than this many times the words of a passage."""

_CONTROL = dict.fromkeys((*range(32), *range(0x7F, 0xA0)), " ")
_ENDS = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+(?=[\"'“‘«(\[]*[A-Z0-9À-ÖØ-Þ])")
_ABBREVIATION = re.compile(
    r"[A-Z]|(?i:mr|mrs|ms|dr|prof|st|sr|jr|gen|col|lt|sgt|capt|rev|hon|no|nos|vol|vs|etc|fig|cf|inc|ltd|co|corp|"
    r"dept|est|approx|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|ca|al|p|pp|b|d|v|ed|eds)"
)


@dataclass(frozen=True)
class Line:
    """A line of running text; a text that is empty ends a document."""

    key: str
    text: str


@dataclass(frozen=True)
class Passage:
    """Lines one after another."""

    key: str
    """Of the first line."""
    lines: tuple[str, ...]

    @property
    def words(self) -> int:
        """Number of words."""
        return sum(len(line.split()) for line in self.lines)


def clean_line(text: str) -> str:
    """Return a line without control letters (NUL, ...), blanks around it, and runs of blanks."""
    return " ".join(text.translate(_CONTROL).split())


def sentences(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph of English prose.

    A sentence ends at `.`, `!`, `?` (and closing quotes or brackets) before a capital letter or a digit, not
    behind a common abbreviation or a single capital letter. A simple rule: it does not know all of either.
    """
    start = 0
    for end in _ENDS.finditer(paragraph):
        if not _goes_on(paragraph[start : end.start()], end.group()):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    if paragraph[start:].strip():
        yield paragraph[start:].strip()


def _goes_on(before: str, mark: str) -> bool:
    """Tell whether the period behind `before` belongs to an abbreviation or an initial."""
    if mark.strip() != ".":
        return False
    word = re.split(r"[\s(\[\"'“‘-]", before)[-1]
    return _ABBREVIATION.fullmatch(word) is not None


def passages(lines: Iterable[Line], words: int, *, across: bool = False) -> Iterator[Passage]:
    """Yield consecutive lines in groups of at least `words` words.

    A group ends early at the end of its document. A line of more than `LONGEST` times as many words becomes
    passages of its own.

    Args:
        lines: the text.
        words: words after which a group is full.
        across: go on over the ends of documents, as published readers do.
    """
    key, held, count = "", list[str](), 0
    for line in lines:
        parts = line.text.split()
        full = count >= words or len(parts) > LONGEST * words or (not parts and not across)
        if held and full:
            yield Passage(key, tuple(held))
            held, count = [], 0
        if len(parts) > LONGEST * words:
            yield from _pieces(line.key, parts, words)
        elif parts:
            key = key if held else line.key
            held.append(line.text)
            count += len(parts)
    if held:
        yield Passage(key, tuple(held))


def _pieces(key: str, parts: list[str], words: int) -> Iterator[Passage]:
    for number, start in enumerate(range(0, len(parts), words)):
        yield Passage(f"{key}-{number}", (" ".join(parts[start : start + words]),))

"""Transcripts of videos, and the clips that they make: pieces of speech, joined until there is enough."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diptych.data.raw.listed import finite, squeeze


@dataclass(frozen=True)
class Spoken:
    """A part of a video and what is said in it."""

    start: float
    """Seconds."""
    end: float
    text: str

    def joined(self, other: "Spoken") -> "Spoken":
        """Return this part and a later one as one, with what lies between them."""
        return Spoken(
            min(self.start, other.start), max(self.end, other.end), squeeze(f"{self.text} {other.text}")
        )


def read_transcript(text: str) -> list[Spoken] | str:
    """Return the pieces of `{"start": [...], "end": [...], "text": [...]}` in their order, or what is wrong.

    Pieces without text or length are left out.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    named = [told.get(name) for name in ("start", "end", "text")] if isinstance(told, dict) else []
    columns = [column for column in named if isinstance(column, list)]
    if len(columns) < 3:
        return "expected lists 'start', 'end' and 'text'"
    if len({len(column) for column in columns}) > 1:
        return f"'start', 'end' and 'text' have {', '.join(str(len(column)) for column in columns)} entries"
    found = []
    for first, last, said in zip(*columns, strict=True):
        start, end = finite(first), finite(last)
        if start is None or end is None or not isinstance(said, str):
            return f"start {first!r}, end {last!r}, text {said!r}: expected two numbers and a text"
        if squeeze(said) and end > max(start, 0.0):
            found.append(Spoken(max(start, 0.0), end, squeeze(said)))
    return found


def clips_of(pieces: Sequence[Spoken], seconds: float, characters: int) -> Iterator[Spoken]:
    """Yield the clips of a video, one behind the other; each piece is in one of them.

    A piece is joined with those behind it until the clip is long enough; what is left at the end goes to the
    last clip.

    Args:
        pieces: in their order.
        seconds: of a clip, at least (published: 5).
        characters: of its text, at least (published: 5).
    """
    done: Spoken | None = None
    open_: Spoken | None = None
    for piece in pieces:
        open_ = piece if open_ is None else open_.joined(piece)
        if open_.end - open_.start >= seconds and len(open_.text) >= characters:
            if done is not None:
                yield done
            done, open_ = open_, None
    if open_ is not None:
        done = open_ if done is None else done.joined(open_)
    if done is not None:
        yield done

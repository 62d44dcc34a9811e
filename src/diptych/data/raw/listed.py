"""Lists of addresses as dataset owners publish them: what a row is, and how their text files are read."""

import bz2
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

from diptych.errors import DataError

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]|[\ud800-\udfff]")
"""Control characters that are no white space, and halves of characters (UTF-8 cannot hold them)."""
_UNPACKERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
}
_WEB = re.compile(r"https?://\S", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """A row of a published list of addresses."""

    id: str
    """Names it in the whole dataset, all splits; can be a key."""
    url: str
    caption: str
    split: str = "train"
    file: str = ""
    """Where the common tools (or the owners) put the medium: a path with `/`, without the split's folder
    where there is none."""
    start: float | None = None
    """Seconds into the video at which the clip begins; None: the whole."""
    end: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further columns by the names that a prepared dataset has them under, JSON types."""
    problem: str = ""
    """Why the row cannot be used, if it is damaged."""
    cause: str = "bad entry"
    """What such a row is counted under."""

    def as_row(self) -> dict[str, Any]:
        """Return the row as a dictionary: `id`, `url`, `caption`, `split`, the further columns, and
        where there is one `file`, `start`, `end` and `problem`.
        """
        row: dict[str, Any] = {"id": self.id, "url": self.url, "caption": self.caption, "split": self.split}
        row |= {name: getattr(self, name) for name in ("file", "problem") if getattr(self, name)}
        if self.start is not None or self.end is not None:
            row |= {"start": self.start, "end": self.end}
        return {**self.more, **row}


def squeeze(text: str) -> str:
    """Return a text as captions are kept: stripped, every run of white space one blank.

    Control characters and halves of characters go: no text file can hold them.
    """
    return " ".join(_CONTROL.sub("", text).split())


def is_address(text: str) -> bool:
    """Tell whether a text begins like a web address."""
    return _WEB.match(text.strip().strip('"')) is not None


def finite(value: object) -> float | None:
    """Return a number of JSON as a fraction; None for what is none, and for what no table can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def last_part(url: str) -> str:
    """Return what an address ends with, without query and fragment; never an error, whatever the address."""
    return re.split(r"[?#]", url, maxsplit=1)[0].rpartition("/")[2]


def open_text(path: Path) -> TextIO:
    """Open a text file, also .gz and .bz2, to be read from front to back; only LF ends a line.

    A BOM is dropped, and what is no UTF-8 becomes U+FFFD: a damaged line must not end a preparation.

    Raises:
        DataError: it cannot be opened.
    """
    unpack = _UNPACKERS.get(path.suffix.lower())
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    # newline="\n": a stray CR inside a caption must not move the numbers of all lines behind it.
    content = io.BufferedReader(_Unpacked(unpack(file), file, path), 1 << 20) if unpack else file
    return io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="\n")


class _Unpacked(io.RawIOBase):
    """What a compressed file holds; damage to it is a `DataError` that names it."""

    def __init__(self, inner: IO[bytes], file: IO[bytes], path: Path) -> None:
        self._inner, self._file, self._path = inner, file, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._path} is damaged: {error}; get the file again") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        self._file.close()
        super().close()


def first_of(raw: Path, *names: str) -> Path | None:
    """Return the first of these files (patterns are allowed) that is there."""
    for name in names:
        found = sorted(path for path in raw.glob(name) if path.is_file())
        if found:
            return found[0]
    return None


def need(raw: Path, card: str, *names: str) -> Path:
    """Return the first of these files that is there.

    Raises:
        DataError: none is.
    """
    found = first_of(raw, *names)
    if found is None:
        raise DataError(
            f"{raw}: expected {' or '.join(names)} (`diptych data show {card}` says where to get it)"
        )
    return found

"""Lines, tables and long JSON as dataset owners write them, read one record at a time."""

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TextIO

from diptych.errors import DataError

MAX_FIELD = 16 * 2**20
"""Letters of one field of a CSV. More means that a quote was left open."""
_CHUNK = 1 << 20
_WHITE = " \t\r\n"
_IN_NUMBERS = "0123456789.eE+-"
_LONGEST_CUT = 3
"""One more than the letters that may follow a number that is cut off."""


def lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    """Yield number (from 0, every line counts) and content of each line, without LF or CRLF.

    A CR alone does not end a line, nor does any other separator of Unicode: captions hold them.
    """
    number, begun = 0, ""
    for piece in stream:
        if piece.endswith("\r"):
            begun += piece
            continue
        yield number, (begun + piece).removesuffix("\n").removesuffix("\r")
        number, begun = number + 1, ""
    if begun:
        yield number, begun.removesuffix("\r")


def tsv(stream: TextIO, columns: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line that is not empty: tab-separated, quotes mean nothing.

    Args:
        stream: the text.
        columns: the last field takes what is left, tabs included, from this number of fields on.
    """
    for number, line in lines(stream):
        if line:
            yield number, line.split("\t") if columns is None else line.split("\t", columns - 1)


def comma_separated(
    stream: TextIO, header: Sequence[str] | None = None, needs: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Yield the records of a CSV with quotes (RFC 4180: line ends and quotes may be inside) as dictionaries.

    Fields that a record lacks are empty; those it has too many are a list under the empty name.

    Args:
        stream: text opened with `newline=""`.
        header: names of the columns where the file has none.
        needs: columns that must be there, even if no record is.

    Raises:
        DataError: a field without end (an open quote), or a column is missing.
    """
    # The limit is one for the whole program; it is set again in case somebody else changed it.
    csv.field_size_limit(MAX_FIELD)
    reader = csv.DictReader(stream, fieldnames=header, restkey="", restval="")
    name = getattr(stream, "name", "the table")
    try:
        columns = list(reader.fieldnames or ()) if needs else []
        if lacking := [column for column in needs if column not in columns]:
            raise DataError(
                f"{name}: no column {', '.join(lacking)}; it has {', '.join(columns) or 'none'}: expected "
                f"the header {','.join(needs)}"
            )
        yield from reader
    except csv.Error as error:
        line = reader.reader.line_num
        raise DataError(f"{name}: line {line}: {error}; is a quote left open in the lines before?") from error


def json_lines(stream: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line that is not empty.

    Raises:
        DataError: a line is no JSON; `name` is the file in the message.
    """
    for number, line in lines(stream):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{name}: line {number + 1} is no JSON: {error}") from error
            yield number, value


def json_items(stream: TextIO, name: str, field: str = "") -> Iterator[Any]:
    """Yield the items of a JSON array one by one, without holding the whole.

    Args:
        stream: the text.
        name: the file in messages.
        field: the array is the value of this field of the outermost object; empty: it is outermost itself.

    Raises:
        DataError: it is no such array.
    """
    text, decoder = _Text(stream, name), json.JSONDecoder()
    if field:
        text.begin("{")
        while text.value(decoder) != field:
            text.expect(":")
            text.value(decoder)
            if text.expect(",}") == "}":
                raise DataError(f"{text.name}: expected a field '{field}' in the outermost object")
        text.expect(":")
    yield from _items(text, decoder)


def json_fields(stream: TextIO, name: str, fields: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield field and item of each item of these arrays of the outermost object, in the order of the file.

    Neither the whole nor other arrays are held; a field that is not there gives nothing.

    Args:
        stream: the text.
        name: the file in messages.
        fields: names of the arrays that are wanted.

    Raises:
        DataError: the outermost value is no object, or one of these fields no array.
    """
    text, decoder = _Text(stream, name), json.JSONDecoder()
    text.begin("{")
    if text.peek() == "}":
        return
    while True:
        field = text.value(decoder)
        text.expect(":")
        if field in fields or text.peek() == "[":
            for item in _items(text, decoder):
                if field in fields:
                    yield field, item
        else:
            text.value(decoder)
        if text.expect(",}") == "}":
            return


def _items(text: "_Text", decoder: json.JSONDecoder) -> Iterator[Any]:
    text.begin("[")
    if text.peek() == "]":
        text.expect("]")
        return
    while True:
        yield text.value(decoder)
        if text.expect(",]") == "]":
            return


class _Text:
    """A window over a long text."""

    def __init__(self, stream: TextIO, name: str) -> None:
        # A stream of a file knows its whole path, also inside an archive.
        path = getattr(stream, "name", "")
        self._stream, self.name = stream, path if str(path).endswith(name) else name
        self._window, self._at, self._end = "", 0, False

    def peek(self) -> str:
        """Return the next character that is no white space, empty at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in _WHITE:
                self._at += 1
            if self._at < len(self._window) or not self._fill():
                return self._window[self._at : self._at + 1]

    def begin(self, bracket: str) -> None:
        """Go into a list or an object."""
        found = self.peek()
        if found != bracket:
            what = "a JSON list" if bracket == "[" else "a JSON object"
            raise DataError(
                f"{self.name}: expected {what}, which begins with '{bracket}', got {found!r}; "
                "is it the right file?"
            )
        self._at += 1

    def expect(self, one_of: str) -> str:
        found = self.peek()
        if not found or found not in one_of:
            raise DataError(f"{self.name}: expected one of '{one_of}', got {found!r}; is it whole?")
        self._at += 1
        return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        self.peek()
        while True:
            try:
                found, end = decoder.raw_decode(self._window, self._at)
            except RecursionError as error:
                raise DataError(f"{self.name}: brackets within brackets without end") from error
            except ValueError as error:
                if not self._fill():
                    raise DataError(f"{self.name}: is no JSON: {error}") from error
                continue
            # A number at the end of the window may go on behind it, also after `1.`, `1e` and `1e+`.
            behind = self._window[end : end + _LONGEST_CUT]
            if len(behind) == _LONGEST_CUT or behind.strip(_IN_NUMBERS) or not self._fill():
                self._at = end
                return found

    def _fill(self) -> bool:
        """Read on; twice as much each time, so that a long value is not parsed over and over."""
        if self._end:
            return False
        more = self._stream.read(max(_CHUNK, len(self._window) - self._at))
        self._end = not more
        self._window, self._at = self._window[self._at :] + more, 0
        return bool(more)

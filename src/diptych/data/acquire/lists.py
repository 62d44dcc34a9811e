"""Lists of addresses: CSV, TSV, text, JSON, JSON lines, Parquet; one row at a time, whatever their length."""

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, TextIO

from diptych.data.acquire.options import ListOptions
from diptych.data.acquire.spans import CLIPS_NAMES, END_NAMES, START_NAMES, span_of, spans_of
from diptych.data.addresses import as_url
from diptych.data.raw.listed import is_address, squeeze
from diptych.data.raw.tables import comma_separated, json_items, lines
from diptych.errors import DataError, UsageError
from diptych.resolve import nearest

Record = Mapping[str, Any]
"""Column -> value of one row as it stands in the list."""

FORMATS = ("csv", "tsv", "txt", "json", "jsonl", "parquet")
URL_NAMES = ("url", "contenturl", "image_url", "img_url", "image url", "photo_url", "link", "href", "src")
"""Columns that hold addresses, in small letters, the likeliest first."""
VIDEO_URL_NAMES = (
    *URL_NAMES,
    *("video_url", "videourl", "video", "youtubeid", "youtube_id", "ytid", "yt_id", "file", "path"),
)
"""The same for videos, which may be named by their id at YouTube or by a file."""
CAPTION_NAMES = ("caption", "text", "alt", "alt_text", "name", "title", "description", "captions")

_ENDINGS = {"ndjson": "jsonl", "pq": "parquet", "list": "txt", "tab": "tsv"}
_PACKED: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_BATCH = 4096
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 18
"""Characters of a number that a column of 64 bits holds for certain."""


@dataclass(frozen=True)
class ListRow:
    """A row of a list, in the form that all lists have."""

    number: int
    """From 0, over all files of the list."""
    id: str
    """What the list calls it; empty if it has no names."""
    url: str
    caption: str
    more: dict[str, Any]
    """Further columns, JSON scalars."""
    split: str = ""
    problem: str = ""
    """Why it cannot be fetched, if it is damaged."""
    start: float | None = None
    """Seconds into the medium at which the wanted part begins; None: the whole."""
    end: float | None = None
    clips: tuple[tuple[float, float], ...] = ()
    """Several wanted parts; then `start` and `end` mean nothing."""


def list_files(source: str) -> list[str]:
    """Return the files of a list, sorted: a file, the files of a folder, or what a pattern with `*` names.

    Raises:
        DataError: there is none.
    """
    if as_url(source) is not None and not Path(source).exists():
        return _remote_files(source)
    path = Path(source)
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if p.is_file() and _known(p.name))
        expected = f"a folder with files of a known format ({', '.join(FORMATS)})"
    elif "*" in path.name:
        found = sorted(str(p) for p in path.parent.glob(path.name) if p.is_file())
        expected = "a pattern that names files"
    else:
        found = [str(path)] if path.is_file() else []
        expected = "a file, a folder, or a pattern with *"
    if not found:
        raise DataError(f"{source}: expected {expected}, but there is none")
    return found


def _remote_files(source: str) -> list[str]:
    import fsspec

    if "*" not in source:
        return [source]
    system, path = fsspec.core.url_to_fs(source)
    return sorted(str(system.unstrip_protocol(found)) for found in system.glob(path))


def file_size(file: str) -> int:
    """Return the bytes of a file of a list.

    Raises:
        DataError: it cannot be reached.
    """
    try:
        if as_url(file) is None or Path(file).exists():
            return Path(file).stat().st_size
        import fsspec

        system, path = fsspec.core.url_to_fs(file)
        return int(system.size(path) or 0)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def read_list(files: Sequence[str], options: ListOptions) -> Iterator[ListRow]:
    """Yield the rows of the files, one file after another; damaged rows too, with their problem.

    Raises:
        DataError: a file cannot be read or has another form.
        UsageError: there is no such column, or none can be told to hold addresses.
    """
    number = 0
    for file in files:
        columns: _Columns | None = None
        for record in _records(file, options):
            if record.keys() == {""}:  # what is left of a row that could not be read
                yield ListRow(number, "", "", "", {}, problem=str(record[""]))
            else:
                columns = columns or _Columns.find(file, record, options)
                yield columns.row(number, record)
            number += 1


def _records(file: str, options: ListOptions) -> Iterator[Record]:
    kind = options.format or _kind(file)
    if kind not in FORMATS:
        raise UsageError(
            f"{file}: unknown format '{kind}'{nearest(kind, FORMATS)}; give one of {', '.join(FORMATS)} "
            "with --format"
        )
    try:
        with _opened(file) as raw:
            if kind == "parquet":
                yield from _parquet(file, raw)
            else:
                newline = "" if kind == "csv" else "\n"
                text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=newline)
                yield from _READERS[kind](file, text)
    except (OSError, EOFError, csv.Error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """Open a file here or behind fsspec, unpacked."""
    with ExitStack() as stack:
        raw: IO[bytes]
        if as_url(file) is None or Path(file).exists():
            raw = stack.enter_context(Path(file).open("rb"))
        else:
            import fsspec

            raw = stack.enter_context(fsspec.open(file, "rb"))
        unpack = _PACKED.get(file.rpartition(".")[2].lower())
        yield stack.enter_context(unpack(raw)) if unpack else raw


def _kind(file: str) -> str:
    parts = file.lower().rpartition("/")[2].split(".")
    ending = parts[-2] if len(parts) > 2 and parts[-1] in _PACKED else parts[-1]
    return _ENDINGS.get(ending, ending)


def _known(name: str) -> bool:
    return _kind(name) in FORMATS and not name.startswith((".", "_"))


def _txt(file: str, text: TextIO) -> Iterator[Record]:
    for _, line in lines(text):
        if line.strip():
            yield {"url": line.strip()}


def _csv(file: str, text: TextIO) -> Iterator[Record]:
    first = text.readline()
    while first and not first.strip():
        first = text.readline()
    fields = next(csv.reader([first]), [])
    header = None if not _is_data(fields) else [str(n) for n in range(len(fields))]
    yield from comma_separated(_Again(first, text), header)  # type: ignore[arg-type]


class _Again:
    """Lines of a stream whose first one was read already."""

    def __init__(self, first: str, rest: TextIO) -> None:
        self._first, self._rest = first, rest

    def __iter__(self) -> Iterator[str]:
        yield self._first
        yield from self._rest


def _tsv(file: str, text: TextIO) -> Iterator[Record]:
    names: list[str] | None = None
    for _, line in lines(text):
        if not line:
            continue
        fields = [_unquoted(field) for field in line.split("\t")]
        if names is None:
            names = [str(n) for n in range(len(fields))] if _is_data(fields) else fields
            if names is fields:
                continue
        record: dict[str, Any] = dict(zip_longest(names, fields[: len(names)], fillvalue=""))
        yield {**record, "": fields[len(names) :]} if len(fields) > len(names) else record


def _unquoted(field: str) -> str:
    """Take off the quotes that table programs put around a field with quotes; others mean nothing."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        inner = field[1:-1]
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return field


def _is_data(fields: Sequence[str]) -> bool:
    """Tell whether the first line of a table is a row already: headers hold no addresses."""
    return any(is_address(field) for field in fields)


def _json(file: str, text: TextIO) -> Iterator[Record]:
    return (_as_record(item) for item in json_items(text, file))


def _jsonl(file: str, text: TextIO) -> Iterator[Record]:
    for _, line in lines(text):
        if line.strip():
            try:
                yield _as_record(json.loads(line))
            except ValueError:
                yield {"": "the line is no JSON"}


def _as_record(item: Any) -> Record:
    if isinstance(item, dict):
        return item
    return {"url": item} if isinstance(item, str) else {"": "neither an object nor an address"}


def _parquet(file: str, raw: IO[bytes]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(raw) as table:
            for batch in table.iter_batches(_BATCH, use_threads=False):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{file} is no readable Parquet file: {error}") from error


_READERS: dict[str, Callable[[str, TextIO], Iterator[Record]]] = {
    "txt": _txt,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _jsonl,
}


@dataclass(frozen=True)
class _Columns:
    """Which column is what."""

    url: str
    caption: str
    id: str
    others: tuple[str, ...] | None
    times: tuple[str, str, str] = ("", "", "")
    """Columns with start, end, and lists of both, as far as the user named them."""
    video: bool = False

    @classmethod
    def find(cls, file: str, record: Record, options: ListOptions) -> "_Columns":
        names = [name for name in record if name]
        url = _named(file, names, options.url, "url")
        if not url:
            url = _likely(names, VIDEO_URL_NAMES if options.video else URL_NAMES)
            url = url or _by_content(names, record)
        if not url:
            raise UsageError(
                f"{file}: none of its columns can be told to hold addresses ({', '.join(names)}); "
                "name it with --url"
            )
        caption = _named(file, names, options.caption, "caption") or _likely(names, CAPTION_NAMES)
        if not caption and len(names) == 2 and all(name.isdigit() for name in names):
            caption = next(name for name in names if name != url)
        for name in options.columns or ():
            _named(file, names, name, "columns")
        times = (
            _named(file, names, options.start, "start"),
            _named(file, names, options.end, "end"),
            _named(file, names, options.clips, "clips"),
        )
        id_ = _named(file, names, options.id, "id")
        return cls(url, caption, id_, options.columns, times, options.video)

    def row(self, number: int, record: Record) -> ListRow:
        """Return the row that a record makes."""
        if any(record.get("") or ()):
            # Which of them the address is can no longer be told: a comma stands where it should be quoted.
            return ListRow(number, "", "", "", {}, problem="more fields than the list has columns")
        taken = {self.url, self.caption, self.id, *self._time_names(record), ""}
        names = self.others if self.others is not None else [name for name in record if name not in taken]
        more = {name: _as_number(record[name]) for name in names if _is_plain(record.get(name))}
        url = record.get(self.url)
        caption, name = _text(record.get(self.caption)), _text(record.get(self.id))
        if not isinstance(url, str) or not url.strip():
            return ListRow(number, name, "", squeeze(caption), more, problem="no address")
        row = ListRow(number, name, url.strip(), squeeze(caption), more)
        try:
            return self._timed(row, record)
        except ValueError as error:
            return replace(row, problem=str(error))

    def _time_names(self, record: Record) -> tuple[str, ...]:
        if not self.video:
            return self.times
        # Objects of JSON need not have the same keys.
        return tuple(own or found for own, found in zip(self.times, _times(tuple(record)), strict=True))

    def _timed(self, row: ListRow, record: Record) -> ListRow:
        """Return the row with the times of its clips."""
        start, end, clips = (record.get(name) if name else None for name in self._time_names(record))
        several = spans_of(clips)
        if several:
            return replace(row, clips=several)
        one = span_of(start, end)
        return replace(row, start=one[0], end=one[1]) if one else row


def _named(file: str, names: Sequence[str], wanted: str, option: str) -> str:
    if wanted and wanted not in names:
        raise UsageError(
            f"{file}: no column '{wanted}' for --{option}{nearest(wanted, names)} "
            f"(columns: {', '.join(names)})"
        )
    return wanted


def _likely(names: Sequence[str], known: Sequence[str]) -> str:
    small = {name.strip().lower(): name for name in reversed(names)}
    return next((small[name] for name in known if name in small), "")


@functools.lru_cache(64)
def _times(names: tuple[str, ...]) -> tuple[str, str, str]:
    return _likely(names, START_NAMES), _likely(names, END_NAMES), _likely(names, CLIPS_NAMES)


def _by_content(names: Sequence[str], record: Record) -> str:
    found = (name for name in names if isinstance(record[name], str) and is_address(record[name]))
    return next(found, "")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _as_number(value: Any) -> Any:
    """Return a number that stands in a list as text (CSV has no others); `007` is no number but a name."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value

"""Sorting lists of clips that may be larger than the memory."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from diptych.data.raw.listed import Listed

SCORES = ("aesthetic_score", "umt_score")

_ROWS = 50_000
"""Rows at a time on their way to the disk and back."""
_MEMORY = "1GB"
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("id", pa.string()),
        ("video", pa.string()),
        ("first", pa.float64()),
        ("last", pa.float64()),
        ("file", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        *((name, pa.float64()) for name in SCORES),
    ]
)


class Clips:
    """Rows about clips, to be given back sorted by video, start and end.

    They wait in a temporary folder (`TMPDIR`), about 200 bytes a row. Use it as a context manager.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._waiting: list[dict[str, Any]] = []
        self._number = 0

    def __enter__(self) -> Self:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="diptych-"))
        self._table = self._stack.enter_context(duckdb.connect(str(Path(folder) / "rows.duckdb")))
        self._table.execute(f"SET memory_limit = '{_MEMORY}'; SET threads = 1")
        self._table.register("none", _SCHEMA.empty_table())
        self._table.execute("CREATE TABLE listed AS SELECT * FROM none")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, row: Listed) -> None:
        """Remember a row; it has a start and an end."""
        record = {"number": self._number, "id": row.id, "first": row.start, "last": row.end, "file": row.file}
        record |= {"url": row.url, "caption": row.caption, "video": row.more["youtube_id"]}
        self._waiting.append(record | {name: row.more.get(name) for name in SCORES})
        self._number += 1
        if len(self._waiting) == _ROWS:
            self._write()

    def sorted(self) -> Iterator[list[Listed]]:
        """Yield the rows about each clip together, in the order in which they were added."""
        self._write()
        self._table.execute("SELECT * FROM listed ORDER BY video, first, last, number")
        for _, group in groupby(self._rows(), key=lambda row: row.id):
            yield list(group)

    def _write(self) -> None:
        self._table.register("more", pa.Table.from_pylist(self._waiting, _SCHEMA))
        self._table.execute("INSERT INTO listed SELECT * FROM more")
        self._table.unregister("more")
        self._waiting.clear()

    def _rows(self) -> Iterator[Listed]:
        while rows := self._table.fetchmany(_ROWS):
            for row in rows:
                found = dict(zip(_SCHEMA.names, row, strict=True))
                scores = {name: found[name] for name in SCORES if found[name] is not None}
                yield Listed(
                    found["id"],
                    found["url"],
                    found["caption"],
                    file=found["file"],
                    start=found["first"],
                    end=found["last"],
                    more={"youtube_id": found["video"], **scores},
                )

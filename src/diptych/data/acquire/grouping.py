"""Rows about videos: clips spread out, ordered so that those of one video lie together, cut into chunks."""

import math
import pickle
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from pathlib import Path

from diptych.data.acquire.chunks import Entry, FetchChunk, close, entry_of
from diptych.data.acquire.lists import ListRow
from diptych.data.shards import KeySet

LONGEST = 4
"""Shards' sizes that the clips of one video may fill; more are split, and the video is fetched again."""


def spread(rows: Iterable[ListRow]) -> Iterator[ListRow]:
    """Yield a row for each clip of a row with several; numbered anew, in their order."""
    number = 0
    for row in rows:
        clips = row.clips or ((row.start, row.end),)
        for place, (start, end) in enumerate(clips):
            name = f"{row.id}_{place:05d}" if row.id and row.clips else row.id
            until = None if end is None or math.isinf(end) else end
            yield replace(row, number=number, id=name, start=start, end=until, clips=())
            number += 1


def cut_videos(
    rows: Iterable[ListRow], size: int, folder: Path, first: int = 0, only: KeySet | None = None
) -> Iterator[FetchChunk]:
    """Yield the rows as chunks; all clips of a video are in one chunk, if it has not thousands of them.

    Videos come in the order in which the list first names them, their clips in that of time.

    Args:
        rows: of the list, all; one clip each (`spread`).
        size: rows in a chunk, about.
        folder: for a temporary file, about as large as the list.
        first: number of the first chunk.
        only: keys of the rows to take; None: all.
    """
    entries: list[Entry] = []
    for video in _videos(rows, folder, size * LONGEST):
        wanted = [entry for entry in video if only is None or entry.key in only]
        if entries and len(entries) + len(wanted) > size:
            yield close(first, entries)
            first, entries = first + 1, []
        entries += wanted
    if entries:
        yield close(first, entries)


def _videos(rows: Iterable[ListRow], folder: Path, most: int) -> Iterator[list[Entry]]:
    """Yield the entries about each video; rows about the same clip share their key."""
    keys = KeySet()
    before: tuple[str, str, float | None, float | None] | None = None
    for _, group in groupby(_ordered(rows, folder), key=lambda row: (row.url, bool(row.problem))):
        video: list[Entry] = []
        for row in group:
            clip = (row.id, row.url, row.start, row.end)
            if row.id and clip == before and not row.problem:
                # Another caption for the clip: one sample with both.
                video.append(Entry(video[-1].key, entry_of(replace(row, id=""), keys).row))
                continue
            before = clip
            if len(video) >= most:
                yield video
                video = []
            video.append(entry_of(row, keys))
        yield video


def _ordered(rows: Iterable[ListRow], folder: Path) -> Iterator[ListRow]:
    """Yield rows by the first place of their address, then time; on the disk, whatever their number."""
    with tempfile.TemporaryDirectory(prefix=".media-", dir=folder) as place:
        table = sqlite3.connect(str(Path(place) / "rows.sqlite"), isolation_level=None)
        try:
            # It is thrown away in any case: nothing has to survive a crash.
            table.execute("PRAGMA journal_mode = OFF")
            table.execute("PRAGMA synchronous = OFF")
            table.execute("CREATE TABLE firsts (url BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
            table.execute(
                "CREATE TABLE rows (number INTEGER PRIMARY KEY, url BLOB, at REAL, until REAL, row BLOB)"
            )
            table.execute("BEGIN")
            for row in rows:
                url = blake2b(f"{bool(row.problem)} {row.url}".encode(errors="replace"), digest_size=12)
                table.execute("INSERT OR IGNORE INTO firsts VALUES (?, ?)", (url.digest(), row.number))
                table.execute(
                    "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
                    (row.number, url.digest(), row.start or 0.0, row.end or 0.0, pickle.dumps(row)),
                )
            table.execute("COMMIT")
            order = table.execute(
                "SELECT rows.number FROM rows JOIN firsts USING (url) "
                "ORDER BY firsts.number, rows.at, rows.until, rows.number"
            )
            # One by one: the rows themselves would make the sorting as large as the list.
            for number in order:
                (stored,) = table.execute("SELECT row FROM rows WHERE number = ?", number).fetchone()
                yield pickle.loads(stored)  # our own, written a moment ago
        finally:
            table.close()

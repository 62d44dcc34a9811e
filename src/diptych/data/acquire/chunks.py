"""A list cut into chunks: rows with their keys, each chunk to become one shard, wherever and whenever."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from diptych.data.acquire.lists import ListRow
from diptych.data.members import clean_key
from diptych.data.shards import KeySet

RESERVED = frozenset(
    {
        *("caption", "url", "key", "status", "error_message", "width", "height", "original_width"),
        *("original_height", "exif", "sha256", "dhash", "original_frames", "captions", "match_id", "meta"),
        *("clips", "clip_start", "clip_end", "yt_meta_dict", "original_duration", "original_fps"),
        *("fps", "audio", "split", "shard", "duration", "frames", "text_chars", "crc32"),
        *("sample_offset", "sample_size"),
        "source_sha256",
    }
)
"""Names that a sample's JSON or the index has taken; columns of a list that are called so get `source_`."""


@dataclass(frozen=True)
class Entry:
    """A row and the key of its sample."""

    key: str
    row: ListRow


@dataclass(frozen=True)
class FetchChunk:
    """Rows that make one shard."""

    number: int
    """Of the shard, from 0."""
    entries: tuple[Entry, ...]
    fingerprint: str
    """Hex hash of the rows."""


def cut(
    rows: Iterable[ListRow], size: int, first: int = 0, only: KeySet | None = None
) -> Iterator[FetchChunk]:
    """Yield the rows as chunks.

    Args:
        rows: of the list, all.
        size: rows in a chunk.
        first: number of the first chunk.
        only: keys of the rows to take; None: all.
    """
    keys, entries = KeySet(), list[Entry]()
    for row in rows:
        entry = entry_of(row, keys)
        if only is not None and entry.key not in only:
            continue
        entries.append(entry)
        if len(entries) == size:
            yield close(first, entries)
            first, entries = first + 1, []
    if entries:
        yield close(first, entries)


def entry_of(row: ListRow, keys: KeySet) -> Entry:
    """Return a row with its key, which is put into `keys`."""
    named = clean_key(row.id)
    # A damaged row claims no key: another row of that name may be sound.
    key = named if named and not row.problem else _made_key(row)
    if key == named and key in keys:
        # Which of them is meant cannot be told; both would claim the key.
        row, key = replace(row, problem=f"the name '{row.id}' occurred before"), _made_key(row)
    elif key == named:
        keys.add(key)
    if not RESERVED.isdisjoint(row.more):
        more = {(f"source_{name}" if name in RESERVED else name): value for name, value in row.more.items()}
        row = replace(row, more=more)
    return Entry(key, row)


def _made_key(row: ListRow) -> str:
    """Return a key that sorts like the list, and that another list does not have at the same place."""
    said = "\0".join((row.url, row.caption, str(row.start), str(row.end)))
    return f"{row.number:09d}-{hashlib.blake2b(said.encode(errors='replace'), digest_size=4).hexdigest()}"


def close(number: int, entries: list[Entry]) -> FetchChunk:
    """Return rows as a chunk."""
    digest = hashlib.blake2b(digest_size=16)
    for entry in entries:
        digest.update(repr(entry).encode(errors="replace"))
    return FetchChunk(number, tuple(entries), digest.hexdigest())

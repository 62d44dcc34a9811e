"""Writing WebDataset shards: plain tars, byte for byte the same for the same samples."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from diptych.data.columns import Row, make_row
from diptych.data.files import cannot_write, partial_of, sync
from diptych.data.members import BadSampleError, Facts, clean_key, named_by_content, pack, probe
from diptych.data.sample import Sample
from diptych.errors import DataError

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE
GIB = 1 << 30

_SHORT_NAME = 100
"""Letters of a name that fit a plain header."""
_SMALL = 8**11 - 1
"""Bytes of a member that fit a plain header."""
_BEFORE_SIZE = b"0000444\0" + b"0000000\0" * 2
"""Mode, owner, group."""
_TIME = b"00000000000\0"
_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
"""A regular file, no link, the version; no names of owner and group, no device, no prefix."""

__all__ = ["BadSampleError", "FinishedShard", "KeySet", "ShardWriter", "clean_key", "shard_name"]


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is complete on the disk."""

    file: str
    samples: int
    bytes: int
    sha256: str
    """Hex, of the whole file."""
    rows: list[Row] = field(repr=False)
    """One a sample: the columns of the index without `shard`."""


class KeySet:
    """The keys seen so far, as 64-bit hashes in a few sorted arrays: 8 bytes a key instead of about 100."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._recent: set[int] = set()
        self._sorted: list[np.ndarray] = []
        for key in keys:
            self.add(key)

    def __contains__(self, key: str) -> bool:
        code = _hash(key)
        return code in self._recent or any(_holds(codes, code) for codes in self._sorted)

    def add(self, key: str) -> None:
        """Remember a key."""
        self._recent.add(_hash(key))
        if len(self._recent) < 1 << 14:
            return
        codes = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
        self._recent.clear()
        # Merging arrays of equal size keeps their number logarithmic.
        while self._sorted and len(self._sorted[-1]) <= len(codes):
            codes = np.sort(np.concatenate([self._sorted.pop(), codes]))
        self._sorted.append(codes)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _holds(codes: np.ndarray, code: int) -> bool:
    place = int(np.searchsorted(codes, np.uint64(code)))
    return place < len(codes) and int(codes[place]) == code


def shard_name(name: str, number: int) -> str:
    """Return the file name of shard `number` of the dataset `name`."""
    return f"{name}-{number:06d}.tar"


class ShardWriter:
    """Writes samples into `<out>/<name>-000000.tar` and so on.

    A shard is written under a temporary name and renamed when it is complete. Headers carry no time, owner or
    group, so equal samples give equal bytes. Use it as a context manager; after an error the unfinished shard
    is removed and the finished ones stay.

    Args:
        out: folder, made if missing.
        name: start of the file names.
        shard_size: samples in a shard, at most.
        max_bytes: bytes of a shard before the next one is begun (a single larger sample gets its own).
        first: number of the first shard to write.
        keys: keys that are taken (those of earlier shards).
        on_shard: called with each finished shard.
        tag: part of the temporary name, for processes that may write the same shard at the same time.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        shard_size: int = 5000,
        max_bytes: int = GIB,
        *,
        first: int = 0,
        keys: KeySet | None = None,
        on_shard: Callable[[FinishedShard], None] | None = None,
        tag: str = "",
    ) -> None:
        if shard_size < 1:
            raise DataError(f"shard_size: expected at least 1 sample a shard, got {shard_size}")
        if clean_key(name) != name:
            raise DataError(f"'{name}' cannot name shards: letters, digits, '_' and '-' only")
        self._out, self._name, self._shard_size, self._max_bytes = out, name, shard_size, max_bytes
        self._number, self._keys, self._on_shard = first, keys or KeySet(), on_shard
        self._tag = tag
        self._shard: _OpenShard | None = None

    def write(self, sample: Sample) -> Row:
        """Append a sample and return its row of the index (without `shard`).

        Pictures and videos are stored under the ending that their content has.

        Raises:
            BadSampleError: the sample cannot be stored (bad or repeated key, unreadable medium, nothing in
                it); nothing was written, the writer goes on with the next sample.
            DataError: the card is at fault (see `pack` and `make_row`), or the file cannot be written.
        """
        sample = named_by_content(sample)
        members = pack(sample)
        if sample.key in self._keys:
            raise BadSampleError("repeated key", sample.key, "the key is already in the dataset")
        return self.append(sample, members, probe(sample.key, sample.media))

    def append(self, sample: Sample, members: dict[str, bytes], facts: Facts, *, strict: bool = True) -> Row:
        """Append members that were made before, and return the row of the index (without `shard`).

        Args:
            sample: what the row is about; its key is not checked.
            members: extension -> content, in the order they are stored.
            facts: what the header of its medium tells.
            strict: see `make_row`.

        Raises:
            DataError: the caller is at fault (see `make_row`), or the file cannot be written.
        """
        block, places = _lay_out(sample.key, members)
        full = self._shard is not None and self._shard.is_full(len(block), self._shard_size, self._max_bytes)
        start = self._shard.size if self._shard and not full else 0
        moved = {name: (start + offset, size) for name, (offset, size) in places.items()}
        row = make_row(sample, facts, moved, (start, len(block), zlib.crc32(block)), strict=strict)
        if full:
            self._finish()
        if self._shard is None:
            self._shard = _OpenShard(self._out / shard_name(self._name, self._number), self._tag)
        self._shard.append(block, row)
        self._keys.add(sample.key)
        return row

    def close(self) -> None:
        """Finish the last shard."""
        if self._shard is not None:
            self._finish()

    def abort(self) -> None:
        """Remove the unfinished shard."""
        if self._shard is not None:
            self._shard.remove()
            self._shard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _finish(self) -> None:
        shard, self._shard = self._shard, None
        if shard is None:
            return
        finished = shard.finish()
        self._number += 1
        if self._on_shard:
            self._on_shard(finished)


class _OpenShard:
    """The shard being written."""

    def __init__(self, path: Path, tag: str = "") -> None:
        self.path, self.partial = path, partial_of(path, tag)
        self.size, self.rows, self._digest = 0, list[Row](), hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.partial.open("wb")
        except OSError as error:
            raise cannot_write(path, error) from error

    def is_full(self, more: int, samples: int, size: int) -> bool:
        return len(self.rows) >= samples or self.size + more > size

    def append(self, block: bytes, row: Row) -> None:
        self._write(block)
        self.rows.append(row)

    def finish(self) -> FinishedShard:
        # POSIX: two empty blocks end the archive; tar pads the file to whole records.
        end = self.size + 2 * BLOCK
        self._write(bytes(2 * BLOCK + -end % RECORD))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.partial.rename(self.path)
            sync(self.path.parent)
        except OSError as error:
            self._fail(error)
        return FinishedShard(self.path.name, len(self.rows), self.size, self._digest.hexdigest(), self.rows)

    def remove(self) -> None:
        with suppress(OSError):
            # Closing writes what is buffered, which fails again on a full disk.
            self._file.close()
        with suppress(OSError):
            self.partial.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self._fail(error)
        self._digest.update(data)
        self.size += len(data)

    def _fail(self, error: OSError) -> None:
        self.remove()
        raise cannot_write(self.path, error) from error


def _lay_out(key: str, members: dict[str, bytes]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the tar bytes of a sample and, by extension, offset and size of each content in them."""
    pieces: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    size = 0
    for name, data in members.items():
        header = _header(f"{key}.{name}", len(data))
        places[name] = (size + len(header), len(data))
        padding = bytes(-len(data) % BLOCK)
        pieces += [header, data, padding]
        size += len(header) + len(data) + len(padding)
    return b"".join(pieces), places


def _header(name: str, size: int) -> bytes:
    """Return what stands before a member: what `tarfile` writes, made faster where the name is short."""
    if len(name) > _SHORT_NAME or size > _SMALL or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o444
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    head = name.encode().ljust(_SHORT_NAME, b"\0") + _BEFORE_SIZE + b"%011o\0" % size + _TIME
    # While it is summed up, the field of the sum counts as blanks.
    total = sum(head) + 8 * ord(" ") + sum(_AFTER_SUM)
    return head + b"%06o\0 " % total + _AFTER_SUM

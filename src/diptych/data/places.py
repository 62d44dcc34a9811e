"""Where each sample lies: the part of the index that reading needs, memory-mapped.

`places.bin` has 36 bytes a sample, 8 for each kind of member, and the key. A reader maps it and looks up what
it is asked for, so that the memory of a process does not grow with the dataset. Layout, little-endian:

    MAGIC | N records | keys, one after another | footer (JSON) | bytes of the footer (8) | MAGIC

A record: start of the key (from the first key), its bytes, number of the shard (in the order of
`dataset.json`), number of the split (in the footer), offset and size of the sample in the shard, CRC-32, and
for each kind of member offset (from the start of the sample; 0: there is none) and size.
"""

import json
import mmap
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diptych.data.files import cannot_write
from diptych.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PLACES", "Place", "Places", "write_places"]

PLACES = "places.bin"
MAGIC = b"diptych-places-1"
STEP = 1 << 16
"""Samples that are in memory while the file is written."""
HOLD = 512
"""Lookups until the pages they touched are given back: the kernel maps 64 KiB around each."""

_END = struct.Struct("<Q")
_TEXTS = ("key", "shard", "split")
_FIXED = ("key", "key_size", "shard", "split", "offset", "size", "crc32")


@dataclass(frozen=True)
class Place:
    """Where one sample lies."""

    key: str
    shard: int
    """Number of the shard, as in `dataset.json`."""
    split: str
    offset: int
    """Of the whole sample in the shard, in bytes."""
    size: int
    crc32: int
    members: dict[str, tuple[int, int]]
    """Extension -> offset from the start of the sample, and size."""


class Places:
    """The memory-mapped table of a dataset. N samples; lookups are O(1).

    Attributes:
        path: the file.
        size: N.
        index: hex SHA-256 of the `index.parquet` it was made from.
        shards: how many shards its records name.
    """

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            OSError: it cannot be read.
            DataError: it is not such a file, or is cut off.
        """
        self.path = path
        footer = self._map_file()
        self.size, self.index, self.shards = footer["samples"], footer["index"], footer["shards"]
        self._members: list[str] = footer["members"]
        self._splits: list[str] = footer["splits"]
        kind = _record(self._members, wide=footer["wide"])
        self._keys = len(MAGIC) + self.size * kind.itemsize
        if self._keys + footer["key_bytes"] + footer["footer_bytes"] != len(self._map):
            raise _damaged(path)
        self._records = np.frombuffer(self._map, kind, self.size, len(MAGIC))
        self._touched = 0

    def at(self, row: int) -> Place:
        """Return where the sample in row 0..N-1 of the index lies.

        Raises:
            IndexError: there is no such row.
            DataError: the file is damaged.
        """
        key, key_size, shard, split, offset, size, crc32, *members = self._records[row].item()
        self._give_back(1)
        if shard >= self.shards or split >= len(self._splits):
            raise _damaged(self.path)
        name = self._map[self._keys + key : self._keys + key + key_size].decode(errors="replace")
        pairs = zip(self._members, members[::2], members[1::2], strict=True)
        found = {extension: (start, length) for extension, start, length in pairs if start}
        return Place(name, shard, self._splits[split], offset, size, crc32, found)

    def shard_numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard, as in `dataset.json`, of each row; [n] int64."""
        numbers = self._records["shard"][rows].astype(np.int64)
        self._give_back(len(rows))
        return numbers

    def _map_file(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < 2 * len(MAGIC) + _END.size:
                raise _damaged(self.path)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if sys.platform == "linux":
            # Reading ahead of a random order would only fill memory.
            self._map.madvise(mmap.MADV_RANDOM)
        end = len(self._map) - len(MAGIC) - _END.size
        (length,) = _END.unpack(self._map[end : end + _END.size])
        if self._map[: len(MAGIC)] != MAGIC or self._map[-len(MAGIC) :] != MAGIC or length > end:
            raise _damaged(self.path)
        try:
            footer: dict[str, Any] = json.loads(self._map[end - length : end])
        except ValueError as error:
            raise _damaged(self.path) from error
        return {**footer, "footer_bytes": len(self._map) - end + length}

    def _give_back(self, lookups: int) -> None:
        """Now and then drop the mapped pages: they stay in the system's cache, not in the process."""
        self._touched += lookups
        if self._touched >= HOLD and sys.platform == "linux":
            self._touched = 0
            self._map.madvise(mmap.MADV_DONTNEED)


def write_places(index: Path, digest: str, shards: Sequence[str], members: Sequence[str], out: Path) -> None:
    """Write the places of `index.parquet` to `out`, in a stream.

    Args:
        index: the index.
        digest: its hex SHA-256.
        shards: file names, in the order of `dataset.json`.
        members: extensions that samples have.
        out: file to write; not atomic (see `written_whole`).

    Raises:
        DataError: the index cannot be read or names other shards, or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["key", "shard", "split", "sample_offset", "sample_size", "crc32"]
    columns += [f"{name}_{what}" for name in members for what in ("offset", "size")]
    try:
        with pq.ParquetFile(index, read_dictionary=["shard", "split"]) as file, out.open("wb") as target:
            writer = _Writer(target, file.metadata.num_rows, shards, members, wide=_is_wide(file.metadata))
            for batch in file.iter_batches(STEP, columns=columns, use_threads=False):
                writer.add(batch)
            writer.finish(digest)
    except pa.ArrowException as error:
        raise DataError(f"{index} cannot be read: {error}; prepare the dataset again") from error
    except OSError as error:
        raise cannot_write(out, error) from error


class _Writer:
    """Fills the records from the front of the file and the keys from their end on."""

    def __init__(
        self, file: BinaryIO, samples: int, shards: Sequence[str], members: Sequence[str], *, wide: bool
    ) -> None:
        self._file, self._samples, self._wide = file, samples, wide
        self._members, self._kind = list(members), _record(members, wide=wide)
        self._shards = {name: number for number, name in enumerate(shards)}
        self._splits: dict[str, int] = {}
        self._rows = self._key_bytes = 0
        file.write(MAGIC)

    def add(self, batch: "pa.RecordBatch") -> None:
        """Append the rows of a piece of the index."""
        n = batch.num_rows
        numbers = {name: _numbers(batch, name) for name in batch.schema.names if name not in _TEXTS}
        keys, sizes = _texts(batch.column("key"))
        records = np.zeros(n, self._kind)
        records["key"] = self._key_bytes + np.cumsum(sizes) - sizes
        records["key_size"] = sizes
        records["shard"] = _codes(batch.column("shard"), self._shards, grow=False)
        records["split"] = _codes(batch.column("split"), self._splits, grow=True)
        records["offset"], records["size"] = numbers["sample_offset"], numbers["sample_size"]
        records["crc32"] = numbers["crc32"]
        for name in self._members:
            offsets = numbers[f"{name}_offset"]
            there = offsets >= 0
            records[f"{name}_offset"][there] = (offsets - numbers["sample_offset"])[there]
            records[f"{name}_size"][there] = numbers[f"{name}_size"][there]
        self._put(len(MAGIC) + self._rows * self._kind.itemsize, records.tobytes())
        self._put(self._first_key() + self._key_bytes, keys)
        self._rows += n
        self._key_bytes += len(keys)

    def finish(self, digest: str) -> None:
        """Write the footer."""
        assert self._rows == self._samples
        footer = {
            "samples": self._samples,
            "index": digest,
            "shards": len(self._shards),
            "members": self._members,
            "splits": list(self._splits),
            "key_bytes": self._key_bytes,
            "wide": self._wide,
        }
        text = json.dumps(footer, ensure_ascii=False).encode()
        self._put(self._first_key() + self._key_bytes, text + _END.pack(len(text)) + MAGIC)

    def _first_key(self) -> int:
        return len(MAGIC) + self._samples * self._kind.itemsize

    def _put(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)


def _record(members: Sequence[str], *, wide: bool) -> np.dtype[Any]:
    size = "<u8" if wide else "<u4"
    fields = [*zip(_FIXED, ("<u8", "<u4", "<u4", "<u4", "<u8", size, "<u4"), strict=True)]
    fields += [(f"{name}_{what}", size) for name in members for what in ("offset", "size")]
    return np.dtype(fields)


def _is_wide(metadata: Any) -> bool:
    """Tell whether a sample may be of 4 GiB or more."""
    column = metadata.schema.names.index("sample_size")
    for group in range(metadata.num_row_groups):
        facts = metadata.row_group(group).column(column).statistics
        if facts is None or not facts.has_min_max or facts.max >= 1 << 32:
            return True
    return False


def _numbers(batch: "pa.RecordBatch", name: str) -> NDArray[np.int64]:
    """Return a column as int64, -1 where it is null."""
    return np.asarray(batch.column(name).fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _texts(column: "pa.Array") -> tuple[bytes, NDArray[np.int64]]:
    """Return the UTF-8 bytes of all texts together, and how many each has."""
    import pyarrow.compute as pc

    sizes = pc.binary_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    _, offsets, data = column.buffers()
    first = int(np.frombuffer(offsets, np.int32)[column.offset])
    return bytes(data[first : first + int(sizes.sum())]) if data is not None else b"", sizes


def _codes(column: "pa.Array", known: dict[str, int], *, grow: bool) -> NDArray[np.int64]:
    """Return the number of each text; unknown ones get the next with `grow`."""
    names = column.dictionary.to_pylist()
    if grow:
        for name in names:
            known.setdefault(name, len(known))
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"the index names the shard {missing[0]}, dataset.json does not; prepare it again")
    codes = np.array([known[name] for name in names], dtype=np.int64)
    return np.asarray(codes[column.indices.to_numpy(zero_copy_only=False)])


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged or cut off; delete it: it is made again from the index")


def fits(places: Places, info: Mapping[str, Any]) -> bool:
    """Tell whether a table belongs to the dataset with this `dataset.json`."""
    index = info.get("index", {}).get("sha256")
    return (places.index, places.size, places.shards) == (index, info["samples"], len(info["shards"]))

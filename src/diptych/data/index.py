"""Opening prepared datasets and plain tars, selecting samples by SQL, reading them by offset."""

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.cards.base import Split
from diptych.data.files import read_exactly
from diptych.data.members import unpack
from diptych.data.sample import Sample
from diptych.data.sql import matching_rows, run_query
from diptych.errors import DataError
from diptych.resolve import nearest

FORMAT = 1
"""Version of the layout of prepared datasets."""
INFO = "dataset.json"
INDEX = "index.parquet"
WORK = ".prepare"
"""Folder inside a dataset while it is being prepared."""
VERIFY = "`diptych data verify` lists what is damaged"
OPEN_SHARDS = 64
"""Files a process keeps open for one dataset."""


class ShardDataset:
    """Samples in tar shards with an index; cheap to open, nothing is read before it is asked for.

    Attributes:
        name: the dataset's name.
        root: folder of the shards.
        size: number of samples.
        splits: named selections.
        info: content of `dataset.json`.
        index: path of the index.
    """

    def __init__(self, root: Path, index: Path, info: Mapping[str, Any]) -> None:
        """Use `open`; this takes the parts as they are."""
        self.root, self.index, self.info = root, index, dict(info)
        self.name, self.size = str(info["name"]), int(info["samples"])
        self.splits: Mapping[str, Split] = {
            name: Split(value["where"], value.get("expected"), value.get("note", ""))
            for name, value in info["splits"].items()
        }
        self._handle = functools.lru_cache(OPEN_SHARDS)(self._open_shard)

    @classmethod
    def open(cls, path: str | Path) -> "ShardDataset":
        """Open a prepared dataset, a folder of plain WebDataset tars, or one tar.

        Plain tars are indexed on first use; the index lies in `.diptych` beside them, or in the user's cache
        folder where that cannot be written, and is renewed when the tars change.

        Raises:
            DataError: there is no dataset, it is unfinished, of a newer format, or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a prepared dataset, a folder of tars, or a tar")
        if (path / INFO).is_file():
            return cls(path, path / INDEX, _read_info(path / INFO))
        if (path / WORK).is_dir():
            raise DataError(f"{path} is not finished; run the same `diptych data prepare` again, it goes on")
        from diptych.data.plain import open_plain

        root, index, info = open_plain(path)
        return cls(root, index, info)

    @functools.cached_property
    def columns(self) -> list[str]:
        """Names of the columns of the index."""
        return [str(name) for name in self._schema().names]

    @functools.cached_property
    def extensions(self) -> list[str]:
        """Extensions of the members that samples have."""
        return [str(name) for name in self.info["members"]]

    def select(self, split: str | None = None, where: str | None = None) -> "Selection":
        """Return the samples of a split (all without one) for which the SQL condition `where` holds.

        The order is that of the index. The selection may be empty.

        Raises:
            DataError: unknown split or column (with the nearest name), or bad SQL.
        """
        conditions = []
        if split:
            if split not in self.splits:
                known = ", ".join(self.splits)
                raise DataError(
                    f"no split '{split}' in {self.name}{nearest(split, self.splits)} (known: {known})"
                )
            conditions.append(self.splits[split].where)
        if where and where.strip():
            conditions.append(where)
        if not conditions:
            return Selection(self, np.arange(self.size, dtype=np.int64))
        return Selection(self, matching_rows(self.index, conditions, self.columns))

    def query(self, sql: str) -> pa.Table:
        """Return the result of an SQL query over the index, which is called `samples`.

        Raises:
            DataError: bad SQL or an unknown column, with the nearest name.
        """
        return run_query(self.index, sql, self.columns)

    def take(self, columns: list[str], rows: np.ndarray) -> pa.Table:
        """Return some columns of some rows (int64, ascending) of the index, reading one row group at a time.

        Raises:
            DataError: an unknown column, or an index that cannot be read.
        """
        for name in columns:
            if name not in self.columns:
                known = ", ".join(self.columns)
                raise DataError(
                    f"no column '{name}' in {self.name}{nearest(name, self.columns)} (columns: {known})"
                )
        pieces, start = [], 0
        try:
            with pq.ParquetFile(self.index, read_dictionary=["shard", "split"]) as file:
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    low, high = np.searchsorted(rows, [start, stop])
                    if high > low or group == 0:
                        table = file.read_row_group(group, columns)
                        pieces.append(table.take(pa.array(rows[low:high] - start)))
                    start = stop
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.index} cannot be read: {error}; prepare the dataset again") from error
        return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()

    def read_bytes(self, shard: str, offset: int, size: int) -> bytes:
        """Return bytes of a shard; fewer than `size` where the file ends early.

        Raises:
            OSError: the shard cannot be read.
        """
        handle = self._handle(shard)
        return read_exactly(handle.number, offset, size)

    def _open_shard(self, shard: str) -> "_Handle":
        return _Handle(self.root / shard)

    def _schema(self) -> pa.Schema:
        try:
            return pq.read_schema(self.index)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.index} cannot be read: {error}; prepare the dataset again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "index": self.index, "info": self.info}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["index"], state["info"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"ShardDataset({self.name}, {self.size} samples, {self.root})"


class _Handle:
    """An open file, closed when the last reader lets go of it: eviction is safe with threads."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@dataclass(frozen=True)
class _Places:
    """Where the selected samples lie. N samples."""

    keys: pa.ChunkedArray
    shards: pa.ChunkedArray
    splits: pa.ChunkedArray
    extent: np.ndarray
    """[N, 3] int64: offset, size and CRC-32 of the whole sample."""
    members: dict[str, tuple[np.ndarray, np.ndarray]]
    """Extension -> offsets and sizes, [N] int64 each, -1 where a sample has no such member."""


class Selection:
    """Some samples of a dataset, in the order of the index.

    Pickles small; each process opens files for itself.

    Attributes:
        dataset: the dataset.
        rows: [N] int64, row numbers in the index, ascending.
    """

    def __init__(self, dataset: ShardDataset, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> Sample:
        """Return the i-th selected sample; its bytes are checked against the index.

        Raises:
            IndexError: `i` is not in 0..N-1.
            DataError: the sample is damaged; the message names shard and key and says what is wrong.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of a selection of {len(self)}")
        places = self._places
        key, shard = str(places.keys[i].as_py()), str(places.shards[i].as_py())
        start = int(places.extent[i, 0])
        block = self._block(key, shard, *(int(v) for v in places.extent[i]))
        members = {
            name: block[offsets[i] - start : offsets[i] - start + sizes[i]]
            for name, (offsets, sizes) in places.members.items()
            if offsets[i] >= 0
        }
        try:
            return unpack(key, members, str(places.splits[i].as_py()))
        except ValueError as error:
            raise DataError(
                f"{self.dataset.root / shard}: sample '{key}' cannot be understood: {error}"
            ) from error

    def _block(self, key: str, shard: str, start: int, size: int, crc: int) -> bytes:
        path = self.dataset.root / shard
        try:
            block = self.dataset.read_bytes(shard, start, size)
        except OSError as error:
            raise DataError(
                f"{path}: sample '{key}' cannot be read: {error.strerror or error}; {VERIFY}"
            ) from error
        if len(block) < size:
            raise DataError(
                f"{path}: sample '{key}' is cut off: expected bytes {start} to {start + size}, "
                f"the file ends at {start + len(block)}; {VERIFY}"
            )
        if zlib.crc32(block) != crc:
            raise DataError(
                f"{path}: sample '{key}' is damaged: its checksum differs from the index; {VERIFY}"
            )
        return block

    def column(self, name: str) -> np.ndarray | list[Any]:
        """Return a column of the index for the selected samples: an array for numbers, else a list.

        A column of numbers with missing values is a list too, with None in their place.

        Raises:
            DataError: there is no such column; the message has the nearest name.
        """
        values = self.dataset.take([name], self.rows).column(0)
        kind = values.type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if number and values.null_count == 0:
            return np.asarray(values.to_numpy())
        return list(values.to_pylist())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex hash of the selected keys and shards, in order; equal for equal selections anywhere."""
        digest = hashlib.sha256()
        table = self.dataset.take(["key", "shard"], self.rows)
        for piece in table.to_batches(max_chunksize=1 << 16):
            pairs = zip(*(column.to_pylist() for column in piece.columns), strict=True)
            digest.update("".join(f"{key}\0{shard}\n" for key, shard in pairs).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _places(self) -> _Places:
        names = self.dataset.extensions
        wanted = ["key", "shard", "split", "sample_offset", "sample_size", "crc32"]
        wanted += [f"{name}_{what}" for name in names for what in ("offset", "size")]
        table = self.dataset.take(wanted, self.rows)

        def numbers(name: str) -> np.ndarray:
            return np.asarray(table.column(name).fill_null(-1).to_numpy(), dtype=np.int64)

        return _Places(
            keys=table.column("key"),
            shards=table.column("shard"),
            splits=table.column("split"),
            extent=np.stack([numbers(n) for n in ("sample_offset", "sample_size", "crc32")], axis=1),
            members={n: (numbers(f"{n}_offset"), numbers(f"{n}_size")) for n in names},
        )

    def prefetch(self) -> "Selection":
        """Read the index entries of the selection now, so that forked workers share them; returns itself."""
        _ = self._places
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "rows": self.rows}

    def __repr__(self) -> str:
        return f"Selection({len(self)} of {self.dataset!r})"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; prepare the dataset again") from error
    needed = {"name", "format", "samples", "splits", "shards", "members"}
    if not isinstance(info, dict) or needed - info.keys():
        lacking = ", ".join(sorted(needed - info.keys())) if isinstance(info, dict) else "everything"
        raise DataError(f"{path} is not a dataset's: it lacks {lacking}; prepare the dataset again")
    if info["format"] != FORMAT:
        raise DataError(
            f"{path} has format {info['format']}, this Diptych reads {FORMAT}; prepare the dataset again"
        )
    return info

"""Opening prepared datasets and plain tars, and selecting samples by SQL."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.cards.base import Split
from diptych.data.files import read_exactly
from diptych.data.selection import Selection
from diptych.data.sql import matching_rows, run_query
from diptych.errors import DataError
from diptych.resolve import nearest

__all__ = ["FORMAT", "INDEX", "INFO", "WORK", "Selection", "ShardDataset"]

FORMAT = 1
"""Version of the layout of prepared datasets."""
INFO = "dataset.json"
INDEX = "index.parquet"
WORK = ".prepare"
"""Folder inside a dataset while it is being prepared."""
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

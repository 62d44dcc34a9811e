"""Opening prepared datasets and plain tars, and selecting samples by SQL.

Reading samples needs `dataset.json`, the memory-mapped places (places.py) and the shards; only SQL and
columns open `index.parquet`, and import what that takes.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.data.addresses import as_url
from diptych.data.cards.base import Split
from diptych.data.config import RemoteConfig
from diptych.data.derived import derived_file
from diptych.data.layout import FORMAT, INDEX, INFO, WORK
from diptych.data.places import PLACES, Places, fits, write_places
from diptych.data.selection import Selection
from diptych.data.store import LocalStore, Store
from diptych.errors import DataError
from diptych.resolve import nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMAT", "INDEX", "INFO", "WORK", "Selection", "ShardDataset"]

KEEP_ROWS = 1_000_000
"""Samples of a dataset from which on the rows that a condition selects are kept in a file."""


class ShardDataset:
    """Samples in tar shards with an index; cheap to open, nothing is read before it is asked for.

    Attributes:
        name: the dataset's name.
        root: folder of the shards; of a remote dataset, the folder of its local copies.
        size: number of samples.
        splits: named selections.
        info: content of `dataset.json`.
        store: where the bytes of the shards come from.
        shards: file names of the shards.
    """

    def __init__(self, root: Path, index: Path, info: Mapping[str, Any], store: Store | None = None) -> None:
        """Use `open`; this takes the parts as they are."""
        self.root, self.info = root, dict(info)
        self.store: Store = store or LocalStore(root)
        self._index = index
        self.name, self.size = str(info["name"]), int(info["samples"])
        self.shards = [str(shard["file"]) for shard in info["shards"]]
        self.splits: Mapping[str, Split] = {
            name: Split(value["where"], value.get("expected"), value.get("note", ""))
            for name, value in info["splits"].items()
        }

    @classmethod
    def open(cls, path: str | Path, remote: RemoteConfig | None = None) -> "ShardDataset":
        """Open a prepared dataset, here or behind a URL, a folder of plain WebDataset tars, or one tar.

        Plain tars are indexed on first use; the index lies in `.diptych` beside them, or in the user's cache
        folder where that cannot be written, and is renewed when the tars change.

        Args:
            path: folder or tar on this machine, or URL of the folder of a prepared dataset.
            remote: how a dataset behind a URL is read.

        Raises:
            DataError: there is no dataset, it is unfinished, of a newer format, or damaged.
            RemoteError: the URL cannot be reached.
            ConfigError: it is no URL of a folder.
        """
        url = as_url(path)
        if url is not None and not Path(path).exists():
            from diptych.data.remote import open_remote

            root, info, store = open_remote(url, remote or RemoteConfig())
            return cls(root, root / INDEX, info, store)
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a prepared dataset, a folder of tars, or a tar")
        if (path / INFO).is_file():
            return cls(path, path / INDEX, read_info(path / INFO))
        if (path / WORK).is_dir():
            raise DataError(f"{path} is not finished; run the same `diptych data prepare` again, it goes on")
        from diptych.data.plain import open_plain

        root, index, info = open_plain(path)
        return cls(root, index, info)

    @property
    def index(self) -> Path:
        """Path of `index.parquet`; that of a remote dataset is fetched first.

        Raises:
            RemoteError: it cannot be fetched.
        """
        return self.store.local(INDEX) if self._index.parent == self.root else self._index

    @functools.cached_property
    def columns(self) -> list[str]:
        """Names of the columns of the index."""
        return [str(name) for name in self._schema().names]

    @functools.cached_property
    def extensions(self) -> list[str]:
        """Extensions of the members that samples have."""
        return [str(name) for name in self.info["members"]]

    @functools.cached_property
    def places(self) -> Places:
        """Where the samples lie, memory-mapped; made from the index on first use where that was not done.

        Raises:
            DataError: the index cannot be read, or there is no place for the table.
            RemoteError: it cannot be fetched.
        """
        if "places" in self.info:
            places = self._map(self.store.local(PLACES))
            if places is not None:
                return places

        def make(out: Path) -> None:
            digest = str(self.info["index"]["sha256"])
            write_places(self.index, digest, self.shards, self.extensions, out)

        made = self._map(derived_file(self.homes(), PLACES, make, lambda path: self._map(path) is not None))
        if made is None:
            raise DataError(
                f"{self._index} and {INFO} of {self.name} do not belong together; prepare the dataset again"
            )
        return made

    def _map(self, path: Path) -> Places | None:
        try:
            places = Places(path)
        except (OSError, DataError):
            return None
        return places if fits(places, self.info) else None

    def homes(self) -> Sequence[Path]:
        """Return where files derived from the index may lie, the best first."""
        from diptych.data.derived import FOLDER, cache_home

        if self._index.parent != self.root:
            return [self._index.parent]
        return [self.root / FOLDER, cache_home(self.root)]

    def derived(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return a file beside the index that `make` writes on first use; its name must tell the index.

        Raises:
            DataError: there is no place for it, or what `make` raises.
        """
        return derived_file(self.homes(), name, make, lambda path: path.is_file())

    @functools.cached_property
    def identity(self) -> str:
        """Hex hash of what the shards hold and of their order; equal for equal datasets anywhere."""
        digest = hashlib.sha256()
        for shard in self.info["shards"]:
            digest.update(f"{shard['file']}\0{shard['samples']}\0{shard['sha256']}\n".encode())
        return digest.hexdigest()

    def select(self, split: str | None = None, where: str | None = None) -> "Selection":
        """Return the samples of a split (all without one) for which the SQL condition `where` holds.

        The order is that of the index. The selection may be empty. The rows that a condition selects of a
        large dataset are kept in a file beside the index and mapped, so that SQL runs only once.

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
        conditions = [text for text in conditions if text.strip().lower() != "true"]
        if not conditions:
            return Selection(self, None)
        if self.size < KEEP_ROWS or "random" in " ".join(conditions).lower():
            return Selection(self, self._matching(conditions))
        return Selection(self, self._kept(conditions))

    def _matching(self, conditions: list[str]) -> np.ndarray:
        from diptych.data.sql import matching_rows

        return matching_rows(self.index, conditions, self.columns)

    def _kept(self, conditions: list[str]) -> np.ndarray:
        """Return the rows that match, mapped from a file that is made on first use."""
        text = json.dumps([self.info["index"]["sha256"], *conditions])
        name = f"rows-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"

        def make(out: Path) -> None:
            rows = self._matching(conditions)
            with out.open("wb") as file:
                np.save(file, rows.astype(np.uint32 if self.size < 1 << 32 else np.int64))

        return np.asanyarray(np.load(self.derived(name, make), mmap_mode="r"))

    def query(self, sql: str) -> "pa.Table":
        """Return the result of an SQL query over the index, which is called `samples`.

        Raises:
            DataError: bad SQL or an unknown column, with the nearest name.
        """
        from diptych.data.sql import run_query

        return run_query(self.index, sql, self.columns)

    def take(self, columns: list[str], rows: np.ndarray | None = None) -> "pa.Table":
        """Return some columns of some rows (int64, ascending; default: all) of the index.

        One row group is read at a time.

        Raises:
            DataError: an unknown column, or an index that cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

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
                    low, high = (start, stop) if rows is None else np.searchsorted(rows, [start, stop])
                    if high > low or group == 0:
                        table = file.read_row_group(group, columns)
                        chosen = None if rows is None else pa.array(rows[low:high].astype(np.int64) - start)
                        pieces.append(table if chosen is None else table.take(chosen))
                    start = stop
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.index} cannot be read: {error}; prepare the dataset again") from error
        return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()

    def read_bytes(self, shard: str, offset: int, size: int) -> bytes:
        """Return bytes of a shard; fewer than `size` where the file ends early.

        Raises:
            OSError: the shard cannot be read.
            RemoteError: the place it comes from cannot be reached.
        """
        return self.store.read(shard, offset, size)

    def _schema(self) -> "pa.Schema":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(self.index)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.index} cannot be read: {error}; prepare the dataset again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "index": self._index, "info": self.info, "store": self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["index"], state["info"], state["store"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"ShardDataset({self.name}, {self.size} samples, {self.root})"


def read_info(path: Path) -> dict[str, Any]:
    """Return the content of a `dataset.json`.

    Raises:
        DataError: it cannot be read, is no dataset's, or of another format.
    """
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

"""What `diptych data fetch` tells beside its shards: splits in the index, and what became of each row."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.cards.base import LeftOut
from diptych.data.index import INDEX, INFO

ROWS = "rows.parquet"
"""What became of each row of a list."""
_COLUMNS = ["key", "status", "cause", "detail", "url"]


class Own:
    """A folder that `diptych data fetch` (or `prepare`) finished.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def at(cls, folder: Path) -> "Own | None":
        """Return what is known of a folder; None if it is of another tool."""
        return cls(folder) if (folder / INFO).is_file() and (folder / INDEX).is_file() else None

    def splits(self, shard: str) -> dict[str, str]:
        """Return key -> split of the samples of a shard; "" -> split where all are of one.

        Raises:
            OSError: the index cannot be read.
        """
        one = self._shards.get(shard, "")
        if one is not None:
            return {"": one}
        path = self._folder / INDEX
        try:
            table = pq.read_table(path, columns=["key", "split"], filters=[("shard", "=", shard)])
        except pa.ArrowException as error:
            raise OSError(f"{INDEX} beside it cannot be read: {error}") from error
        return dict(zip(table["key"].to_pylist(), table["split"].to_pylist(), strict=True))

    @cached_property
    def _shards(self) -> dict[str, str | None]:
        """Shard -> split of its samples, None where there are several."""
        try:
            with duckdb.connect() as connection:
                found = connection.execute(
                    "SELECT shard, min(split), max(split) FROM read_parquet(?) GROUP BY shard",
                    [str(self._folder / INDEX)],
                ).fetchall()
        except duckdb.Error as error:
            raise OSError(f"{INDEX} beside it cannot be read: {str(error).splitlines()[0]}") from error
        return {shard: first if first == last else None for shard, first, last in found}

    def failed(self, kind: str) -> Iterator[LeftOut]:
        """Yield the rows that could not be fetched.

        Args:
            kind: `picture` or `video`.
        """
        path = self._folder / ROWS
        if not path.is_file():
            return
        try:
            with pq.ParquetFile(path) as file:
                if not set(_COLUMNS) <= set(file.schema_arrow.names):
                    return
                for batch in file.iter_batches(columns=_COLUMNS):
                    for row in batch.to_pylist():
                        if row["status"] != "success":
                            why = ": ".join(part for part in (row["cause"], row["detail"]) if part)
                            yield LeftOut(f"missing {kind}", row["key"], f"{why} {row['url']}".strip())
        except (OSError, pa.ArrowException) as error:
            yield LeftOut("damaged shard", path.name, str(error).splitlines()[0])

"""Reading selected samples by their offsets."""

import functools
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from diptych.data.members import unpack
from diptych.data.sample import Sample
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.index import ShardDataset

VERIFY = "`diptych data verify` lists what is damaged"


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

    def __init__(self, dataset: "ShardDataset", rows: np.ndarray) -> None:
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

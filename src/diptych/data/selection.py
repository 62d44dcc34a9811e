"""Reading selected samples by their offsets."""

import functools
import hashlib
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.members import unpack
from diptych.data.places import Place
from diptych.data.sample import Sample
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.index import ShardDataset

VERIFY = "`diptych data verify` lists what is damaged"
STEP = 1 << 20
"""Rows that are hashed at a time."""


class Selection:
    """Some samples of a dataset, in the order of the index. N samples.

    A selection of everything holds no array, and one of a large dataset maps its rows from a file: neither
    grows with the dataset. Pickles small; each process opens files for itself.

    Attributes:
        dataset: the dataset.
        kind: what its rows are: `samples`, or what `examples.expand` made of them.
    """

    kind = "samples"

    def __init__(self, dataset: "ShardDataset", rows: NDArray[Any] | None) -> None:
        """Select rows of the index: [N] integers, ascending, or None for all of them."""
        self.dataset, self._rows = dataset, rows

    def __len__(self) -> int:
        return self.dataset.size if self._rows is None else len(self._rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """[N] int64, row numbers in the index, ascending; made anew where none are held (see `rows_of`)."""
        return self.rows_of(slice(None))

    def rows_of(self, numbers: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows in the index of some of the samples 0..N-1; int64."""
        if self._rows is not None:
            return np.asarray(self._rows[numbers], dtype=np.int64)
        if isinstance(numbers, slice):
            return np.arange(*numbers.indices(len(self)), dtype=np.int64)
        return np.asarray(numbers, dtype=np.int64)

    @property
    def samples(self) -> "Selection":
        """The selected samples themselves."""
        return self

    def sample_of(self, i: int) -> int:
        """Return the number in `samples` of the sample that the i-th row is about."""
        return i

    def place(self, i: int) -> Place:
        """Return where the i-th selected sample lies.

        Raises:
            IndexError: `i` is not in 0..N-1.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of a selection of {len(self)}")
        return self.dataset.places.at(i if self._rows is None else int(self._rows[i]))

    def address(self, i: int) -> str:
        """Return the shard of the i-th selected sample with its folder or URL, for messages."""
        return self.dataset.store.place(self.dataset.shards[self.place(i).shard])

    def read(self, i: int) -> Sample:
        """Return the i-th selected sample; its bytes are checked against the index.

        Raises:
            IndexError: `i` is not in 0..N-1.
            DataError: the sample is damaged; the message names shard and key and says what is wrong.
            RemoteError: the place it comes from cannot be reached.
        """
        place = self.place(i)
        shard = self.dataset.shards[place.shard]
        block = self._block(place, shard)
        members = {name: block[start : start + size] for name, (start, size) in place.members.items()}
        try:
            return unpack(place.key, members, place.split)
        except ValueError as error:
            raise DataError(
                f"{self.dataset.store.place(shard)}: sample '{place.key}' cannot be understood: {error}"
            ) from error

    def _block(self, place: Place, shard: str) -> bytes:
        try:
            block = self.dataset.read_bytes(shard, place.offset, place.size)
        except OSError as error:
            raise DataError(
                f"{self._where(shard)}: sample '{place.key}' cannot be read: "
                f"{error.strerror or error}; {VERIFY}"
            ) from error
        if len(block) < place.size:
            raise DataError(
                f"{self._where(shard)}: sample '{place.key}' is cut off: expected bytes {place.offset} to "
                f"{place.offset + place.size}, the file ends at {place.offset + len(block)}; {VERIFY}"
            )
        if zlib.crc32(block) != place.crc32:
            raise DataError(
                f"{self._where(shard)}: sample '{place.key}' is damaged: "
                f"its checksum differs from the index; {VERIFY}"
            )
        return block

    def _where(self, shard: str) -> str:
        return self.dataset.store.place(shard)

    def will_need(self, numbers: NDArray[np.int64] | Sequence[int]) -> None:
        """Say which of the samples 0..N-1 are read next, in this order; a remote store fetches ahead."""
        wanted = np.asarray(numbers, dtype=np.int64)
        shards = self.dataset.places.shard_numbers(self.rows_of(wanted))
        self.dataset.store.will_need([self.dataset.shards[n] for n in dict.fromkeys(shards.tolist())])

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the index."""
        return self.dataset.columns

    def column(self, name: str) -> NDArray[Any] | list[Any]:
        """Return a column of the index for the selected samples: an array for numbers, else a list.

        A column of numbers with missing values is a list too, with None in their place.

        Raises:
            DataError: there is no such column; the message has the nearest name.
        """
        import pyarrow as pa

        values = self.dataset.take([name], self._rows).column(0)
        kind = values.type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if number and values.null_count == 0:
            return np.asarray(values.to_numpy())
        return list(values.to_pylist())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex hash of the shards' content and the selected rows; equal for equal selections anywhere."""
        digest = hashlib.sha256(f"{self.dataset.identity} {len(self)}\n".encode())
        # Everything is everything, however it was asked for.
        if len(self) < self.dataset.size:
            for start in range(0, len(self), STEP):
                digest.update(self.rows_of(slice(start, start + STEP)).astype("<i8").tobytes())
        return digest.hexdigest()

    def prefetch(self) -> "Selection":
        """Map the table of places now, so that forked workers share it; returns itself."""
        _ = self.dataset.places
        return self

    def __getstate__(self) -> dict[str, Any]:
        rows = self._rows
        if isinstance(rows, np.memmap) and rows.filename is not None:
            return {"dataset": self.dataset, "file": str(rows.filename)}
        return {"dataset": self.dataset, "rows": rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.dataset = state["dataset"]
        self._rows = np.load(state["file"], mmap_mode="r") if "file" in state else state["rows"]

    def __repr__(self) -> str:
        return f"Selection({len(self)} of {self.dataset!r})"

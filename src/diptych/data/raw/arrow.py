"""Arrow files with pictures in a column, as EVE and ViLT keep their pre-training data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.data.raw.refs import MAX_BYTES, MediumError
from diptych.errors import DataError


@dataclass(frozen=True, slots=True)
class ArrowRef:
    """A value of a binary column; a `Ref` like others."""

    path: Path
    column: str
    batch: int
    row: int
    size: int | None = None

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        if self.size is not None and self.size > MAX_BYTES:
            raise MediumError("file too large", f"{self}: has {self.size} bytes")
        try:
            # Mapped: only the pages of this value are read.
            with pa.memory_map(str(self.path)) as source:
                found = pa.ipc.open_file(source).get_batch(self.batch).column(self.column)[self.row].as_py()
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            raise MediumError("unreadable file", f"{self}: {error}") from error
        if not isinstance(found, bytes):
            raise MediumError("missing picture", f"{self}: there is none")
        return found

    def __str__(self) -> str:
        return f"{self.path}, batch {self.batch}, row {self.row}"


def arrow_rows(
    path: Path, binary: str, columns: Sequence[str]
) -> Iterator[tuple[int, ArrowRef | None, dict[str, Any]]]:
    """Yield number in the file, place of the binary value (None where it is null) and the other columns.

    Args:
        path: an Arrow file (IPC), uncompressed or not.
        binary: the column of the media.
        columns: others that are wanted; those that the file does not have are left.

    Raises:
        DataError: it cannot be read, or lacks the column.
    """
    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            if binary not in file.schema.names:
                raise DataError(f"{path}: no column '{binary}'; it has {', '.join(file.schema.names)}")
            known = [name for name in columns if name in file.schema.names]
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                sizes = pc.binary_length(batch.column(binary)).to_pylist()
                others = batch.select(known).to_pylist() if known else [{} for _ in sizes]
                for row, (size, other) in enumerate(zip(sizes, others, strict=True)):
                    ref = None if size is None else ArrowRef(path, binary, index, row, size)
                    yield number, ref, other
                    number += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as an Arrow file: {error}; get the file again") from error

"""Where the parts of a fetch lie, and what each row of the list leaves behind."""

from pathlib import Path

import pyarrow as pa

from diptych.errors import DataError

WORK = ".fetch"
"""Folder inside the dataset; it stays, so that failed rows can be tried again."""
ROWS = "rows.parquet"
"""What became of each row."""
REPORT = "fetch.json"
"""Counts by cause and host, and the options."""
META = b"diptych"
"""Where a part says what else there is to know of its chunk."""
RUN = "run"

ROW = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("cause", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("http", pa.int16(), nullable=False),
        pa.field("tries", pa.int16(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
    ]
)
"""The columns of `rows.parquet`: what became of each row of the list."""
SUCCESS = "success"


def part_path(out: Path, number: int) -> Path:
    """Return where the part of the index of a chunk lies."""
    return out / WORK / "parts" / f"{number:06d}.parquet"


def rows_path(out: Path, number: int) -> Path:
    """Return where it says what became of the rows of a chunk."""
    return out / WORK / "rows" / f"{number:06d}.parquet"


def scratch_path(out: Path) -> Path:
    """Return the folder for videos until they are stored; it holds nothing between two runs."""
    return out / WORK / "media"


def still_runs(out: Path, run: str) -> None:
    """Raise a `DataError` if another run than `run` works in the folder, or the folder is not there."""
    path = out / WORK / RUN
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; the folder of the dataset must lie on a file "
            "system that all machines share"
        ) from error
    if found != run:
        raise DataError(f"{out}: another process has taken over")

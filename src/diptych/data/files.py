"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.errors import DataError

PARTIAL = ".partial"
"""Ending of files that are still being written; whatever carries it may be deleted."""


class WriteError(DataError):
    """A file could not be written: full disk, quota, no permission, ..."""


def partial_of(path: Path, tag: str = "") -> Path:
    """Return the temporary path beside `path`; another one for each tag."""
    return path.with_name(f"{path.name}.{tag}{PARTIAL}" if tag else path.name + PARTIAL)


@contextmanager
def written_whole(path: Path, tag: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; sync and rename it to `path` when the block ends well.

    Args:
        path: the file.
        tag: part of the temporary name, for processes that may write the same file at the same time.

    Raises:
        WriteError: the file cannot be written (full disk, no permission, ...); nothing is left behind.
    """
    partial = partial_of(path, tag)
    try:
        yield partial
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename never becomes durable before its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return the error to raise when `path` could not be written."""
    return WriteError(f"cannot write {path}: {error.strerror or error}")


def read_exactly(handle: int, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from `offset` of an open file; fewer only at its end."""
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data

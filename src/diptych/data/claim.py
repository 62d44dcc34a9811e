"""The folder in which a dataset is made: one process at a time works in it."""

import fcntl
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from diptych.data.files import cannot_write
from diptych.errors import DataError

LOCK = "lock"
"""The file that is locked, in the folder of the work."""


class Claim:
    """The right to write into the folder of a dataset, for as long as this process lives or until `release`.

    Args:
        out: folder of the dataset, made if missing.
        folder: inside it, for the state of the work; made if missing.
        ours: `out` may hold other files, for they are known to belong to the work.
        strange: what is said of other files, e.g. `that were not fetched`.
        doing: what another process does if it is at work, e.g. `fetching into`.

    Raises:
        DataError: `out` is a file, holds something else, or another process works in it.
        WriteError: it cannot be made.
    """

    def __init__(self, out: Path, folder: Path, *, ours: bool, strange: str, doing: str) -> None:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file; expected a folder for the dataset")
        others = [path.name for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
        if others and not ours:
            named = ", ".join(sorted(others)[:3])
            raise DataError(f"{out} holds other files ({named}, ...) {strange}; choose an empty folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(out, error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise DataError(f"another process is {doing} {out}; wait until it ends") from error

    def release(self) -> None:
        """Let other processes work."""
        with suppress(OSError):
            os.close(self._handle)
        self._handle = -1


def drop_shards(out: Path, name: str, keep: Collection[str]) -> None:
    """Delete shards of an unfinished dataset.

    Args:
        out: its folder.
        name: how its shards' names start.
        keep: file names of those that are finished.
    """
    ours = re.compile(re.escape(name) + r"-\d{6,}\.tar")
    for path in out.glob("*.tar"):
        if path.name not in keep and ours.fullmatch(path.name):
            path.unlink()

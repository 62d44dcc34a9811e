"""Where the bytes of shards come from."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from diptych.data.files import read_exactly

OPEN_SHARDS = 64
"""Files a process keeps open for one dataset."""


class Store(Protocol):
    """The shards of one dataset. Safe with threads and forks; pickles small."""

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` of a shard; fewer only where the shard ends early.

        Raises:
            OSError: the shard cannot be read.
            RemoteError: the place it comes from cannot be reached.
        """
        ...

    def will_need(self, shards: Sequence[str]) -> None:
        """Say which shards are read next, in this order; a store may fetch them ahead. Returns at once."""
        ...

    def place(self, shard: str) -> str:
        """Return where a shard lies, for messages."""
        ...

    def local(self, name: str) -> Path:
        """Return the path of a file of the dataset (a shard, the index) on this machine.

        A remote file is fetched first, and may go again when others need its place.

        Raises:
            RemoteError: it cannot be fetched.
        """
        ...


class LocalStore:
    """Shards in a folder; keeps the newest few open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._handle = functools.lru_cache(OPEN_SHARDS)(self._open)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` of a shard; fewer only where the shard ends early.

        Raises:
            OSError: the shard cannot be read.
        """
        return self._handle(shard).read(offset, size)

    def will_need(self, shards: Sequence[str]) -> None:
        """Do nothing: the system reads ahead by itself."""

    def place(self, shard: str) -> str:
        """Return the path of a shard."""
        return str(self.root / shard)

    def local(self, name: str) -> Path:
        """Return the path of a file, whether it is there or not."""
        return self.root / name

    def _open(self, shard: str) -> "OpenFile":
        return OpenFile(self.root / shard)

    def __reduce__(self) -> tuple[type["LocalStore"], tuple[Path]]:
        return LocalStore, (self.root,)


class OpenFile:
    """An open file, closed when the last reader lets go of it: eviction is safe with threads."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be read.
        """
        self._number = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer only at the end of the file."""
        return read_exactly(self._number, offset, size)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)

"""Datasets behind a URL: shards come into a local folder, once and whole, or are read in parts.

The folder is shared by processes and datasets. A file appears there under its name only when it is complete
and its hash is right; one process fetches it, the others wait. When the shards outgrow the limit, those that
nobody used for the longest time go; who has one open reads on.
"""

import functools
import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diptych.data.columns import file_hash
from diptych.data.config import RemoteConfig
from diptych.data.derived import user_cache
from diptych.data.fetch import Source, WrongContentError
from diptych.data.files import PARTIAL
from diptych.data.locking import locked
from diptych.data.store import OpenFile
from diptych.errors import DataError, RemoteError

OPEN_SHARDS = 16
"""Files a process keeps open: a shard that is open takes room even when it was evicted."""
LOCKS = 64
"""Lock files of a dataset; shards share them."""
TOUCH = 10.0
"""Seconds after which a use of a shard is noted again."""
DEAD = 3600.0
"""Seconds after which an unfinished file that nobody wrote to is taken for a dead process's."""
GIB = 1 << 30


class RemoteStore:
    """The shards of a dataset behind a URL.

    Args:
        source: the URL.
        folder: local folder of this dataset, inside `cache`.
        cache: folder whose shards together stay below the limit.
        files: name -> (bytes, or -1 if unknown; hex SHA-256) of every file that may be asked for.
    """

    def __init__(
        self, source: Source, folder: Path, cache: Path, files: Mapping[str, tuple[int, str]]
    ) -> None:
        self.source, self.folder, self.cache, self._files = source, folder, cache, dict(files)
        self.config = source.config
        self._handle = functools.lru_cache(OPEN_SHARDS)(self._open)
        self._ahead = _Ahead(self)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` of a shard; fewer only where the shard ends early.

        Raises:
            OSError: the local copy cannot be read.
            RemoteError: the shard cannot be fetched.
        """
        if self.config.read == "range":
            return self.source.read(shard, offset, size)
        return self._handle(shard).read(offset, size)

    def will_need(self, shards: Sequence[str]) -> None:
        """Fetch those of these shards that are not here in the background, up to `ahead` of them."""
        if self.config.read == "cache" and self.config.ahead:
            self._ahead.want(shards)

    def place(self, shard: str) -> str:
        """Return the URL of a shard."""
        return self.source.place(shard)

    def local(self, name: str) -> Path:
        """Return the path of the local copy of a file, fetched first where it is not there.

        Raises:
            RemoteError: it cannot be fetched, or is not what `dataset.json` says.
        """
        path = self.folder / name
        if not path.is_file():
            self._fetch(name)
        return path

    def missing(self, shards: Sequence[str]) -> list[str]:
        """Return those of the shards that are not here."""
        return [shard for shard in shards if not (self.folder / shard).is_file()]

    def _open(self, shard: str) -> "_Shard":
        while True:
            try:
                return _Shard(self.local(shard))
            except FileNotFoundError:
                # Evicted between the two: it is fetched again.
                continue

    def _fetch(self, name: str) -> None:
        size, digest = self._files[name]

        def check(copy: Path) -> None:
            found = copy.stat().st_size
            if size >= 0 and found != size:
                raise WrongContentError(f"{found} bytes came, dataset.json says {size}")
            if file_hash(copy) != digest:
                raise WrongContentError("it differs from what dataset.json says (SHA-256)")

        number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCKS
        with locked(self.folder / f".lock-{number:02d}"):
            if (self.folder / name).is_file():
                return
            if size >= 0:
                make_room(self.cache, size, self.config)
            partial = self.folder / f"{name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}"
            self.source.download(name, partial, check)
            partial.replace(self.folder / name)
            if size >= 0:
                # What others fetched meanwhile counts too.
                make_room(self.cache, 0, self.config)

    def __reduce__(self) -> tuple[type["RemoteStore"], tuple[Any, ...]]:
        return RemoteStore, (self.source, self.folder, self.cache, self._files)


class _Shard(OpenFile):
    """An open local copy; notes when it is used, so that the cache keeps what is in use."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path, self._noted = path, 0.0

    def read(self, offset: int, size: int) -> bytes:
        now = time.monotonic()
        if now - self._noted > TOUCH:
            self._noted = now
            with suppress(OSError):
                os.utime(self._path)
        return super().read(offset, size)


class _Ahead:
    """Fetches shards before they are asked for, in a thread that ends when there is nothing left to do."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._reset()

    def _reset(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._wanted: list[str] = []
        self._thread: threading.Thread | None = None

    def want(self, shards: Sequence[str]) -> None:
        if self._process != os.getpid():
            # A fork has the lock in any state, and no thread.
            self._reset()
        with self._lock:
            new = [shard for shard in self._store.missing(shards) if shard not in self._wanted]
            # What was announced first is needed first; for what is dropped here its reader waits.
            self._wanted = (self._wanted + new)[: self._store.config.ahead]
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="diptych-read-ahead", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being fetched."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                shard = self._wanted.pop(0)
            # Whoever reads the shard meets the same error and can say what it means.
            with suppress(DataError, OSError):
                self._store.local(shard)


def make_room(cache: Path, size: int, config: RemoteConfig) -> None:
    """Delete shards that were not used for the longest time until `size` bytes more fit the limit.

    Raises:
        DataError: a single shard is larger than the limit.
    """
    limit = int(config.cache_gb * GIB)
    if not limit:
        return
    if size > limit:
        raise DataError(
            f"a shard has {size / GIB:.3g} GiB, data.remote.cache_gb = {config.cache_gb:g} in all: raise it, "
            "or set data.remote.read=range"
        )
    with locked(cache / ".lock"):
        found: list[tuple[float, int, Path]] = []
        for path in (*cache.glob("*/*.tar"), *cache.glob(f"*/*{PARTIAL}")):
            with suppress(OSError):
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(bytes_ for _, bytes_, _ in found) + size
        for used, bytes_, path in sorted(found):
            dead = path.name.endswith(PARTIAL) and time.time() - used > DEAD
            if dead or (total > limit and not path.name.endswith(PARTIAL)):
                path.unlink(missing_ok=True)
                total -= bytes_


def open_remote(url: str, config: RemoteConfig) -> tuple[Path, dict[str, Any], RemoteStore]:
    """Return (local folder, content of `dataset.json`, store) of a prepared dataset behind a URL.

    Raises:
        ConfigError: no URL of a folder, or of no known kind.
        RemoteError: it cannot be reached.
        DataError: no prepared dataset, or one that names files outside of its folder.
    """
    from diptych.data.index import INDEX, INFO, read_info
    from diptych.data.places import PLACES

    source = Source(url, config)
    text = source.read_whole(INFO)
    cache = Path(config.cache).expanduser() if config.cache else user_cache() / "remote"
    folder = cache / hashlib.sha256(f"{url}\n".encode() + text).hexdigest()[:24]
    info_path = folder / INFO
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not info_path.is_file() or info_path.read_bytes() != text:
            partial = folder / f"{INFO}.{os.getpid()}{PARTIAL}"
            partial.write_bytes(text)
            partial.replace(info_path)
    except OSError as error:
        raise RemoteError(
            f"cannot write {folder}: {error.strerror or error}; set data.remote.cache to another folder"
        ) from error
    info = read_info(info_path)
    try:
        files = {str(s["file"]): (int(s["bytes"]), str(s["sha256"])) for s in info["shards"]}
        files[INDEX] = (-1, str(info["index"]["sha256"]))
        if "places" in info:
            files[PLACES] = (-1, str(info["places"]["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source.place(INFO)} is not a prepared dataset's ({error!r})") from error
    for name in files:
        if Path(name).name != name or name.startswith(".") or "\\" in name:
            raise DataError(f"{source.place(INFO)} names the file '{name}'; expected names without folders")
    return folder, info, RemoteStore(source, folder, cache, files)

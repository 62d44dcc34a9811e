"""Where a medium lies in the raw files: light enough to be planned by the million, read when it is needed."""

import errno
import tarfile
import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_BYTES = 4 * 2**30
"""Bytes of one medium that are read, at most."""
MAX_RATIO = 200
"""How many times its compressed size a member of an archive may have, at most."""
_OPEN_ARCHIVES = 16


class MediumError(Exception):
    """A medium that cannot be read; `cause` is the short name it is counted under."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail = cause, detail


class Ref(Protocol):
    """A medium that is still in the raw files: small, can be pickled, reads alike in any process."""

    @property
    def size(self) -> int | None:
        """Bytes, as far as known without reading."""
        ...

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            MediumError: it is not there, too large, damaged, or the archive is.
        """
        ...


@dataclass(frozen=True)
class FileRef:
    """A file."""

    path: Path
    size: int | None = None

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise MediumError("file too large", f"{self.path}: more than {MAX_BYTES} bytes")
            return self.path.read_bytes()
        except OSError as error:
            cause = "missing file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable file"
            raise MediumError(cause, f"{self.path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class ZipRef:
    """A member of a zip archive, stored or deflated."""

    archive: Path
    member: str
    size: int | None = None

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        try:
            archive = _zip(self.archive)
            info = archive.getinfo(self.member)
            if info.file_size > MAX_BYTES:
                raise MediumError("file too large", f"{self}: says it has {info.file_size} bytes")
            if info.file_size > MAX_RATIO * max(info.compress_size, 1000):
                raise MediumError(
                    "decompression bomb",
                    f"{self}: {info.compress_size} bytes say they become {info.file_size}",
                )
            with _LOCK, archive.open(info) as stream:
                # One byte more than declared shows a member that lies about its size.
                data = stream.read(info.file_size + 1)
        except (KeyError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise MediumError("unreadable file", f"{self}: {error}") from error
        except Exception as error:  # zlib.error and the like have no common base
            raise MediumError("unreadable file", f"{self}: {error}") from error
        if len(data) != info.file_size:
            raise MediumError("unreadable file", f"{self}: {info.file_size} bytes were promised")
        return data

    def __str__(self) -> str:
        return f"{self.archive}@/{self.member}"


@dataclass(frozen=True)
class TarRef:
    """A member of a plain tar, by its place."""

    archive: Path
    member: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        if self.size > MAX_BYTES:
            raise MediumError("file too large", f"{self}: has {self.size} bytes")
        try:
            with self.archive.open("rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise MediumError("unreadable file", f"{self}: {error.strerror or error}") from error
        if len(data) != self.size:
            raise MediumError("truncated archive", f"{self}: {self.size} bytes were promised")
        return data

    def __str__(self) -> str:
        return f"{self.archive}@/{self.member}"


_LOCK = threading.Lock()
_ZIPS: OrderedDict[Path, zipfile.ZipFile] = OrderedDict()


def _zip(path: Path) -> zipfile.ZipFile:
    """Return the open archive of this process; the least recently used one is closed."""
    with _LOCK:
        if path in _ZIPS:
            _ZIPS.move_to_end(path)
            return _ZIPS[path]
        archive = zipfile.ZipFile(path)
        _ZIPS[path] = archive
        while len(_ZIPS) > _OPEN_ARCHIVES:
            _ZIPS.popitem(last=False)[1].close()
        return archive


def tar_members(path: Path) -> dict[str, TarRef]:
    """Return the regular files of an uncompressed tar by name.

    Raises:
        MediumError: it is damaged or compressed.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return {
                info.name: TarRef(path, info.name, info.offset_data, info.size)
                for info in archive
                if info.isreg()
            }
    except (OSError, tarfile.TarError) as error:
        raise MediumError("unreadable archive", f"{path}: {error}") from error


def zip_members(path: Path) -> dict[str, ZipRef]:
    """Return the files of a zip archive by name.

    Raises:
        MediumError: it is damaged.
    """
    try:
        infos = _zip(path).infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise MediumError("unreadable archive", f"{path}: {error}") from error
    return {info.filename: ZipRef(path, info.filename, info.file_size) for info in infos if not info.is_dir()}

"""Where a medium lies in the raw files: light enough to be planned by the million, read when it is needed.

Nothing is kept open between two readings, so threads and forked processes never share a position in a file.
"""

import bz2
import errno
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from diptych.data.files import read_exactly

MAX_BYTES = 4 * 2**30
"""Bytes of one medium that are read, at most."""
MAX_RATIO = 200
"""How many times its compressed size a member of an archive may have, at most."""

STORED, DEFLATED, BZIP2 = 0, 8, 12
"""Compression methods of zip archives that are read."""
_LEAST = 1000
"""Compressed sizes below it count as this much: a tiny text may compress well."""
_LOCAL = struct.Struct("<4s22xHH")
"""Header before a member's content: mark, then the lengths of the name and of the extra field."""
_PIECE = 1 << 16


class MediumError(Exception):
    """A medium that cannot be read; `cause` is the short name it is counted under."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)  # both, for workers send errors to their parent
        self.cause, self.detail = cause, detail

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}"


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


@dataclass(frozen=True, slots=True)
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
            raise _unreadable(str(self), error) from error

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class TarRef:
    """A member of a plain tar (or of one inside a tar), by its place in the file on the disk."""

    archive: Path
    member: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        if self.size > MAX_BYTES:
            raise MediumError("file too large", f"{self}: has {self.size} bytes")
        try:
            data = read_range(self.archive, self.offset, self.size)
        except OSError as error:
            raise _unreadable(str(self), error) from error
        if len(data) != self.size:
            raise MediumError("truncated archive", f"{self}: {self.size} bytes were promised")
        return data

    def __str__(self) -> str:
        return f"{self.archive}@/{self.member}"


@dataclass(frozen=True, slots=True)
class ZipRef:
    """A member of a zip archive: stored, deflated or bzip2."""

    archive: Path
    member: str
    size: int
    header: int
    """Where its local header begins in the file on the disk."""
    stored: int
    """Bytes it takes in the archive."""
    method: int
    crc: int

    def read(self) -> bytes:
        """Return the bytes; see `Ref`."""
        self.check()
        try:
            packed = read_range(self.archive, self.start(), self.stored)
        except OSError as error:
            raise _unreadable(str(self), error) from error
        if len(packed) != self.stored:
            raise MediumError("truncated archive", f"{self}: {self.stored} bytes were promised")
        try:
            # One byte more than declared shows a member that lies about its size.
            data = packed if self.method == STORED else decompressor(self.method)(packed, self.size + 1)
        except (zlib.error, OSError, EOFError) as error:
            raise MediumError("unreadable file", f"{self}: {error}") from error
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise MediumError("unreadable file", f"{self}: damaged, {self.size} other bytes were promised")
        return data

    def check(self) -> None:
        """Refuse what must not be unpacked.

        Raises:
            MediumError: too large, a decompression bomb by its own account, an unknown method.
        """
        if max(self.size, self.stored) > MAX_BYTES:
            raise MediumError("file too large", f"{self}: says it has {self.size} bytes")
        if self.size > MAX_RATIO * max(self.stored, _LEAST):
            detail = f"{self}: {self.stored} bytes say they become {self.size}"
            raise MediumError("decompression bomb", detail)
        if self.method not in (STORED, DEFLATED, BZIP2):
            detail = (
                f"{self}: compression method {self.method} is not read; pack it again as stored or deflated"
            )
            raise MediumError("unreadable file", detail)

    def start(self) -> int:
        """Return where its content begins in the file on the disk.

        Raises:
            MediumError: there is no such member.
            OSError: the file cannot be read.
        """
        head = read_range(self.archive, self.header, _LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            raise MediumError("unreadable file", f"{self}: the archive is damaged there")
        _, name, extra = _LOCAL.unpack(head)
        return self.header + _LOCAL.size + int(name) + int(extra)

    def __str__(self) -> str:
        return f"{self.archive}@/{self.member}"


@dataclass(frozen=True, slots=True)
class BadRef:
    """A member of an archive that cannot be read, and why (encrypted, sparse, ...)."""

    name: str
    cause: str
    detail: str
    size: int | None = None

    def read(self) -> bytes:
        """Raise the error; see `Ref`."""
        raise MediumError(self.cause, f"{self.name}: {self.detail}")

    def __str__(self) -> str:
        return self.name


class Decompress(Protocol):
    """Decompresses a piece, giving at most so many bytes."""

    def __call__(self, data: bytes, max_length: int = ..., /) -> bytes:
        """Return what came out."""
        ...


def decompressor(method: int) -> Decompress:
    """Return what undoes a compression method of zip archives."""
    return bz2.BZ2Decompressor().decompress if method == BZIP2 else zlib.decompressobj(-15).decompress


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from `offset` on, fewer where it ends.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_exactly(handle, offset, size)
    finally:
        os.close(handle)


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill the buffer; return how many bytes there were."""
        count = max(0, min(len(buffer), self._size - self._at))
        done = os.preadv(self._handle, [memoryview(buffer)[:count]], self._start + self._at) if count else 0
        self._at += done
        return done

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._handle)
        super().close()


class _Unpacked(io.RawIOBase):
    """A compressed member, unpacked while it is read, once and forwards."""

    def __init__(self, ref: ZipRef) -> None:
        super().__init__()
        ref.check()
        self._ref, self._window = ref, Window(ref.archive, ref.start(), ref.stored)
        self._decompress, self._given, self._crc = decompressor(ref.method), 0, 0
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        if not len(buffer):
            return 0
        while not self._waiting:
            packed = self._window.read(_PIECE)
            if not packed:
                return self._end()
            try:
                self._waiting = self._decompress(packed)
            except (zlib.error, OSError, EOFError) as error:
                raise OSError(errno.EIO, f"{self._ref}: {error}") from error
        piece, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(piece)] = piece
        self._given, self._crc = self._given + len(piece), zlib.crc32(piece, self._crc)
        if self._given > self._ref.size:
            raise OSError(errno.EIO, f"{self._ref}: more than the {self._ref.size} bytes that it promised")
        return len(piece)

    def _end(self) -> int:
        if self._given != self._ref.size or self._crc != self._ref.crc:
            raise OSError(errno.EIO, f"{self._ref}: damaged, {self._ref.size} other bytes were promised")
        return 0

    def close(self) -> None:
        self._window.close()
        super().close()


def open_ref(ref: Ref) -> BinaryIO:
    """Open a medium to be read piece by piece; it can be sought in unless it is compressed.

    A `Ref` of another kind may have a method `open`, which is asked; else it is read as a whole.

    Raises:
        MediumError: as `Ref.read`. Reading then raises OSError.
    """
    try:
        if isinstance(ref, FileRef):
            return ref.path.open("rb")
        if isinstance(ref, TarRef):
            return io.BufferedReader(Window(ref.archive, ref.offset, ref.size), _PIECE)
        if isinstance(ref, ZipRef):
            if ref.method != STORED:
                return io.BufferedReader(_Unpacked(ref), _PIECE)
            ref.check()
            return io.BufferedReader(Window(ref.archive, ref.start(), ref.size), _PIECE)
    except OSError as error:
        raise _unreadable(str(ref), error) from error
    opener = getattr(ref, "open", None)
    return opener() if callable(opener) else io.BytesIO(ref.read())


def _unreadable(name: str, error: OSError) -> MediumError:
    cause = "missing file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable file"
    return MediumError(cause, f"{name}: {error.strerror or error}")

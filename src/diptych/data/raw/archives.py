"""What is inside archives: plain tars and zips read in place, compressed tars by way of a plain copy.

What an archive says is not trusted: names that lead out of it, links, devices and members that grow
beyond measure are left out or refused. The content tells what kind an archive is, not its name.
"""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import unicodedata
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from diptych.data.derived import FOLDER, cache_home, derived_file
from diptych.data.raw.refs import (
    MAX_RATIO,
    STORED,
    BadRef,
    MediumError,
    Ref,
    TarRef,
    Window,
    ZipRef,
    read_range,
)
from diptych.data.raw.tars import members
from diptych.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of names that are archives."""
COMPRESSED = ARCHIVES[2:]

_MAGIC = {
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_ENCRYPTED = 0x1 | 0x40
_UTF8_NAMES = 0x800
_WINDOWS = 0
"""`create_system` of archives made by DOS and Windows: some of them separate folders by a backslash."""
_BLOCK = tarfile.BLOCKSIZE
_LEAST = 1 << 20
_PIECE = 1 << 20


@dataclass(frozen=True)
class Extent:
    """An archive: a whole file, or the part of a file that a stored member takes."""

    path: Path
    start: int
    size: int
    name: str
    """For people."""

    def open(self) -> BinaryIO:
        """Open it to be read and sought in."""
        return io.BufferedReader(Window(self.path, self.start, self.size), 1 << 12)


class Listing(Mapping[str, Ref]):
    """The files of an archive by name, kept as numbers: about 250 bytes a file.

    Args:
        make: gives the medium for a name and its numbers.
        width: how many numbers a file has.
    """

    def __init__(self, make: Callable[..., Ref], width: int) -> None:
        self._make, self._width = make, width
        self._rows: dict[str, int] = {}
        self._numbers = array("q")
        self._bad: dict[str, BadRef] = {}

    def add(self, name: str, *numbers: int) -> None:
        """Add a file; a later one of the same name takes the place of the earlier, as when unpacked."""
        self._rows[name] = len(self._numbers) // self._width
        self._numbers.extend(numbers)
        self._bad.pop(name, None)

    def add_bad(self, name: str, ref: BadRef) -> None:
        """Add a file that cannot be read."""
        self.add(name, *[0] * self._width)
        self._bad[name] = ref

    def add_link(self, name: str, target: str) -> None:
        """Add another name for a file that is there already; else nothing."""
        if target in self._bad:
            self.add_bad(name, self._bad[target])
        elif target in self._rows:
            at = self._rows[target] * self._width
            self.add(name, *self._numbers[at : at + self._width])

    def __getitem__(self, name: str) -> Ref:
        at = self._rows[name] * self._width
        return self._bad.get(name) or self._make(name, *self._numbers[at : at + self._width])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


def list_archive(extent: Extent) -> Listing:
    """Return the files of a tar or zip archive.

    Raises:
        MediumError: it is damaged, or of a kind that is not read in place.
    """
    kind = sniff(extent)
    try:
        if kind == "zip":
            return _list_zip(extent)
        if kind == "tar":
            return _list_tar(extent)
    except (
        OSError,
        EOFError,
        ValueError,
        tarfile.TarError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        # zipfile raises NotImplementedError and ValueError for headers that make no sense to it.
        raise MediumError("unreadable archive", f"{extent.name}: {error}") from error
    raise MediumError("unreadable archive", f"{extent.name}: {_explain(kind, extent)}")


def sniff(extent: Extent) -> str:
    """Return `zip`, `tar`, `gzip`, `bzip2`, `xz`, another compression, or `` for what is none of them.

    Raises:
        MediumError: it cannot be read.
    """
    try:
        head = read_range(extent.path, extent.start, min(extent.size, _BLOCK))
    except OSError as error:
        raise MediumError("unreadable archive", f"{extent.name}: {error.strerror or error}") from error
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    if found:
        return found
    if _is_tar_header(head):
        return "tar"
    # Zips may have something in front (self-extracting ones); their directory is at the end.
    return "zip" if extent.name.lower().endswith(".zip") and head[:1] not in (b"<", b"") else ""


def _is_tar_header(head: bytes) -> bool:
    if len(head) < _BLOCK:
        return False
    if not any(head):
        return True  # an empty archive
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _explain(kind: str, extent: Extent) -> str:
    if kind:
        return f"is {kind}, which is not read in place here; unpack it"
    head = read_range(extent.path, extent.start, min(extent.size, 40))
    if not head:
        return "is empty"
    if head.lstrip()[:1] == b"<":
        return f"is a web page, not an archive; it starts with {head!r}"
    return f"is no archive; it starts with {head!r}"


def unpacked(kind: str, file: BinaryIO) -> BinaryIO:
    """Return the content of a compressed file as a file; `kind` as `sniff` names it."""
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    return cast(BinaryIO, bz2.BZ2File(file) if kind == "bzip2" else lzma.LZMAFile(file))


def clean_name(name: str) -> str:
    """Return a member's name as it is looked up: composed (NFC), without `./`; empty if it leads outside."""
    if "\0" in name or name.startswith("/"):
        return ""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return ""
    clean = "/".join(parts)
    return clean if clean.isascii() else unicodedata.normalize("NFC", clean)


def _list_tar(extent: Extent) -> Listing:
    found = Listing(lambda name, offset, size: TarRef(extent.path, name, offset, size), 2)
    with extent.open() as file:
        for member in members(file):
            name = clean_name(_western(member.name))
            if not name:
                continue
            if member.link:
                found.add_link(name, clean_name(_western(member.link)))
            elif member.sparse:
                why = "a sparse file; unpack the archive"
                found.add_bad(name, BadRef(f"{extent.name}@/{name}", "unreadable file", why))
            else:
                found.add(name, extent.start + member.offset, member.size)
    return found


def _western(raw: bytes) -> str:
    """Return a name; what is not UTF-8 is taken for Western European (old archives do not say)."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            pass
    return raw.decode("latin-1")


def _list_zip(extent: Extent) -> Listing:
    found = Listing(lambda name, *numbers: ZipRef(extent.path, name, *numbers), 5)
    with extent.open() as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = clean_name(_zip_name(info))
            if not name or info.is_dir():
                continue
            if info.flag_bits & _ENCRYPTED:
                why = "encrypted; unpack the archive with its password"
                found.add_bad(name, BadRef(f"{extent.name}@/{name}", "unreadable file", why))
                continue
            header = extent.start + info.header_offset
            found.add(name, info.file_size, header, info.compress_size, info.compress_type, info.CRC)
    return found


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if info.create_system == _WINDOWS and "/" not in name:
        name = name.replace("\\", "/")
    if name.isascii() or info.flag_bits & _UTF8_NAMES:
        return name
    # Without the mark for UTF-8 the name was taken for code page 437, which many tools do not mean.
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def inner_extent(ref: Ref, name: str) -> Extent:
    """Return where an archive inside an archive lies.

    Raises:
        MediumError: it is compressed there, so nothing in it has a place.
    """
    if isinstance(ref, TarRef):
        return Extent(ref.archive, ref.offset, ref.size, name)
    if isinstance(ref, ZipRef) and ref.method == STORED:
        try:
            return Extent(ref.archive, ref.start(), ref.size, name)
        except OSError as error:
            raise MediumError("unreadable archive", f"{name}: {error.strerror or error}") from error
    raise MediumError("unreadable archive", f"{name}: is compressed inside its archive; unpack the outer one")


def plain_copy(path: Path, kind: str) -> Path:
    """Return an uncompressed copy of a compressed tar, made once: nothing can be read out of its middle.

    It lies in `.diptych` beside the archive, or in the user's cache folder where that cannot be written.

    Args:
        path: the archive.
        kind: see `sniff`; gzip, bzip2 or xz.

    Raises:
        DataError: the archive is damaged, no tar, or grows beyond measure, or there is no room.
    """
    stat = path.stat()
    name = f"{path.name}.{stat.st_size:x}-{stat.st_mtime_ns:x}.tar"

    def make(out: Path) -> None:
        home = out.parent.parent
        for stale in home.glob(f"{_escape(path.name)}.*-*.tar"):
            stale.unlink(missing_ok=True)
        for left in home.glob("parts-*"):  # by a killed process: this one holds the lock
            if left != out.parent:
                shutil.rmtree(left, ignore_errors=True)
        _decompress(path, kind, out, MAX_RATIO * max(stat.st_size, _LEAST))

    return derived_file([path.parent / FOLDER, cache_home(path)], name, make, Path.is_file)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _decompress(path: Path, kind: str, out: Path, most: int) -> None:
    try:
        with path.open("rb") as file, unpacked(kind, file) as packed, out.open("wb") as plain:
            piece = packed.read(_PIECE)
            if not _is_tar_header(piece[:_BLOCK]):
                raise DataError(f"{path} is {kind}, but no tar; unpack it")
            while piece:
                plain.write(piece)
                if plain.tell() > most:
                    raise DataError(
                        f"{path} is refused: it grows to more than {most} bytes (decompression bomb)"
                    )
                piece = packed.read(_PIECE)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged: {error}; get the file again") from error
    except OSError as error:
        if error.errno is None:  # bz2's only error
            raise DataError(f"{path} is damaged: {error}; get the file again") from error
        raise DataError(
            f"{path} has to be kept uncompressed as well, for nothing can be read out of its middle: "
            f"{error.strerror or error} ({out.parent.parent}); make room, or unpack it yourself"
        ) from error

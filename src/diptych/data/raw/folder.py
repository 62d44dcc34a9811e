"""The raw folder of a dataset: files by name, unpacked or still inside the archives they came in.

A place is written `folder/file` or, inside an archive, `archive.zip@/folder/file` (also `.tar`); archives in
archives are `archive.tar@/inner.tar@/file`. Zips and plain tars are read in place, wherever they lie; of a
compressed tar (`.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`) a plain copy is made once.

Names are looked up as they are written; where that finds nothing, in the other Unicode normal form and with
the ending in small or capital letters. What an archive's members are called cannot lead out of it.
"""

import io
import lzma
import os
import re
import threading
import unicodedata
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TextIO

from diptych.data.derived import FOLDER
from diptych.data.raw.archives import (
    ARCHIVES,
    COMPRESSED,
    Extent,
    Listing,
    inner_extent,
    list_archive,
    plain_copy,
    sniff,
    unpacked,
)
from diptych.data.raw.refs import FileRef, MediumError, Ref, open_ref
from diptych.errors import DataError

INSIDE = "@/"

_MOST_NAMES = 2_000_000
"""Names of listed archives that are kept; the archives used longest ago are listed again."""
_UNPACK = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_JUNK = re.compile(r"(^|/)(\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)$|(^|/)(__MACOSX|\.diptych)/", re.I)
"""What operating systems leave beside the files, and what Diptych does."""
_NOTHING: Mapping[str, Ref] = {}


class RawFolder:
    """Files below a folder, and inside its archives.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: OrderedDict[str, Listing] = OrderedDict()
        self._lock = threading.RLock()

    def find(self, *places: str) -> Ref | None:
        """Return the first of these places that holds a file.

        Raises:
            DataError: an archive is damaged.
        """
        return next((ref for place in places if (ref := self._at(place)) is not None), None)

    def need(self, *places: str) -> Ref:
        """Return the first of these places that holds a file.

        Raises:
            DataError: none does, or an archive is damaged.
        """
        found = self.find(*places)
        if found is None:
            raise DataError(f"{self.root}: expected {' or '.join(places)}, but there is none")
        return found

    def text(self, *places: str, encoding: str = "utf-8-sig") -> TextIO:
        """Return a file as text; lines end as given (`newline=""`), a byte order mark is dropped.

        What is not in the encoding becomes U+FFFD: a damaged line must not end a preparation. A mark of
        UTF-16 wins over `encoding`. Files that end in .gz, .bz2 or .xz are unpacked while they are read.

        Raises:
            DataError: none of the places holds a file, or it cannot be read.
        """
        ref = self.need(*places)
        try:
            file = open_ref(ref)
        except MediumError as error:
            raise DataError(str(error)) from error
        kind = _UNPACK.get(PurePosixPath(str(ref)).suffix.lower())
        buffered = io.BufferedReader(_Checked(file, unpacked(kind, file) if kind else file, str(ref)))
        if encoding.lower().startswith("utf-8") and buffered.peek(2)[:2] in _UTF16:
            encoding = "utf-16"
        return io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="")

    def media(self, *places: str) -> "Media":
        """Return the files below the places (folders, whole archives, folders inside archives) that exist."""
        return Media(self, places)

    def glob(self, pattern: str) -> list[str]:
        """Return the files and folders that match (`part_*.tar.gz`), numbers in their order: 2 before 10."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))
        return sorted((name for name in found if not _JUNK.search(name)), key=_by_number)

    def members(self, archive: str) -> Mapping[str, Ref]:
        """Return the files inside an archive by name; empty if there is no such archive.

        Args:
            archive: below the folder, or inside another archive (`outer.tar@/inner.tar`).

        Raises:
            DataError: it is damaged.
        """
        with self._lock:
            if archive not in self._listings:
                extent = self._extent(archive)
                if extent is None:
                    return _NOTHING
                try:
                    self._listings[archive] = list_archive(extent)
                except MediumError as error:
                    raise DataError(f"{error}; get the file again") from error
                self._forget()
            self._listings.move_to_end(archive)
            return self._listings[archive]

    def _forget(self) -> None:
        while len(self._listings) > 1 and sum(map(len, self._listings.values())) > _MOST_NAMES:
            self._listings.popitem(last=False)

    def _extent(self, archive: str) -> Extent | None:
        """Return where an archive lies, uncompressed."""
        outer, inside, name = archive.rpartition(INSIDE)
        if inside:
            ref = self._member(outer, name)
            try:
                return None if ref is None else inner_extent(ref, f"{self.root / outer}{INSIDE}{name}")
            except MediumError as error:
                raise DataError(str(error)) from error
        path = next((path for place in _also_plain(archive) if (path := self._path(place)) is not None), None)
        if path is None:
            return None
        extent = Extent(path, 0, path.stat().st_size, str(path))
        try:
            kind = sniff(extent)
        except MediumError as error:
            raise DataError(str(error)) from error
        if kind in ("gzip", "bzip2", "xz"):
            copy = plain_copy(path, kind)
            return Extent(copy, 0, copy.stat().st_size, str(path))
        return extent

    def _at(self, place: str) -> Ref | None:
        archive, inside, name = place.rpartition(INSIDE)
        if inside:
            return self._member(archive, name)
        path = self._path(place)
        return None if path is None else FileRef(path, path.stat().st_size)

    def _member(self, archive: str, name: str) -> Ref | None:
        files = self.members(archive)
        if not files:
            return None
        name = unicodedata.normalize("NFC", name.removeprefix("./"))
        return next((files[spelling] for spelling in _endings(name) if spelling in files), None)

    def _path(self, place: str) -> Path | None:
        """Return the file at a place without archives, however it is spelled."""
        if not is_inside(place):
            return None
        forms = [place]
        if not place.isascii():
            forms += [unicodedata.normalize(form, place) for form in ("NFC", "NFD")]
        for form in forms:
            for spelling in _endings(form):
                path = self.root / spelling
                try:
                    if path.is_file():
                        return path
                except (OSError, ValueError):  # a name too long, or lone surrogates that are no file name
                    return None
        return None


class Media:
    """Media by name, looked for in several places in turn."""

    def __init__(self, raw: RawFolder, places: Sequence[str]) -> None:
        self._raw = raw
        self._places = tuple(places)

    def get(self, name: str) -> Ref | None:
        """Return the medium `name` (a relative path), or None.

        Raises:
            DataError: an archive is damaged.
        """
        if not is_inside(name):
            return None
        return self._raw.find(*(_join(place, name) for place in self._places))

    def names(self) -> Iterator[str]:
        """Yield the names of all files in all places, sorted within a place; each name once.

        What macOS and Windows put beside them (`__MACOSX/`, `._name`, `.DS_Store`, `Thumbs.db`) is left out.
        """
        seen: set[str] = set()
        for place in self._places:
            for name in sorted(self._below(place)):
                if name not in seen and not _JUNK.search(name):
                    seen.add(name)
                    yield name

    def _below(self, place: str) -> Iterator[str]:
        archive, prefix = (place, "") if _is_archive(place) else _around(place)
        if archive:
            start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
            for name in self._raw.members(archive):
                if name.startswith(start):
                    yield name[len(start) :]
        elif is_inside(place):
            yield from _walk(self._raw.root / place)


class _Checked(io.RawIOBase):
    """A stream whose errors are DataErrors that name the file."""

    def __init__(self, file: BinaryIO, content: BinaryIO, name: str) -> None:
        super().__init__()
        self._file, self._content, self.name = file, content, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            piece = self._content.read(len(buffer))
        except (OSError, EOFError, lzma.LZMAError, ValueError, zlib.error) as error:
            raise DataError(f"{self.name} cannot be read: {error}; get the file again") from error
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
            self._file.close()
        super().close()


def is_inside(name: str) -> bool:
    """Tell whether a relative name stays below the folder that it is taken from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _walk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder; folders that are links are entered, each folder once."""
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        here = folder / below
        if not here.is_dir():
            continue
        stat = here.stat()
        if (stat.st_dev, stat.st_ino) in entered:
            continue
        entered.add((stat.st_dev, stat.st_ino))
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name != FOLDER:
                        waiting.append(f"{below}{entry.name}/")
                elif entry.is_file():
                    yield below + entry.name


def _is_archive(place: str) -> bool:
    return place.lower().endswith(ARCHIVES)


def _around(place: str) -> tuple[str, str]:
    """Return the archive around a place and the place in it; no archive: two empty texts or the like."""
    archive, inside, prefix = place.rpartition(INSIDE)
    return (archive, prefix) if inside else ("", place)


def _also_plain(archive: str) -> Iterator[str]:
    """Yield a compressed tar's name, and what it is called when somebody has only undone the compression."""
    yield archive
    ending = next((ending for ending in COMPRESSED if archive.lower().endswith(ending)), None)
    if ending is not None:
        yield f"{archive[: -len(ending)]}.tar"


def _endings(name: str) -> Iterator[str]:
    """Yield a name, then with its ending in small and in capital letters."""
    yield name
    stem, dot, ending = name.rpartition(".")
    if dot and "/" not in ending:
        for other in (ending.lower(), ending.upper()):
            if other != ending:
                yield f"{stem}.{other}"


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _join(place: str, name: str) -> str:
    if _is_archive(place):
        return f"{place}{INSIDE}{name}"
    return f"{place.rstrip('/')}/{name}" if place else name

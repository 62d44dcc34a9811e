"""The raw folder of a dataset: files by name, unpacked or still inside the archives they came in.

A place is written `folder/file` or, inside an archive, `archive.zip@/folder/file` (also `.tar`). Nothing is
unpacked; what an archive's members are called cannot lead out of anything.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

from diptych.data.raw.refs import FileRef, MediumError, Ref, tar_members, zip_members
from diptych.errors import DataError

INSIDE = "@/"


class RawFolder:
    """Files below a folder, and inside its archives.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._archives: dict[str, dict[str, Ref]] = {}

    def find(self, *places: str) -> Ref | None:
        """Return the first of these places that holds a file."""
        return next((ref for place in places if (ref := self._at(place)) is not None), None)

    def need(self, *places: str) -> Ref:
        """Return the first of these places that holds a file.

        Raises:
            DataError: none does.
        """
        found = self.find(*places)
        if found is None:
            raise DataError(f"{self.root}: expected {' or '.join(places)}, but there is none")
        return found

    def text(self, *places: str, encoding: str = "utf-8-sig") -> TextIO:
        """Return a file as text; lines end with LF only as given (`newline=""`), a BOM is dropped.

        What is not in the encoding becomes U+FFFD: a damaged line must not end a preparation.

        Raises:
            DataError: none of the places holds a file, or it cannot be read.
        """
        ref = self.need(*places)
        if isinstance(ref, FileRef):
            return ref.path.open(encoding=encoding, errors="replace", newline="")
        try:
            return io.TextIOWrapper(io.BytesIO(ref.read()), encoding=encoding, errors="replace", newline="")
        except MediumError as error:
            raise DataError(str(error)) from error

    def media(self, *places: str) -> "Media":
        """Return the files below the places (folders, whole archives, folders inside archives) that exist."""
        return Media(self, places)

    def members(self, archive: str) -> dict[str, Ref]:
        """Return the files inside an archive below the folder by name; empty if there is no such archive.

        Raises:
            DataError: it is damaged.
        """
        if archive not in self._archives:
            path = self.root / archive
            try:
                found: dict[str, Ref] = {}
                if path.is_file():
                    found = dict(zip_members(path) if path.suffix.lower() == ".zip" else tar_members(path))
            except MediumError as error:
                raise DataError(f"{error}; get the file again") from error
            self._archives[archive] = found
        return self._archives[archive]

    def _at(self, place: str) -> Ref | None:
        archive, inside, name = place.partition(INSIDE)
        if inside:
            return self.members(archive).get(name)
        if not is_inside(place):
            return None
        path = self.root / place
        return FileRef(path, path.stat().st_size) if path.is_file() else None


class Media:
    """Media by name, looked for in several places in turn."""

    def __init__(self, raw: RawFolder, places: Sequence[str]) -> None:
        self._raw = raw
        self._places = tuple(places)

    def get(self, name: str) -> Ref | None:
        """Return the medium `name` (a relative path), or None."""
        if not is_inside(name):
            return None
        return self._raw.find(*(_join(place, name) for place in self._places))

    def names(self) -> Iterator[str]:
        """Yield the names of all files in all places, sorted within a place; each name once."""
        seen: set[str] = set()
        for place in self._places:
            for name in sorted(self._below(place)):
                if name not in seen:
                    seen.add(name)
                    yield name

    def _below(self, place: str) -> Iterator[str]:
        archive, inside, prefix = place.partition(INSIDE)
        if inside or _is_archive(place):
            start = f"{prefix.rstrip('/')}/" if prefix else ""
            for name in self._raw.members(archive):
                if name.startswith(start):
                    yield name[len(start) :]
            return
        folder = self._raw.root / place
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def is_inside(name: str) -> bool:
    """Tell whether a relative name stays below the folder that it is taken from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _is_archive(place: str) -> bool:
    return place.lower().endswith((".zip", ".tar"))


def _join(place: str, name: str) -> str:
    if _is_archive(place):
        return f"{place}{INSIDE}{name}"
    return f"{place.rstrip('/')}/{name}" if place else name

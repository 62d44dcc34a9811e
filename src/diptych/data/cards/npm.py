"""npm packages as raw data: `npm pack` tarballs or unpacked folders, read without extracting."""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diptych.errors import DataError

MAX_MEMBER = 32 * 2**20
"""Largest file read from a package, in bytes; what the cards need is far below it."""


@dataclass(frozen=True)
class Package:
    """An npm package at one version."""

    name: str
    version: str

    @property
    def tarball(self) -> str:
        """File name that `npm pack name@version` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def folders(self) -> tuple[str, ...]:
        """Places under the raw folder where an unpacked copy is looked for."""
        stem = self.tarball.removesuffix(".tgz")
        flat = stem.removesuffix(f"-{self.version}")
        return (stem, f"{stem}/package", self.name, f"node_modules/{self.name}", flat, f"{flat}/package")


def read_package(raw: Path, package: Package, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return the files of `package` that `wanted` accepts.

    Args:
        raw: folder that holds the package, packed or unpacked.
        package: what to look for; its `package.json` must carry this name and version.
        wanted: gets a path inside the package, for example `img/google/64/1f600.png`.

    Returns:
        Path inside the package -> contents. Links and devices in a tarball are never followed or created.

    Raises:
        DataError: the package is not there, is another version, or cannot be read.
    """
    place = _find(raw, package)
    entries = _folder_entries if place.is_dir() else _tar_entries
    files = dict(entries(place, lambda path: path == "package.json" or wanted(path)))
    _check_identity(place, package, files)
    return {path: data for path, data in files.items() if wanted(path)}


def read_json(files: Mapping[str, bytes], path: str, package: Package) -> object:
    """Parse one JSON file of a package.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    if path not in files:
        raise DataError(f"{package.tarball}: {path} is missing; get the package again with `npm pack`")
    try:
        return json.loads(files[path])
    except ValueError as error:
        raise DataError(f"{package.tarball}: {path} is not JSON ({error})") from error


def _find(raw: Path, package: Package) -> Path:
    if not raw.is_dir():
        raise DataError(f"{raw}: expected a folder with npm packages (--raw DIR)")
    tarball = raw / package.tarball
    if tarball.is_file():
        return tarball
    for folder in package.folders:
        if (raw / folder / "package.json").is_file():
            return raw / folder
    raise DataError(
        f"{raw}: {package.tarball} not found, nor an unpacked {package.name}; "
        f"get it with `npm pack {package.name}@{package.version}`"
    )


def _check_identity(place: Path, package: Package, files: Mapping[str, bytes]) -> None:
    found = read_json(files, "package.json", package)
    if not isinstance(found, dict):
        raise DataError(f"{place}: package.json is not an object")
    identity = (found.get("name"), found.get("version"))
    if identity != (package.name, package.version):
        raise DataError(
            f"{place}: holds {identity[0]} {identity[1]}, expected {package.name} {package.version}; "
            f"get it with `npm pack {package.name}@{package.version}`"
        )


def _folder_entries(place: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(place.rglob("*")):
        inner = path.relative_to(place).as_posix()
        if wanted(inner) and path.is_file():
            _check_size(place, inner, path.stat().st_size)
            yield inner, path.read_bytes()


def _tar_entries(place: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    try:
        # Streaming mode: npm tarballs are gzipped, and seeking back would decompress them again.
        with tarfile.open(place, "r|gz") as archive:
            for member in archive:
                # npm puts everything below one folder, "package/" as a rule.
                inner = "/".join(PurePosixPath(member.name).parts[1:])
                if not member.isfile() or not wanted(inner):
                    continue
                _check_size(place, inner, member.size)
                stream = archive.extractfile(member)
                if stream is not None:
                    yield inner, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"{place}: not a readable npm tarball ({error}); get it again with `npm pack`"
        ) from error


def _check_size(place: Path, inner: str, size: int) -> None:
    if size > MAX_MEMBER:
        raise DataError(f"{place}: {inner} has {size} bytes, more than the {MAX_MEMBER} expected at most")

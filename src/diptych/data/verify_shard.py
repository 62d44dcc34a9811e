"""Checking one shard against the index: size, hash, headers, checksums, texts, and whether media decode."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.data.columns import file_hash
from diptych.data.engines import Tell
from diptych.data.index import ShardDataset
from diptych.data.members import media_hash, unpack
from diptych.data.verify_texts import Found, TextTally

if TYPE_CHECKING:
    from diptych.data.verify_decode import MediaCheck

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written."""

    file: str
    key: str
    """The sample, or empty where no single sample is concerned."""
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.problem}" if self.key else f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class ShardJob:
    """What is to be checked."""

    dataset: ShardDataset
    shard: dict[str, Any]
    """Its entry in `dataset.json`."""
    trusted: bool
    """The index is as it was written, so it can tell which sample is wrong."""
    decode: bool
    max_letters: int


@dataclass
class ShardFindings:
    """What was found in a shard."""

    damages: list[Damage] = field(default_factory=list)
    undecodable: Found = field(default_factory=Found)
    texts: TextTally = field(default_factory=TextTally)


def check_shard(job: ShardJob, tell: Tell) -> ShardFindings:
    """Check a shard; a function for an engine."""
    file = str(job.shard["file"])
    path = job.dataset.root / file
    found = ShardFindings(texts=TextTally(job.max_letters))
    try:
        size, same = path.stat().st_size, file_hash(path) == job.shard["sha256"]
    except OSError as error:
        found.damages.append(Damage(file, "", f"cannot be read: {error.strerror}; prepare the dataset again"))
        return found
    if size != job.shard["bytes"]:
        found.damages.append(Damage(file, "", f"has {size} bytes, {job.shard['bytes']} were written"))
    if job.trusted:
        _Samples(job, file, found, whole=not same).check(tell)
    if not same and not found.damages:
        where = "but no sample does: its end is damaged" if job.trusted else "in which sample is unknown"
        found.damages.append(Damage(file, "", f"differs from what was written (SHA-256), {where}"))
    return found


class _Samples:
    """The samples of a shard, by the index."""

    def __init__(self, job: ShardJob, file: str, found: ShardFindings, *, whole: bool) -> None:
        self._job, self._dataset, self._file, self._found, self._whole = job, job.dataset, file, found, whole
        self._media: MediaCheck | None = None
        if job.decode:
            # Imports torch, which the other checks do without.
            from diptych.data import verify_decode

            self._media = verify_decode.MediaCheck()

    def check(self, tell: Tell) -> None:
        rows = self._dataset.select(where="shard = '" + self._file.replace("'", "''") + "'").rows
        expected = self._job.shard["samples"]
        if len(rows) != expected:
            problem = f"has {len(rows)} samples in the index, {expected} in dataset.json"
            self._found.damages.append(Damage(self._file, "", problem))
        for number, row in enumerate(self._rows(rows)):
            # A decoder that takes the whole process with it leaves the key behind.
            if self._media is not None or number % 1000 == 0:
                tell(number, row["key"])
            before = len(self._found.damages)
            self._found.damages += self._check(row)
            if len(self._found.damages) == before:
                self._look_inside(row)

    def _rows(self, rows: np.ndarray) -> Iterator[dict[str, Any]]:
        columns = ["key", "split", "sha256", "sample_offset", "sample_size", "crc32"]
        columns += [f"{name}_{what}" for name in self._dataset.extensions for what in ("offset", "size")]
        for piece in self._dataset.take(columns, rows).to_batches(max_chunksize=1000):
            yield from piece.to_pylist()

    def _places(self, row: dict[str, Any]) -> dict[str, tuple[int, int]]:
        return {
            name: (row[f"{name}_offset"], row[f"{name}_size"])
            for name in self._dataset.extensions
            if row[f"{name}_offset"] is not None
        }

    def _check(self, row: dict[str, Any]) -> Iterator[Damage]:
        """Compare the headers of a sample with the index; where the shard differs, its content too."""
        key, start, size = row["key"], row["sample_offset"], row["sample_size"]
        places = self._places(row)
        for name, (offset, length) in places.items():
            header = self._dataset.read_bytes(self._file, offset - BLOCK, BLOCK)
            problem = _check_header(header, f"{key}.{name}", length)
            if problem:
                yield Damage(self._file, key, f"{name}: {problem}")
        if not self._whole:
            return
        block = self._dataset.read_bytes(self._file, start, size)
        if len(block) < size:
            problem = f"is cut off: {max(len(block), 0)} of {size} bytes are there"
            yield Damage(self._file, key, problem)
        elif zlib.crc32(block) != row["crc32"]:
            members = {name: block[o - start : o - start + n] for name, (o, n) in places.items()}
            yield Damage(self._file, key, _what_differs(key, members, row["sha256"]))

    def _look_inside(self, row: dict[str, Any]) -> None:
        """Look at the texts of a sample that is as it was written, and decode its media."""
        wanted = {
            name: self._dataset.read_bytes(self._file, offset, size)
            for name, (offset, size) in self._places(row).items()
            if self._media is not None or name in ("txt", "json")
        }
        key = row["key"]
        try:
            sample = unpack(key, wanted)
        except ValueError as error:
            # Also where this tar came so from elsewhere.
            self._found.texts.found.add("unreadable JSON", key, str(error))
            return
        self._found.texts.add(key, row["split"], sample)
        if self._media is not None:
            for cause, detail in self._media.problems(sample.media):
                self._found.undecodable.add(cause, key, detail)


def _check_header(header: bytes, name: str, size: int) -> str:
    if len(header) < BLOCK:
        return "its header is cut off"
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"its header is damaged ({error})"
    # A name beyond the header's field stands in an extended header before it; the field keeps its start.
    fits = name.lower() == info.name.lower() or (
        len(name) > 99 and name.lower().startswith(info.name.lower())
    )
    if not fits or info.size != size:
        return f"its header says '{info.name}' with {info.size} bytes, the index '{name}' with {size}"
    return ""


def _what_differs(key: str, members: dict[str, bytes], sha256: str) -> str:
    try:
        sample = unpack(key, members)
    except ValueError as error:
        return f"its JSON is damaged ({error})"
    if media_hash(sample.media) != sha256:
        return "its media are damaged (SHA-256 differs from the index)"
    return "its texts, headers or padding are damaged (CRC-32 differs from the index)"

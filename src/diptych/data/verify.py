"""Checking a dataset byte by byte, without decoding it."""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from diptych.data.addresses import as_url
from diptych.data.columns import file_hash
from diptych.data.files import PARTIAL
from diptych.data.index import INDEX, ShardDataset
from diptych.data.members import media_hash, unpack
from diptych.data.places import PLACES
from diptych.errors import DataError

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
class Verdict:
    """What a check found."""

    samples: int
    shards: int
    bytes: int
    damages: list[Damage] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.damages


def verify(path: Path, progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Check sizes, hashes, headers and counts of a dataset, and every sample of the shards that differ.

    Args:
        path: prepared dataset, folder of tars, or tar. Plain tars are compared with the index made on
            first use.
        progress: called with the bytes checked so far and their sum.

    Raises:
        DataError: there is no dataset.
    """
    if as_url(path) and not path.exists():
        raise DataError(f"{as_url(path)}: only files on this machine can be verified; copy the dataset first")
    dataset = ShardDataset.open(path)
    shards = dataset.info["shards"]
    total = sum(int(shard["bytes"]) for shard in shards)
    damages = _check_index(dataset)
    # A damaged index cannot tell which sample of a shard is wrong; the shards' own hashes are left.
    trusted = not damages
    if trusted:
        damages += _check_whole(dataset)
    damages += _check_places(dataset)
    done = 0
    for shard in shards:
        damages += _check_shard(dataset, shard, trusted=trusted)
        done += int(shard["bytes"])
        if progress:
            progress(done, total)
    return Verdict(dataset.size, len(shards), total, damages)


def _check_index(dataset: ShardDataset) -> list[Damage]:
    try:
        if file_hash(dataset.index) == dataset.info["index"]["sha256"]:
            return []
    except OSError as error:
        return [Damage(INDEX, "", f"cannot be read: {error.strerror}; prepare the dataset again")]
    return [Damage(INDEX, "", "differs from what was written (SHA-256); prepare the dataset again")]


def _check_places(dataset: ShardDataset) -> Iterator[Damage]:
    """Compare the table of places with what was written; it may be missing, the index is used then."""
    path = dataset.root / PLACES
    if "places" not in dataset.info or not path.is_file():
        return
    if file_hash(path) != dataset.info["places"]["sha256"]:
        yield Damage(PLACES, "", "differs from what was written (SHA-256); delete it, the index replaces it")


def _check_whole(dataset: ShardDataset) -> Iterator[Damage]:
    rows = pq.read_metadata(dataset.index).num_rows
    if rows != dataset.size:
        yield Damage(INDEX, "", f"has {rows} samples, dataset.json says {dataset.size}")
    named = {shard["file"] for shard in dataset.info["shards"]}
    if dataset.info.get("card"):
        for extra in sorted({p.name for p in dataset.root.glob("*.tar")} - named):
            yield Damage(extra, "", "is not part of the dataset")
        for partial in sorted(dataset.root.glob("*" + PARTIAL)):
            yield Damage(partial.name, "", "is left from an interrupted run")
        for name, split in dataset.info["splits"].items():
            found = len(dataset.select(name))
            if found != split["count"]:
                yield Damage(
                    INDEX, "", f"split '{name}' has {found} samples, dataset.json says {split['count']}"
                )


def _check_shard(dataset: ShardDataset, shard: dict[str, Any], *, trusted: bool) -> list[Damage]:
    file = str(shard["file"])
    path = dataset.root / file
    try:
        size, same = path.stat().st_size, file_hash(path) == shard["sha256"]
    except OSError as error:
        return [Damage(file, "", f"cannot be read: {error.strerror}; prepare the dataset again")]
    found = (
        []
        if size == shard["bytes"]
        else [Damage(file, "", f"has {size} bytes, {shard['bytes']} were written")]
    )
    samples = _check_samples(dataset, shard, whole=not same) if trusted else []
    if not same and not found and not samples:
        where = "but no sample does: its end is damaged" if trusted else "in which sample is unknown"
        found.append(Damage(file, "", f"differs from what was written (SHA-256), {where}"))
    return found + samples


def _check_samples(dataset: ShardDataset, shard: dict[str, Any], *, whole: bool) -> list[Damage]:
    file = str(shard["file"])
    rows = dataset.select(where="shard = '" + file.replace("'", "''") + "'").rows
    found: list[Damage] = []
    if len(rows) != shard["samples"]:
        found.append(
            Damage(file, "", f"has {len(rows)} samples in the index, {shard['samples']} in dataset.json")
        )
    for row in _rows(dataset, rows):
        found += _check_sample(dataset, file, row, whole=whole)
    return found


def _rows(dataset: ShardDataset, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    columns = ["key", "sha256", "sample_offset", "sample_size", "crc32"]
    columns += [f"{name}_{what}" for name in dataset.extensions for what in ("offset", "size")]
    for piece in dataset.take(columns, rows).to_batches(max_chunksize=1000):
        yield from piece.to_pylist()


def _check_sample(dataset: ShardDataset, file: str, row: dict[str, Any], *, whole: bool) -> Iterator[Damage]:
    """Compare the headers of a sample with the index; with `whole`, its content too."""
    key, start, size = row["key"], row["sample_offset"], row["sample_size"]
    places = {
        name: (row[f"{name}_offset"], row[f"{name}_size"])
        for name in dataset.extensions
        if row[f"{name}_offset"] is not None
    }
    for name, (offset, length) in places.items():
        problem = _check_header(dataset.read_bytes(file, offset - BLOCK, BLOCK), f"{key}.{name}", length)
        if problem:
            yield Damage(file, key, f"{name}: {problem}")
    if not whole:
        return
    block = dataset.read_bytes(file, start, size)
    if len(block) < size:
        yield Damage(file, key, f"is cut off: {max(len(block), 0)} of {size} bytes are there")
    elif zlib.crc32(block) != row["crc32"]:
        members = {name: block[o - start : o - start + n] for name, (o, n) in places.items()}
        yield Damage(file, key, _what_differs(key, members, row["sha256"]))


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

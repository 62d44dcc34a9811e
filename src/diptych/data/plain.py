"""Indexing plain WebDataset tars, whoever made them, on first use."""

import json
import os
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.data.derived import FOLDER, LOCK, cache_home, writable
from diptych.data.files import read_exactly, written_whole
from diptych.data.locking import locked
from diptych.data.members import ALL, BadSampleError, Facts, probe, unpack
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.columns import Row

# pyarrow is imported where tars are indexed: opening tars with an index takes no time then.

FORMAT = 1
MAX_SPLITS = 20

State = list[list[Any]]
"""[file name, bytes, modification time in ns] of each tar: the index is renewed when it changes."""


@dataclass
class _Group:
    """The members of one sample, which lie one after another."""

    key: str
    start: int
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Extension -> (offset, size) of the content."""
    end: int = 0


def open_plain(path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Return (folder of the tars, index, info) of a tar or a folder of tars, indexing it where needed.

    Raises:
        DataError: no tar, a compressed or damaged tar, or nothing in it that is a sample.
    """
    tars = [path] if path.is_file() else sorted(p for p in path.glob("*.tar") if p.is_file())
    if not tars:
        raise DataError(
            f"{path} holds no dataset: expected dataset.json (a prepared one) or *.tar (WebDataset)"
        )
    root = path.parent if path.is_file() else path
    place = f"{FOLDER}/{path.name}" if path.is_file() else FOLDER
    state: State = [[tar.name, tar.stat().st_size, tar.stat().st_mtime_ns] for tar in tars]
    homes = [root / place, cache_home(path)]
    for home in homes:
        info = _fresh(home, state)
        if info is not None:
            return root, home / "index.parquet", info
    name = path.stem if path.is_file() else path.resolve().name
    for home in homes:
        if writable(home):
            # Ranks of a job open the same tars at the same time: one of them indexes.
            with locked(home / LOCK):
                info = _fresh(home, state) or _build(name, tars, home, state)
            return root, home / "index.parquet", info
    raise DataError(f"no place for the index of {path}: neither {homes[0]} nor {homes[1]} can be written")


def _fresh(home: Path, state: State) -> dict[str, Any] | None:
    try:
        info = json.loads((home / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = info.get("state") == state and info.get("format") == FORMAT and (home / "index.parquet").is_file()
    return info if fits else None


def _build(name: str, tars: list[Path], home: Path, state: State) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from diptych.data.columns import file_hash, make_part, member_names, merge_parts

    problems: Counter[str] = Counter()
    shards: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=home, prefix="parts-") as folder:
        parts: list[Path] = []
        for number, tar in enumerate(tars):
            rows = list(_rows(tar, problems))
            parts.append(Path(folder) / f"{number:06d}.parquet")
            pq.write_table(make_part(tar.name, rows, strict=False), parts[-1])
            shards.append(
                {
                    "file": tar.name,
                    "samples": len(rows),
                    "bytes": tar.stat().st_size,
                    "sha256": file_hash(tar),
                }
            )
        samples = sum(int(shard["samples"]) for shard in shards)
        if not samples:
            found = ", ".join(f"{cause} {n}" for cause, n in problems.items()) or "no members"
            raise DataError(
                f"{tars[0].parent}: no sample in {len(tars)} tar(s) ({found}); expected key.jpg, key.txt, ..."
            )
        for stale in home.glob("*.npy"):
            stale.unlink()
        digest = merge_parts(parts, home / "index.parquet", strict=False)
    info = {
        "name": name,
        "format": FORMAT,
        "card": None,
        "samples": samples,
        "shards": shards,
        "members": member_names(home / "index.parquet"),
        "splits": _splits(home / "index.parquet", samples),
        "problems": dict(sorted(problems.items())),
        "index": {"sha256": digest},
        "state": state,
    }
    with written_whole(home / "dataset.json") as partial:
        partial.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    return info


def _splits(index: Path, samples: int) -> dict[str, Any]:
    """Return `all`, and the splits that the samples name themselves (shards written by `ShardWriter`)."""
    counts: Counter[str] = Counter()
    import pyarrow.parquet as pq

    with pq.ParquetFile(index) as file:
        for group in range(file.num_row_groups):
            counts.update(file.read_row_group(group, ["split"]).column(0).to_pylist())
    named = {
        name: {"where": "split = '" + name.replace("'", "''") + "'", "count": count}
        for name, count in sorted(counts.items())
        if name != ALL
    }
    return {ALL: {"where": "true", "count": samples}, **(named if len(named) <= MAX_SPLITS else {})}


def _rows(path: Path, problems: Counter[str]) -> Iterator["Row"]:
    handle = os.open(path, os.O_RDONLY)
    try:
        for group in _groups(path, problems):
            row = _row(handle, group, problems)
            if row is not None:
                yield row
    finally:
        os.close(handle)


def _row(handle: int, group: _Group, problems: Counter[str]) -> "Row | None":
    from diptych.data.columns import make_row

    block = read_exactly(handle, group.start, group.end - group.start)
    contents = {
        name: block[offset - group.start : offset - group.start + size]
        for name, (offset, size) in group.members.items()
    }
    try:
        sample = unpack(group.key, contents)
    except ValueError:
        problems["unreadable JSON"] += 1
        return None
    if not sample.media and not sample.captions:
        # Downloaders leave a lone JSON for what they could not fetch.
        problems["empty sample"] += 1
        return None
    try:
        facts = probe(group.key, sample.media)
    except BadSampleError as error:
        problems[error.cause] += 1
        facts = Facts()
    extent = (group.start, len(block), zlib.crc32(block))
    return make_row(sample, facts, group.members, extent, strict=False)


def _groups(path: Path, problems: Counter[str]) -> Iterator[_Group]:
    """Yield the samples of a tar: runs of members with the same key, the base name up to its first dot."""
    group: _Group | None = None
    for info in _members(path):
        found = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]*[^/.])", info.name)
        if not info.isreg() or not found or info.name.startswith("__"):
            continue
        key, name = found.group(1), found.group(2).lower()
        if group is None or group.key != key:
            if group is not None:
                yield group
            group = _Group(key, info.offset)
        if name in group.members:
            problems["repeated member"] += 1
        else:
            group.members[name] = (info.offset_data, info.size)
        group.end = info.offset_data + info.size + -info.size % tarfile.BLOCKSIZE
    if group is not None:
        yield group


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    last = "its start"
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                # The list of members would grow with the tar.
                tar.members = []  # type: ignore[attr-defined]
                last, end = f"the member after '{info.name}'", info.offset_data + info.size
                yield info
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} is no readable tar (at {last}: {error}); "
            "unpack a compressed one, make a damaged one again"
        ) from error
    _expect_end(path, last, end)


def _expect_end(path: Path, last: str, end: int) -> None:
    """`tarfile` takes a damaged header for the end of the archive; an archive really ends in zeros."""
    with path.open("rb") as file:
        file.seek(end + -end % tarfile.BLOCKSIZE)
        if any(file.read(2 * tarfile.BLOCKSIZE)):
            raise DataError(f"{path} is damaged (header of {last}); make the tar again")

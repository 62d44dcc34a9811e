"""Checking a dataset byte by byte, its texts, and on request whether its media can be decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from diptych.data.addresses import as_url
from diptych.data.columns import file_hash
from diptych.data.engines import Task, make_engine
from diptych.data.files import PARTIAL
from diptych.data.index import INDEX, ShardDataset
from diptych.data.places import PLACES
from diptych.data.verify_shard import Damage, ShardFindings, ShardJob, check_shard
from diptych.data.verify_texts import MAX_LETTERS, Found, TextTally, by_index
from diptych.errors import DataError

__all__ = ["Damage", "Verdict", "verify"]


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    samples: int
    shards: int
    bytes: int
    damages: list[Damage] = field(default_factory=list)
    undecodable: Found = field(default_factory=Found)
    """Media that cannot be decoded, by cause."""
    dangling: Found = field(default_factory=Found)
    """Texts that lead nowhere, by cause; nothing that keeps a run from starting."""

    @property
    def sound(self) -> bool:
        """Nothing is damaged, and all that was decoded could be."""
        return not self.damages and not self.undecodable


def verify(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    decode: bool = False,
    workers: int | None = 1,
    max_letters: int = MAX_LETTERS,
) -> Verdict:
    """Check sizes, hashes, headers, counts and texts of a dataset, and every sample of shards that differ.

    Args:
        path: prepared dataset, folder of tars, or tar. Plain tars are compared with the index made on
            first use.
        progress: called with the bytes checked so far and their sum.
        decode: decode every picture, and the first and last frame of every video.
        workers: shards that are checked at a time; None: one for each core.
        max_letters: captions with more are told.

    Raises:
        DataError: there is no dataset, or processes die again and again of the same shard.
        UsageError: `workers` is below 1.
    """
    if as_url(path) and not path.exists():
        raise DataError(f"{as_url(path)}: only files on this machine can be verified; copy the dataset first")
    dataset = ShardDataset.open(path)
    damages = _check_index(dataset)
    # A damaged index cannot tell which sample of a shard is wrong; the shards' own hashes are left.
    trusted = not damages
    if trusted:
        damages += _check_whole(dataset)
    damages += _check_places(dataset)
    shards = {str(shard["file"]): shard for shard in dataset.info["shards"]}
    tasks = (
        Task(name, ShardJob(dataset, shard, trusted, decode, max_letters), int(shard["samples"]))
        for name, shard in shards.items()
    )
    total, done = sum(int(shard["bytes"]) for shard in shards.values()), 0
    found: dict[str, ShardFindings] = {}
    for name, findings in make_engine("local", workers).run(check_shard, tasks):
        found[name] = findings
        done += int(shards[name]["bytes"])
        if progress:
            progress(done, total)
    texts, undecodable = TextTally(max_letters), Found()
    # Workers finish in any order; what is told is in that of the shards.
    for name in shards:
        damages += found[name].damages
        undecodable.merge(found[name].undecodable)
        texts.merge(found[name].texts)
    dangling = by_index(dataset) if trusted else Found()
    dangling.merge(texts.conclude())
    return Verdict(dataset.size, len(shards), total, damages, undecodable, dangling)


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

"""A chunk becomes a shard and its part of the index: alike in every process, done once or several times."""

import json
import os
import platform
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diptych.data.cards.base import Unread
from diptych.data.chunks import Chunk, Tally, sample_of, stored_key
from diptych.data.columns import make_part
from diptych.data.engines import Tell
from diptych.data.files import written_whole
from diptych.data.index import WORK
from diptych.data.members import BadSampleError
from diptych.data.raw.refs import MediumError
from diptych.data.sample import Sample
from diptych.data.shards import FinishedShard, ShardWriter, shard_name
from diptych.errors import DataError

META = b"diptych"
"""Where a part says what else there is to know of its chunk."""
RUN = "run"
"""File in the work folder that names the run which may write there."""


@dataclass(frozen=True)
class ChunkJob:
    """A chunk and where it goes."""

    chunk: Chunk
    out: Path
    """Folder of the dataset."""
    name: str
    """Start of the shards' names."""
    run: str
    """Content of the file `RUN`; what an earlier run left alive stops when it finds another."""


def part_path(out: Path, name: str, number: int) -> Path:
    """Return where the part of the index of a shard lies during a preparation."""
    return out / WORK / f"{shard_name(name, number)}.parquet"


def write_chunk(job: ChunkJob, tell: Tell) -> None:
    """Write the shard of a chunk, then its part of the index, which says that both are complete.

    Samples that cannot be stored are counted in the part. A chunk without any other has a part only.

    Raises:
        DataError: the card is at fault (see `ShardWriter.write`), the folder is not there, another run has
            taken over.
        WriteError: a file cannot be written.
    """
    chunk = job.chunk
    _check_run(job)
    # A part that is there is another chunk's: it must not vouch for the shard that is written now.
    part_path(job.out, job.name, chunk.number).unlink(missing_ok=True)
    tag = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    tally = Tally()
    tally.add(chunk.tally.problems, chunk.tally.examples)
    shards: list[FinishedShard] = []
    writer = ShardWriter(
        job.out,
        job.name,
        max(len(chunk.items), 1),
        # The chunk is as large as a shard may be, as far as could be known.
        max_bytes=1 << 62,
        first=chunk.number,
        on_shard=shards.append,
        tag=tag,
    )
    with writer:
        for done, item in enumerate(chunk.items):
            tell(done, sample_of(item).key)
            _write(writer, item, tally)
        _check_run(job)
    shard = shards[0] if shards else None
    if shard is None:
        (job.out / shard_name(job.name, chunk.number)).unlink(missing_ok=True)
    _write_part(job, shard, tally, tag)


def _write(writer: ShardWriter, item: Sample | Unread, tally: Tally) -> None:
    key = sample_of(item).key
    try:
        sample = _read(item)
        captions = tuple(text for text in sample.captions if text.strip())
        stored = replace(sample, key=stored_key(key), captions=captions)
        writer.write(stored)
    except (BadSampleError, MediumError) as error:
        tally.count(error.cause, key, error.detail)
        return
    if stored.key != key:
        tally.count("rewritten key", key, f"stored as {stored.key}")
    if len(captions) < len(sample.captions):
        lost = len(sample.captions) - len(captions)
        tally.count("empty caption", key, f"{lost} of {len(sample.captions)} left out")


def _read(item: Sample | Unread) -> Sample:
    if isinstance(item, Sample):
        return item
    read = {name: ref.read() for name, ref in item.refs.items()}
    return replace(item.sample, media={**item.sample.media, **read})


def _write_part(job: ChunkJob, shard: FinishedShard | None, tally: Tally, tag: str) -> None:
    facts: dict[str, Any] = {
        "number": job.chunk.number,
        "fingerprint": job.chunk.fingerprint,
        "shard": None,
        "problems": dict(tally.problems),
        "examples": tally.examples,
    }
    if shard is not None:
        facts["shard"] = {
            "file": shard.file,
            "samples": shard.samples,
            "bytes": shard.bytes,
            "sha256": shard.sha256,
        }
    name = shard_name(job.name, job.chunk.number)
    table = make_part(name, shard.rows if shard else []).replace_schema_metadata(
        {META: json.dumps(facts).encode()}
    )
    with written_whole(part_path(job.out, job.name, job.chunk.number), tag) as partial:
        pq.write_table(table, partial)


def _check_run(job: ChunkJob) -> None:
    path = job.out / WORK / RUN
    try:
        run = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read on {platform.node()}: {error.strerror or error}; the folder of the "
            "dataset must lie on a file system that all machines share"
        ) from error
    if run != job.run:
        raise DataError(f"{job.out}: another process has taken over the preparation")

"""Chunks are fetched and written: what a worker does, alike in every process, once or several times."""

import asyncio
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.acquire.chunks import Entry, FetchChunk
from diptych.data.acquire.client import Client
from diptych.data.acquire.fetching import Fetcher, Outcome
from diptych.data.acquire.hosts import Hosts
from diptych.data.acquire.media import Medium, picture_store
from diptych.data.acquire.paths import META, ROW, SUCCESS, part_path, rows_path, still_runs
from diptych.data.acquire.robots import Robots
from diptych.data.acquire.state import read_finished
from diptych.data.acquire.tasks import FetchJob, Group
from diptych.data.columns import make_part
from diptych.data.engines import Tell
from diptych.data.files import written_whole
from diptych.data.members import ALL
from diptych.data.sample import Sample
from diptych.data.shards import FinishedShard, ShardWriter, shard_name

WINDOW = 4
"""Rows under way for each connection: those of busy hosts wait while others go on."""
HELD = 64 * 2**20
"""Bytes of the media of one chunk in memory; further ones wait in a temporary file."""
PIECE = 1 << 20
"""Bytes of a file that are copied at a time."""
BEAT = 60.0
"""Seconds between two signs of life."""
RESOLVERS = 32
"""Names resolved at a time; the system's resolver blocks a thread for each."""


def work(group: Group, tell: Tell) -> None:
    """Fetch the rows of some chunks and write their shards.

    Of each chunk the shard comes first, then what became of its rows, then its part of the index, which says
    that all is there.

    Raises:
        DataError: the folder is not there, or another run has taken over.
        WriteError: a file cannot be written.
    """
    try:
        asyncio.run(_fetch_group(group, tell))
    except ExceptionGroup as several:
        raise _first(several) from several


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _fetch_group(group: Group, tell: Tell) -> None:
    job = group.job
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(RESOLVERS, "resolver"))
    async with Client(job.net) as client, _fetcher(job, client) as fetcher:
        progress = _Progress(tell)
        window = asyncio.Semaphore(job.net.connections * WINDOW)
        beating = asyncio.create_task(progress.beat())
        try:
            async with asyncio.TaskGroup() as chunks:
                for chunk in group.chunks:
                    started = asyncio.Event()
                    chunks.create_task(_fetch_chunk(job, chunk, fetcher, window, started, progress))
                    await started.wait()
        finally:
            beating.cancel()


@asynccontextmanager
async def _fetcher(job: FetchJob, client: Client) -> AsyncIterator[Fetcher]:
    """Yield what fetches the rows of a job."""
    robots = Robots(client, job.net) if job.net.robots else None
    hosts = Hosts(job.net, job.workers)
    if job.videos is None:
        yield Fetcher(client, hosts, job.net, picture_store(job.pictures), robots)
        return
    from diptych.data.acquire.video_fetching import video_fetcher

    async with video_fetcher(job, client, hosts, robots) as fetcher:
        yield fetcher


class _Progress:
    def __init__(self, tell: Tell) -> None:
        self._tell, self._done, self._key = tell, 0, ""

    def count(self, key: str, rows: int = 1) -> None:
        self._done += rows
        self._key = key
        self._tell(self._done, key)

    async def beat(self) -> None:
        """Say now and then that the worker does not hang: a row may have to wait for hours."""
        while True:
            await asyncio.sleep(BEAT)
            self._tell(self._done, self._key)


async def _fetch_chunk(
    job: FetchJob,
    chunk: FetchChunk,
    fetcher: Fetcher,
    window: asyncio.Semaphore,
    started: asyncio.Event,
    progress: _Progress,
) -> None:
    outcomes = [_NOT_YET] * len(chunk.entries)

    async def fetch(first: int, entries: Sequence[Entry]) -> None:
        def keep(place: int, medium: Medium) -> Medium:
            return spool.keep(first + place, medium)

        try:
            outcomes[first : first + len(entries)] = await fetcher.fetch_all(entries, keep)
        finally:
            window.release()
        progress.count(entries[0].key, len(entries))

    still_runs(job.out, job.run)
    known = read_finished(job.out, chunk.number)
    if known is not None and known.fingerprint == chunk.fingerprint:
        # Another process finished it, and died of a later chunk of the group.
        progress.count(chunk.entries[-1].key, len(chunk.entries))
        started.set()
        return
    with _Spool(job.out) as spool:
        try:
            async with asyncio.TaskGroup() as rows:
                first = 0
                for entries in fetcher.together(chunk.entries):
                    await window.acquire()
                    rows.create_task(fetch(first, entries))
                    first += len(entries)
                started.set()
        finally:
            # Also after an error: who waits for it would wait for ever.
            started.set()
        _write(job, chunk, outcomes, spool)


_NOT_YET = Outcome(None, cause="unknown", detail="its task did not end")


class _Spool:
    """Keeps media until the last row of their chunk is done: shards hold samples in the order of the list."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._places: dict[int, list[tuple[str, bytes | tuple[int, int]]]] = {}
        """By the place of a row: name of each member, and its content or where it is in the file."""
        self._held = 0

    def keep(self, place: int, medium: Medium) -> Medium:
        """Take over the members of a medium; return it without them."""
        self._places[place] = [(name, self._kept(data)) for name, data in medium.members.items()]
        return Medium({}, medium.facts, medium.meta)

    def _kept(self, data: bytes | Path) -> bytes | tuple[int, int]:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if self._held + size <= HELD:
            self._held += size
            return data if isinstance(data, bytes) else data.read_bytes()
        if self._file is None:
            # It lives as long as the spool.
            self._file = tempfile.TemporaryFile(dir=str(self._folder), prefix=".media-")  # noqa: SIM115
        start = self._file.seek(0, os.SEEK_END)
        if isinstance(data, Path):
            with data.open("rb") as file:
                shutil.copyfileobj(file, self._file, PIECE)
        else:
            self._file.write(data)
        return start, self._file.tell() - start

    def members(self, place: int) -> dict[str, bytes]:
        """Hand out the members of the medium that was kept under a number; the spool forgets it."""
        return {name: self._content(what) for name, what in self._places.pop(place)}

    def _content(self, what: bytes | tuple[int, int]) -> bytes:
        if isinstance(what, bytes):
            return what
        assert self._file is not None
        self._file.seek(what[0])
        return self._file.read(what[1])

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def _write(job: FetchJob, chunk: FetchChunk, outcomes: list[Outcome], spool: _Spool) -> None:
    tag = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    # A part that is there is of other rows: it must not vouch for what is written now.
    part = part_path(job.out, chunk.number)
    part.unlink(missing_ok=True)
    shards: list[FinishedShard] = []
    name = shard_name(job.name, chunk.number)
    writer = ShardWriter(
        job.out,
        job.name,
        max(len(chunk.entries), 1),
        max_bytes=1 << 62,
        first=chunk.number,
        on_shard=shards.append,
        tag=tag,
    )
    with writer:
        for place, (entry, outcome) in enumerate(zip(chunk.entries, outcomes, strict=True)):
            if outcome.medium is not None:
                captions = _captions(chunk.entries, outcomes, place)
                _append(writer, entry, outcome, captions, outcome.medium, spool.members(place))
        still_runs(job.out, job.run)
    shard = shards[0] if shards else None
    if shard is None:
        (job.out / name).unlink(missing_ok=True)
    unusable = "failed_to_resize" if job.videos is None else "failed_to_subsample"
    rows = [_row(*pair, name, unusable) for pair in zip(chunk.entries, outcomes, strict=True)]
    with written_whole(rows_path(job.out, chunk.number), tag) as partial:
        pq.write_table(pa.Table.from_pylist(rows, ROW), partial, compression="zstd")
    facts: dict[str, Any] = {"number": chunk.number, "fingerprint": chunk.fingerprint, "shard": None}
    if shard is not None:
        facts["shard"] = {
            "file": shard.file,
            "samples": shard.samples,
            "bytes": shard.bytes,
            "sha256": shard.sha256,
        }
    table = make_part(name, shard.rows if shard else [], strict=False)
    with written_whole(part, tag) as partial:
        pq.write_table(table.replace_schema_metadata({META: json.dumps(facts).encode()}), partial)


def _captions(entries: Sequence[Entry], outcomes: Sequence[Outcome], place: int) -> tuple[str, ...]:
    """Return the captions of the rows about one clip: that at `place` and those after it."""
    last = next(n for n in count(place + 1) if n == len(entries) or not outcomes[n].same)
    captions = (entry.row.caption for entry in entries[place:last])
    return tuple(dict.fromkeys(caption for caption in captions if caption))


def _append(
    writer: ShardWriter,
    entry: Entry,
    outcome: Outcome,
    captions: tuple[str, ...],
    medium: Medium,
    media: dict[str, bytes],
) -> None:
    """Append a sample with the JSON that the usual tools write, so that what reads theirs reads ours."""
    row = entry.row
    side = {
        **row.more,
        "caption": row.caption,
        "url": row.url,
        "key": entry.key,
        "status": SUCCESS,
        "error_message": None,
        **medium.meta,
        "sha256": outcome.sha256,
    }
    if len(captions) > 1:
        side["captions"] = list(captions)
    members = dict(media)
    members["txt"] = row.caption.encode(errors="replace")
    members["json"] = json.dumps(side, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    meta = {name: value for name, value in medium.meta.items() if name not in ("width", "height", "exif")}
    meta |= {**row.more, "url": row.url, "source_sha256": outcome.sha256}
    sample = Sample(entry.key, media, captions, split=row.split or ALL, meta=meta)
    writer.append(sample, members, medium.facts, strict=False)


def _row(entry: Entry, outcome: Outcome, shard: str, unusable: str) -> dict[str, Any]:
    stored = outcome.medium is not None or outcome.same
    status = SUCCESS
    if not stored:
        status = unusable if outcome.came else "failed_to_download"
    return {
        "number": entry.row.number,
        "key": entry.key,
        "url": _clean(entry.row.url),
        "status": status,
        "cause": outcome.cause,
        "detail": _clean(outcome.detail[:500]),
        "host": _clean(outcome.host),
        "http": outcome.http,
        "tries": outcome.tries,
        "bytes": outcome.bytes,
        "seconds": outcome.seconds,
        "sha256": outcome.sha256,
        "shard": shard if stored else "",
    }


def _clean(text: str) -> str:
    """Return a text without halves of characters, which no table can hold."""
    return text.encode(errors="replace").decode()

"""A video is fetched once, and all clips of it are made: each row ends with a status of its own."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from diptych.data.acquire.chunks import Entry
from diptych.data.acquire.client import Client, check_address
from diptych.data.acquire.downloads import Saved, local_file, save, take_local
from diptych.data.acquire.fetching import Fetcher, Keep, Log, Outcome
from diptych.data.acquire.hosts import Hosts
from diptych.data.acquire.media import Medium
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.pages import Pages, as_address, is_page
from diptych.data.acquire.paths import scratch_path
from diptych.data.acquire.problems import FetchError, MediumProblemError
from diptych.data.acquire.robots import Robots
from diptych.data.acquire.tasks import FetchJob
from diptych.data.acquire.video_options import PageOptions, VideoOptions
from diptych.data.acquire.videos import examine, make
from diptych.data.files import cannot_write
from diptych.data.raw.listed import is_address

T = TypeVar("T")
_How = Callable[[str, float, Path], Awaitable[Saved]]


@asynccontextmanager
async def video_fetcher(
    job: FetchJob, client: Client, hosts: Hosts, robots: Robots | None
) -> "AsyncIterator[VideoFetcher]":
    """Yield what fetches the videos of a job in this process.

    Args:
        job: what is wanted.
        client: makes requests.
        hosts: how hosts are treated.
        robots: answers whether an address may be asked for; None: nobody is asked.

    Raises:
        WriteError: the folder cannot be written.
    """
    assert job.videos is not None
    scratch = scratch_path(job.out) / secrets.token_hex(8)
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(scratch, error) from error
    try:
        async with Pages(job.pages, job.videos, job.net, scratch) as pages:
            fetcher = VideoFetcher(
                client,
                hosts,
                job.net,
                videos=job.videos,
                sources=job.pages,
                pages=pages,
                scratch=scratch,
                robots=robots,
            )
            try:
                yield fetcher
            finally:
                fetcher.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class VideoFetcher(Fetcher):
    """Fetches the videos of one worker process.

    Args:
        client: makes requests.
        hosts: how hosts are treated.
        net: limits.
        videos: what is stored.
        sources: where videos come from besides the web.
        pages: asks for pages.
        scratch: folder for videos until they are stored.
        robots: answers whether an address may be asked for; None: nobody is asked.
    """

    def __init__(
        self,
        client: Client,
        hosts: Hosts,
        net: NetOptions,
        *,
        videos: VideoOptions,
        sources: PageOptions,
        pages: Pages,
        scratch: Path,
        robots: Robots | None = None,
    ) -> None:
        super().__init__(client, hosts, net, _no_picture, robots)
        self._net, self._videos, self._sources = net, videos, sources
        self._pages, self._scratch = pages, scratch
        # Videos lie on the disk until they are stored: no more of them at a time than connections.
        self._on_disk = asyncio.Semaphore(net.connections)
        self._maker = ThreadPoolExecutor(1, "videos")

    def together(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """Yield the rows about each video; damaged rows each for itself."""
        first = 0
        for last, entry in enumerate(entries, 1):
            following = entries[last] if last < len(entries) else None
            if following is None or following.row.url != entry.row.url or entry.row.problem:
                yield entries[first:last]
                first = last

    async def fetch_all(self, entries: Sequence[Entry], keep: Keep) -> list[Outcome]:
        """Fetch a video and make the media of all its rows; never raises for what a row can do.

        Args:
            entries: rows with the same address; those with the same key are the same clip.
            keep: called in another thread, one call at a time.

        Raises:
            WriteError: the disk is full.
        """
        row, log = entries[0].row, Log()
        if row.problem:
            return [Log().end(cause="bad row", detail=entry.row.problem) for entry in entries]
        folder, url = self._scratch / secrets.token_hex(8), as_address(row.url)
        try:
            if is_address(url):
                log.host = check_address(url)
            if log.host and is_page(url, self._sources.extract):
                async with self._pages.turn(), self._on_disk:
                    saved = await self._saved(url, log, folder, self._page)
                    return await self._made(entries, saved, log, keep)
            async with self._on_disk:
                saved = await self._saved(url, log, folder, self._direct)
                return await self._made(entries, saved, log, keep)
        except FetchError as error:
            log.http = error.status or log.http
            came = isinstance(error, MediumProblemError)
            return [log.end(cause=error.cause, detail=error.detail, came=came)] * len(entries)
        finally:
            with suppress(OSError):
                shutil.rmtree(folder)

    def close(self) -> None:
        """End the thread that makes media."""
        self._maker.shutdown(wait=True, cancel_futures=True)

    async def _saved(self, url: str, log: Log, folder: Path, how: "_How") -> Saved:
        if not log.host:
            log.tries = 1
            path = local_file(url, self._sources.files)
            return await self._in_thread(take_local, path, self._net.max_bytes)
        return await self.with_retries(url, log, lambda at, seconds: how(at, seconds, _emptied(folder)))

    async def _direct(self, url: str, seconds: float, folder: Path) -> Saved:
        return await save(self._client, url, seconds, folder / "video", self._net)

    async def _page(self, url: str, seconds: float, folder: Path) -> Saved:
        return await self._pages.save(url, seconds, folder)

    async def _made(self, entries: Sequence[Entry], saved: Saved, log: Log, keep: Keep) -> list[Outcome]:
        """Return the outcome of each row; what fails for one clip may go well for the next."""
        found = await self._in_thread(examine, saved.path)
        outcomes: list[Outcome] = []
        for place, entry in enumerate(entries):
            if place and entry.key == entries[place - 1].key:
                outcomes.append(replace(outcomes[-1], medium=None, same=outcomes[-1].cause == "", bytes=0))
                continue
            # The bytes came once: they are counted with the first row.
            told: dict[str, Any] = {"sha256": saved.sha256, "bytes": 0 if place else saved.size, "came": True}

            def one(place: int = place, entry: Entry = entry) -> Medium:
                medium = make(saved.path, found, entry.row, self._videos, saved.about)
                try:
                    return keep(place, medium)
                except OSError as error:
                    raise cannot_write(self._scratch, error) from error

            try:
                outcomes.append(log.end(await self._in_thread(one), **told))
            except MediumProblemError as error:
                outcomes.append(log.end(cause=error.cause, detail=error.detail, **told))
        return outcomes

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._maker, function, *arguments)


def _emptied(folder: Path) -> Path:
    """Return the folder without what an earlier try left in it."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    try:
        folder.mkdir()
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def _no_picture(data: bytes) -> Medium:
    raise MediumProblemError("not a picture", "this job is about videos")

"""A row is fetched: its tries, the pauses between them, and the bound within which it ends."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from diptych.data.acquire.chunks import Entry
from diptych.data.acquire.client import Client, check_address
from diptych.data.acquire.hosts import Hosts
from diptych.data.acquire.lists import ListRow
from diptych.data.acquire.media import Medium, Store
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError, MediumProblemError
from diptych.data.acquire.robots import Robots

T = TypeVar("T")
Get = Callable[[str, float], Awaitable[T]]
"""Makes one try to fetch an address within some seconds."""
Keep = Callable[[int, Medium], Medium]
"""Takes over the members of a medium, by the place of its row; returns it without them."""


@dataclass(frozen=True)
class Outcome:
    """How a row ended."""

    medium: Medium | None
    """None: it failed."""
    sha256: str = ""
    """Hex, of the bytes as they came."""
    bytes: int = 0
    cause: str = ""
    detail: str = ""
    tries: int = 0
    host: str = ""
    http: int = 0
    """Status of the last answer; 0: there was none."""
    seconds: float = 0.0
    """From the first try on, pauses included."""
    came: bool = False
    """Bytes came; if it failed all the same, they could not be used."""
    same: bool = False
    """It is about the same clip as the row before: their captions are in one sample."""


class Fetcher:
    """Fetches the rows of one worker process.

    Args:
        client: makes requests.
        hosts: how hosts are treated.
        options: limits.
        store: makes the medium.
        robots: answers whether an address may be asked for; None: nobody is asked.
    """

    def __init__(
        self, client: Client, hosts: Hosts, options: NetOptions, store: Store, robots: Robots | None = None
    ) -> None:
        self._client, self._hosts, self._options = client, hosts, options
        self._store, self._robots = store, robots
        self._connections = asyncio.Semaphore(options.connections)

    def together(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """Yield the rows as they are fetched: each for itself."""
        return (entries[place : place + 1] for place in range(len(entries)))

    async def fetch_all(self, entries: Sequence[Entry], keep: Keep) -> list[Outcome]:
        """Fetch rows that came `together` and make their media; never raises for what a row can do.

        Args:
            entries: the rows.
            keep: takes over each medium.
        """
        outcomes = [await self.fetch(entry.row) for entry in entries]
        return [
            outcome if outcome.medium is None else replace(outcome, medium=keep(place, outcome.medium))
            for place, outcome in enumerate(outcomes)
        ]

    async def fetch(self, row: ListRow) -> Outcome:
        """Fetch a row and make its medium; never raises for what a row can do."""
        log = Log()
        if row.problem:
            return log.end(cause="bad row", detail=row.problem)
        try:
            log.host = check_address(row.url)
            fetched = await self.with_retries(row.url, log, self._client.get)
        except FetchError as error:
            log.http = error.status
            return log.end(cause=error.cause, detail=error.detail)
        digest, size = hashlib.sha256(fetched.data).hexdigest(), len(fetched.data)
        try:
            medium = self._store(fetched.data)
        except MediumProblemError as error:
            return log.end(cause=error.cause, detail=error.detail, sha256=digest, bytes=size, came=True)
        return log.end(medium, sha256=digest, bytes=size, came=True)

    async def with_retries(self, url: str, log: "Log", get: "Get[T]") -> T:
        """Return what `get` gives, tried again after failures that may pass.

        Args:
            url: what is asked for.
            log: what happened so far; its host is asked.
            get: makes one try within some seconds.

        Raises:
            FetchError: of the last try.
        """
        while True:
            try:
                return await self._try(url, log, get)
            except FetchError as error:
                left = log.left(self._options)
                pause = self._options.backoff * 2 ** max(log.tries - 1, 0) * random.uniform(0.5, 1.0)
                pause = max(pause, error.after or 0.0)
                if not error.again or log.tries > self._options.retries or pause >= left:
                    raise
            await asyncio.sleep(pause)

    async def _try(self, url: str, log: "Log", get: "Get[T]") -> T:
        host = self._hosts.of(log.host)
        async with self._hosts.turn(host), self._connections:
            log.begin()
            seconds = min(self._options.timeout, log.left(self._options))
            try:
                if self._robots is not None:
                    await self._robots.check(url, seconds)
                fetched = await get(url, seconds)
            except FetchError as error:
                self._hosts.failed(host, error)
                raise
            self._hosts.came(host)
            log.http = 200
            return fetched


class Log:
    """What happened to a row so far."""

    def __init__(self) -> None:
        self.tries, self.http, self.host = 0, 0, ""
        self._started = 0.0

    def begin(self) -> None:
        """Count a try; the row's time runs from the first one."""
        self.tries += 1
        self._started = self._started or time.monotonic()

    def left(self, options: NetOptions) -> float:
        """Return the seconds that the row has left."""
        if not self._started:
            return options.row_timeout
        return max(options.row_timeout - (time.monotonic() - self._started), 0.001)

    def end(self, medium: Medium | None = None, **what: object) -> Outcome:
        """Return the outcome."""
        seconds = time.monotonic() - self._started if self._started else 0.0
        return Outcome(
            medium,
            tries=self.tries,
            host=self.host,
            http=self.http,
            seconds=seconds,
            **what,  # type: ignore[arg-type]
        )

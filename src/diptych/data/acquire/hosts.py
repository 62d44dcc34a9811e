"""How each host is treated: requests at a time, pauses that it asks for, and when it counts as gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError

GONE_AFTER = 10
"""Failures to reach a host, one after another, from which on it counts as gone for a while."""
GONE_FOR = 60.0
"""Seconds in which rows of such a host fail at once; then one row tries again."""
BUSY_AFTER = 2
"""Answers `429` or `503`, one after another, from which on all rows of the host wait."""
UNREACHABLE = ("dns", "connect", "connect timeout", "tls")


@dataclass
class Host:
    """What is known of a host."""

    name: str
    slots: asyncio.Semaphore
    paused_until: float = 0.0
    gone_until: float = 0.0
    unreached: int = 0
    busy: int = 0
    next_start: float = 0.0
    why_gone: str = field(default="", repr=False)


class Hosts:
    """The hosts of one worker process.

    Args:
        options: limits for all workers together.
        workers: how many share the limits.
    """

    def __init__(self, options: NetOptions, workers: int = 1) -> None:
        self._slots = max(options.per_host // workers, 1)
        self._gap = workers / options.host_rate if options.host_rate else 0.0
        self._longest = options.row_timeout
        self._hosts: dict[str, Host] = {}

    def of(self, name: str) -> Host:
        """Return a host by name and port."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, asyncio.Semaphore(self._slots))
        return host

    @asynccontextmanager
    async def turn(self, host: Host) -> AsyncIterator[None]:
        """Wait until the host may be asked, and count as one of its requests during the block.

        Raises:
            FetchError: the host is gone, or asked for a longer pause than a row may take.
        """
        async with host.slots:
            await self._wait(host)
            yield

    async def _wait(self, host: Host) -> None:
        now = time.monotonic()
        if host.gone_until > now:
            raise FetchError(
                "host gone", f"{host.name} could not be reached {GONE_AFTER} times: {host.why_gone}"
            )
        if host.gone_until:
            # This row tries; the others wait for how it ends.
            host.gone_until = now + GONE_FOR
        pause = max(host.paused_until, host.next_start) - now
        if host.paused_until - now > self._longest:
            seconds = round(host.paused_until - now)
            raise FetchError(
                "http 429", f"{host.name} asked for a pause, which lasts {seconds} s more", status=429
            )
        if self._gap:
            host.next_start = max(host.next_start, now) + self._gap
        if pause > 0:
            await asyncio.sleep(pause)

    def came(self, host: Host) -> None:
        """Note that the host gave something."""
        host.unreached = host.busy = 0
        host.gone_until = 0.0

    def failed(self, host: Host, error: FetchError) -> None:
        """Note a failure: hosts that are busy get a pause, hosts that are gone are left alone."""
        if error.cause in UNREACHABLE:
            host.unreached += 1
            if host.unreached >= GONE_AFTER:
                host.gone_until, host.why_gone = time.monotonic() + GONE_FOR, error.detail
            return
        host.unreached, host.gone_until = 0, 0.0
        if error.status in (429, 503):
            # A single address may be limited while the host is not; two in a row speak for the host.
            host.busy += 1
            if host.busy >= BUSY_AFTER:
                host.paused_until = max(host.paused_until, time.monotonic() + (error.after or 1.0))
        else:
            host.busy = 0

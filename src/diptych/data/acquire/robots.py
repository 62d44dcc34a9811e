"""robots.txt: asked for once a host, kept, and honoured where the user wants that."""

import asyncio
import time
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from diptych.data.acquire.client import Client
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError

KEPT_FOR = 3600.0
"""Seconds after which a host is asked again."""
MOST_BYTES = 512 * 1024
"""A robots.txt that is longer is taken for none (RFC 9309 asks for at least 500 kB)."""


class Robots:
    """The robots.txt of the hosts of one worker process.

    A host without one (4xx) allows everything; one that cannot be asked (5xx, no connection) nothing for now
    (RFC 9309). Such rows fail and can be tried again later.

    Args:
        client: makes the requests.
        options: the name that rules may address.
    """

    def __init__(self, client: Client, options: NetOptions) -> None:
        self._client, self._agent = client, options.agent
        self._rules: dict[str, tuple[float, asyncio.Future[RobotFileParser | FetchError]]] = {}

    async def check(self, url: str, seconds: float) -> None:
        """Raise a `FetchError` if the address must not be asked for.

        Args:
            url: the address.
            seconds: for getting the rules, where they are not known.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        known = self._rules.get(origin)
        if known is None or known[0] < time.monotonic():
            found: asyncio.Future[RobotFileParser | FetchError] = asyncio.get_running_loop().create_future()
            self._rules[origin] = (time.monotonic() + KEPT_FOR, found)
            try:
                found.set_result(await self._ask(origin, seconds))
            finally:
                if not found.done():
                    found.cancel()
        else:
            found = known[1]
        rules = await found
        if isinstance(rules, FetchError):
            raise FetchError(
                "robots.txt", f"the rules of {origin} could not be had: {rules}", again=rules.again
            )
        if not rules.can_fetch(self._agent, url):
            raise FetchError("robots.txt", f"{origin}/robots.txt forbids this address")

    async def _ask(self, origin: str, seconds: float) -> RobotFileParser | FetchError:
        rules = RobotFileParser()
        try:
            fetched = await self._client.get(f"{origin}/robots.txt", seconds, MOST_BYTES)
        except FetchError as error:
            if 400 <= error.status < 500 and error.status != 429:
                rules.parse([])
                return rules
            return error
        rules.parse(fetched.data.decode("utf-8", errors="replace").splitlines())
        return rules

"""One request: redirects, limits of time and size, and what the answer's header says about use."""

import asyncio
import email.utils
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError
from diptych.data.addresses import PrivateAddressError, public_socket
from diptych.data.files import WriteError

T = TypeVar("T")
Receive = Callable[[aiohttp.ClientResponse, str], Awaitable[T]]
"""Takes an answer and the address that gave it."""
LARGE = 2 * 2**20
"""Bytes from which on a body is large: only few of them come at a time, so memory stays bounded."""
LARGE_AT_A_TIME = 4
SPEED_AFTER = 5.0
"""Seconds after which the speed of a body is looked at."""
LONGEST_ADDRESS = 16_384

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""Answers that may be others at the next try."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OTHER_TYPES = ("text/html", "application/json", "application/pdf", "video/", "audio/", "application/xhtml")
"""Types of content that are no pictures for certain; the body is not fetched."""


@dataclass(frozen=True)
class Fetched:
    """What came."""

    data: bytes
    type: str
    url: str
    """Where it came from in the end."""


class Client:
    """Fetches addresses over connections that are used again. Use it as an asynchronous context manager.

    Args:
        options: limits.
        resolver: finds the addresses of a name; None: the system's.
    """

    def __init__(self, options: NetOptions, resolver: AbstractResolver | None = None) -> None:
        self._options, self._resolver = options, resolver
        self._large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        options = self._options
        connector = aiohttp.TCPConnector(
            limit=0,
            ttl_dns_cache=300,
            resolver=self._resolver,
            socket_factory=None if options.allow_private else public_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={
                "User-Agent": options.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(
                total=None, connect=options.connect_timeout, sock_read=options.read_timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, seconds: float, most: int = 0) -> Fetched:
        """Fetch an address once.

        Args:
            url: http or https (see `check_address`).
            seconds: for everything.
            most: bytes of the body; 0: as set.

        Raises:
            FetchError: anything that can go wrong.
        """
        limit = most or self._options.max_bytes
        return await self.ask(url, seconds, lambda response, at: self._read(response, at, limit))

    async def ask(self, url: str, seconds: float, receive: "Receive[T]", accept: str = "") -> T:
        """Ask for an address once, and hand over the answer in the end; arguments and errors as in `get`.

        Args:
            url: see `get`.
            seconds: for everything.
            receive: takes the answer, whatever its status, and where it came from.
            accept: types of content that are wished for; empty: pictures.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(url, receive, {"Accept": accept} if accept else None)
        except (FetchError, WriteError):
            raise
        except Exception as error:
            raise explain(error, seconds) from error

    async def _follow(self, url: str, receive: "Receive[T]", headers: Mapping[str, str] | None) -> T:
        seen: set[str] = set()
        while True:
            seen.add(url)
            assert self._session is not None
            async with self._session.get(url, allow_redirects=False, headers=headers) as response:
                if response.status not in _REDIRECTS:
                    return await receive(response, url)
                # The rest of the answer is of no interest; the connection can be used again if it is short.
                target = response.headers.get("Location", "")
            if not target:
                raise FetchError("redirect", f"status {response.status} without an address to go to")
            url = urljoin(url, target)
            check_address(url)
            if url in seen:
                raise FetchError("redirect loop", f"back at {url[:200]} after {len(seen)} redirects")
            if len(seen) > self._options.redirects:
                raise FetchError("redirect loop", f"more than {self._options.redirects} redirects")

    async def _read(self, response: aiohttp.ClientResponse, url: str, most: int) -> Fetched:
        kind = check_head(response, self._options, most, _OTHER_TYPES)
        return Fetched(_decoded(await self._body(response, most), response.headers, most), kind, url)

    async def _body(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        started, slowest = time.monotonic(), self._options.min_speed
        found: list[bytes] = []
        size, large = 0, False
        try:
            while part := await response.content.readany():
                found.append(part)
                size += len(part)
                if size > most:
                    raise FetchError("too large", f"more than {most} bytes came")
                seconds = time.monotonic() - started
                if slowest and seconds > SPEED_AFTER and size < slowest * seconds:
                    raise FetchError("too slow", f"{size} bytes came in {seconds:.0f} s")
                if size > LARGE and not large:
                    await self._large.acquire()
                    large = True
        finally:
            if large:
                self._large.release()
        if not size:
            raise FetchError("empty", "the body is empty")
        return b"".join(found) if len(found) > 1 else found[0]


def _decoded(data: bytes, headers: Mapping[str, str], most: int) -> bytes:
    """Undo gzip or deflate, which nobody asked for; no more than `most` bytes come of it."""
    coding = headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity", "none", "utf-8"):
        return data
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError("protocol", f"the body is encoded as {coding}, which was not asked for")
    try:
        plain = zlib.decompressobj(47 if "gzip" in coding else 15).decompress(data, most + 1)
    except zlib.error as error:
        raise FetchError("protocol", f"the body is no {coding}: {error}") from error
    if len(plain) > most:
        raise FetchError("too large", f"the body unpacks to more than {most} bytes")
    return plain


def check_head(
    response: aiohttp.ClientResponse, options: NetOptions, most: int, others: tuple[str, ...]
) -> str:
    """Return the type of an answer's content, after a look at all that its header tells.

    Args:
        response: the answer.
        options: what is honoured.
        most: bytes of the body.
        others: how types begin that are not wanted.

    Raises:
        FetchError: another status than 200, opted out, another type, too large.
    """
    headers = response.headers
    if response.status != 200:
        raise FetchError(
            f"http {response.status}",
            response.reason or "no reason given",
            again=response.status in _PASSING,
            after=retry_after(headers.get("Retry-After", "")),
            status=response.status,
        )
    forbidden = opted_out(headers.getall("X-Robots-Tag", ()), options)
    if forbidden:
        raise FetchError("opted out", f"X-Robots-Tag: {forbidden}")
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith(others):
        raise FetchError("wrong type", f"the server sends {kind}")
    size = response.content_length or 0
    if size > most:
        raise FetchError("too large", f"{size} bytes are announced, at most {most} are fetched")
    return kind


def check_address(url: str) -> str:
    """Return `host:port` of an address for the web.

    Raises:
        FetchError: it is something else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError("bad address", str(error)) from error
    if parts.scheme.lower() not in ("http", "https"):
        raise FetchError("bad address", f"expected http:// or https://, got {url[:200]}")
    if not parts.hostname or len(url) > LONGEST_ADDRESS:
        raise FetchError(
            "bad address", "it names no host" if not parts.hostname else f"{len(url)} characters"
        )
    return f"{parts.hostname}:{port}" if port else parts.hostname


def opted_out(lines: Any, options: NetOptions) -> str:
    """Return the directive of `X-Robots-Tag` that forbids the use, or an empty text.

    A line may address one client: `name: noai`. Lines for others do not count.
    """
    for line in lines if options.directives else ():
        name, colon, rest = line.partition(":")
        directives = line
        if colon and "," not in name and not name.strip().lower().startswith("unavailable_after"):
            if name.strip().lower() != options.agent.lower():
                continue
            directives = rest
        for directive in directives.split(","):
            if directive.strip().lower() in options.directives:
                return str(directive.strip().lower())
    return ""


def retry_after(text: str, now: float | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (a number or a date); None if there are none left."""
    text = text.strip()
    if text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
    seconds = moment - (time.time() if now is None else now)
    return seconds if seconds > 0 else None


def explain(error: Exception, seconds: float) -> FetchError:
    """Return what an error of the client's library means."""
    inner = getattr(error, "os_error", None) or error
    while not isinstance(inner, PrivateAddressError) and isinstance(inner.__cause__, OSError):
        inner = inner.__cause__
    text = " ".join(str(inner).split()) or type(error).__name__
    if isinstance(inner, PrivateAddressError):
        return FetchError("refused address", f"{text}; --allow-private reaches it")
    kinds: tuple[tuple[type[Exception], str, bool], ...] = (
        (aiohttp.ClientConnectorDNSError, "dns", True),
        (aiohttp.ClientSSLError, "tls", False),
        (aiohttp.ConnectionTimeoutError, "connect timeout", True),
        (aiohttp.ServerTimeoutError, "no answer", True),
        (aiohttp.ClientConnectorError, "connect", True),
        (aiohttp.InvalidURL, "bad address", False),
        (aiohttp.ClientPayloadError, "cut off", True),
        (aiohttp.ServerDisconnectedError, "cut off", True),
        (aiohttp.ClientOSError, "cut off", True),
        (aiohttp.ClientError, "protocol", False),
    )
    for kind, cause, again in kinds:
        if isinstance(error, kind):
            return FetchError(cause, text, again=again)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", f"not done after {seconds:.3g} s")
    if isinstance(error, ValueError | UnicodeError):
        return FetchError("bad address", text)
    return FetchError("protocol", f"{type(error).__name__}: {text}")

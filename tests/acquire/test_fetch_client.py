"""One request: answers, redirects, limits, addresses, opt-outs."""

import asyncio
import gzip
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver
from fault_server import FaultServer, fault_server

from diptych.data.acquire.client import Client, Fetched, check_address, opted_out, retry_after
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError

OPEN = NetOptions(allow_private=True, read_timeout=0.5, max_bytes=300_000, redirects=3)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.files, running.heads, running.mended, running.delay = {"/0.png": b"picture" * 100}, {}, False, 0.0
    running.gets.clear()
    return running


def get(url: str, options: NetOptions = OPEN, resolver: AbstractResolver | None = None) -> Fetched:
    async def run() -> Fetched:
        async with Client(options, resolver) as client:
            return await client.get(url, 2.0)

    return asyncio.run(run())


def failure(url: str, options: NetOptions = OPEN, resolver: AbstractResolver | None = None) -> FetchError:
    with pytest.raises(FetchError) as caught:
        get(url, options, resolver)
    return caught.value


def test_a_body_comes_whole(server: FaultServer) -> None:
    server.heads["/0.png"] = ("Content-Type: image/png",)
    found = get(f"{server.url}/0.png")
    assert (found.data, found.type, found.url) == (b"picture" * 100, "image/png", f"{server.url}/0.png")
    assert all("diptych" in agent for agent in server.agents)


@pytest.mark.parametrize(
    ("path", "cause", "again"),
    [
        ("status/404", "http 404", False),
        ("status/403", "http 403", False),
        ("status/410", "http 410", False),
        ("status/500", "http 500", True),
        ("status/503", "http 503", True),
        ("status/204", "http 204", False),
        ("status/304", "http 304", False),
        ("loop/a", "redirect loop", False),
        ("hops/4", "redirect loop", False),
        ("page/x", "wrong type", False),
        ("endless/x", "too large", False),
        ("silent/x", "no answer", True),
        ("cut/x", "cut off", True),
        ("to/ftp:==host=x", "bad address", False),
        ("to/file:===etc=passwd", "bad address", False),
    ],
)
def test_failures_have_names(server: FaultServer, path: str, cause: str, again: bool) -> None:
    error = failure(f"{server.url}/{path}")
    assert (error.cause, error.again) == (cause, again), error.detail


def test_redirects_up_to_the_limit_are_followed(server: FaultServer) -> None:
    assert get(f"{server.url}/hops/3").url == f"{server.url}/0.png"


@pytest.mark.slow
def test_a_body_that_drips_ends_with_the_try(server: FaultServer) -> None:
    started = time.monotonic()
    assert failure(f"{server.url}/slow/x").cause == "timeout"
    assert time.monotonic() - started < 10


def test_a_body_that_is_too_slow_is_left(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.acquire.client.SPEED_AFTER", 0.2)
    assert failure(f"{server.url}/slow/x").cause == "too slow"


def test_announced_sizes_count_before_the_body_comes(server: FaultServer) -> None:
    server.files["/big"] = bytes(300_001)
    assert "300001 bytes are announced" in failure(f"{server.url}/big").detail
    server.files["/fits"] = bytes(300_000)
    assert len(get(f"{server.url}/fits").data) == 300_000


def test_large_bodies_take_turns(server: FaultServer) -> None:
    server.files["/large"] = bytes(5 * 2**20)
    options = NetOptions(allow_private=True)

    async def run() -> list[int]:
        async with Client(options) as client:
            found = await asyncio.gather(*(client.get(f"{server.url}/large", 30.0) for _ in range(12)))
        return [len(one.data) for one in found]

    assert asyncio.run(run()) == [5 * 2**20] * 12


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_encoded_bodies_are_unpacked_up_to_the_limit(server: FaultServer, coding: str) -> None:
    import zlib

    pack = gzip.compress if coding == "gzip" else zlib.compress
    server.files |= {"/packed": pack(b"picture"), "/bomb": pack(bytes(1_000_000)), "/wrong": b"no such thing"}
    server.heads = dict.fromkeys(server.files, (f"Content-Encoding: {coding}",))
    assert get(f"{server.url}/packed").data == b"picture"
    assert failure(f"{server.url}/bomb").cause == "too large"
    assert failure(f"{server.url}/wrong").cause == "protocol"


def test_an_empty_body_is_a_failure(server: FaultServer) -> None:
    server.files["/empty"] = b""
    assert failure(f"{server.url}/empty").cause == "empty"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["noai"], "noai"),
        (["nosnippet, NoImageAI"], "noimageai"),
        (["nosnippet", "noindex"], "noindex"),
        (["otherbot: noai"], ""),
        (["diptych: noai"], "noai"),
        (["Diptych: nosnippet, noimageindex"], "noimageindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], ""),
        (["noarchive"], ""),
        ([], ""),
    ],
)
def test_opt_outs(server: FaultServer, lines: list[str], found: str) -> None:
    assert opted_out(lines, OPEN) == found
    assert opted_out(lines, NetOptions(directives=())) == ""
    server.heads["/0.png"] = tuple(f"X-Robots-Tag: {line}" for line in lines)
    if found:
        assert failure(f"{server.url}/0.png").cause == "opted out"
    else:
        assert get(f"{server.url}/0.png").data


def test_retry_after_is_a_number_or_a_date(server: FaultServer) -> None:
    assert retry_after("7") == 7
    assert retry_after(" 120 ") == 120
    # 1 Jan 2000 00:00:10 UTC, ten seconds later than now.
    assert retry_after("Sat, 01 Jan 2000 00:00:10 GMT", now=946_684_800.0) == 10
    assert retry_after("Sat, 01 Jan 2000 00:00:10 GMT", now=946_684_811.0) is None
    assert retry_after("soon") is None
    assert retry_after("") is None
    assert retry_after("-3") is None
    assert failure(f"{server.url}/busy/3/x").after == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no address",
        "ftp://example.org/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://",
        "http:///path",
        "http://host:99999/",
        "http://[::1/",
        "javascript:alert(1)",
        "http://host/" + "x" * 20_000,
        "//host/x",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(FetchError, match="bad address"):
        check_address(url)


def test_addresses_with_odd_characters_are_asked_for(server: FaultServer) -> None:
    server.files["/a%20b,c/%C3%A9.jpg?x=%22"] = b"there"
    assert get(f'{server.url}/a b,c/é.jpg?x="').data == b"there"


class FakeResolver(AbstractResolver):
    """Names -> addresses, without any network."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names, self.asked = names, list[str]()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[Any]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError(f"no such name: {host}")
        address = self.names[host]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


CLOSED = NetOptions(connect_timeout=2.0)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_names_of_private_addresses_are_refused(address: str) -> None:
    error = failure("http://harmless.example/x", CLOSED, FakeResolver({"harmless.example": address}))
    assert (error.cause, error.again) == ("refused address", False)
    assert "--allow-private" in error.detail


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0x7f000001", "2130706433", "localhost"])
def test_private_addresses_as_such_are_refused(host: str) -> None:
    names = {"0x7f000001": "127.0.0.1", "2130706433": "127.0.0.1", "localhost": "127.0.0.1"}
    assert failure(f"http://{host}:1/x", CLOSED, FakeResolver(names)).cause in (
        "refused address",
        "bad address",
    )


def test_every_redirect_is_looked_at(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host passes for a public one; it sends us to a private one."""
    from diptych.data import addresses

    check, seen = addresses.refuse_private, list[str]()

    def first_passes(host: str) -> None:
        seen.append(host)
        if len(seen) > 1:
            check(host)

    monkeypatch.setattr(addresses, "refuse_private", first_passes)
    port = server.url.rpartition(":")[2]
    resolver = FakeResolver({"public.example": "127.0.0.1", "inside.example": "127.0.0.1"})
    error = failure(f"http://public.example:{port}/to/http:==inside.example:{port}=0.png", CLOSED, resolver)
    assert error.cause == "refused address"
    assert resolver.asked == ["public.example", "inside.example"]
    assert server.gets["/0.png"] == 0


def test_names_that_cannot_be_resolved() -> None:
    error = failure("http://nowhere.example/x", CLOSED, FakeResolver({}))
    assert (error.cause, error.again) == ("dns", True)


def test_a_closed_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert failure(f"http://127.0.0.1:{taken.getsockname()[1]}/x").cause == "connect"


def test_proxies_of_the_environment_are_not_used(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert get(f"{server.url}/0.png").data

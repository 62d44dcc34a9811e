"""How hosts are treated, on a clock that the tests turn."""

import asyncio

import pytest

from diptych.data.acquire import hosts as module
from diptych.data.acquire.hosts import BUSY_AFTER, GONE_AFTER, GONE_FOR, Host, Hosts
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError


class Clock:
    """Seconds that pass only where someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(module.asyncio, "sleep", made.sleep)
    return made


def take(hosts: Hosts, host: Host) -> str:
    """Return why the host may not be asked, or nothing."""

    async def run() -> str:
        try:
            async with hosts.turn(host):
                return ""
        except FetchError as error:
            return error.cause

    return asyncio.run(run())


def test_a_host_that_cannot_be_reached_is_left_alone_for_a_while(clock: Clock) -> None:
    hosts = Hosts(NetOptions())
    host = hosts.of("gone.example")
    for _ in range(GONE_AFTER):
        assert take(hosts, host) == ""
        hosts.failed(host, FetchError("connect", "refused"))
    assert take(hosts, host) == "host gone"
    assert take(hosts, hosts.of("other.example")) == ""
    clock.now += GONE_FOR + 1
    # One row tries; until it is known how that ends, the others fail.
    assert take(hosts, host) == ""
    assert take(hosts, host) == "host gone"
    hosts.came(host)
    assert take(hosts, host) == ""


def test_other_failures_show_that_a_host_is_there(clock: Clock) -> None:
    hosts = Hosts(NetOptions())
    host = hosts.of("a.example")
    for _ in range(3):
        for _ in range(GONE_AFTER - 1):
            hosts.failed(host, FetchError("dns", "no name"))
        hosts.failed(host, FetchError("http 404", "Not Found", status=404))
        assert take(hosts, host) == ""


def test_a_busy_host_gets_the_pause_that_it_asks_for(clock: Clock) -> None:
    hosts = Hosts(NetOptions(row_timeout=100))
    host = hosts.of("a.example")
    busy = FetchError("http 429", "Too Many", again=True, after=30, status=429)
    hosts.failed(host, busy)
    hosts.came(host)
    hosts.failed(host, busy)
    assert take(hosts, host) == ""
    assert clock.slept == []
    assert BUSY_AFTER == 2
    hosts.failed(host, busy)
    assert take(hosts, host) == ""
    assert clock.slept == [30]
    hosts.failed(host, FetchError("http 503", "Busy", again=True, after=101, status=503))
    assert take(hosts, host) == "http 429"


def test_rates_are_shared_by_workers(clock: Clock) -> None:
    """Four requests a second of two workers: half a second between those of one."""
    hosts = Hosts(NetOptions(host_rate=4), workers=2)
    host = hosts.of("a.example")
    for _ in range(3):
        assert take(hosts, host) == ""
    assert clock.slept == [0.5, 0.5]
    clock.now += 10
    assert take(hosts, host) == ""
    assert clock.slept == [0.5, 0.5]


def test_slots_are_shared_by_workers() -> None:
    async def run() -> list[int]:
        found = []
        for workers in (1, 2, 100):
            found.append(Hosts(NetOptions(per_host=8), workers).of("a").slots._value)
        return found

    assert asyncio.run(run()) == [8, 4, 1]

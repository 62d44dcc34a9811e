"""A web server on the loopback address that gives pictures and every fault, told by the path asked for."""

import asyncio
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate


class FaultServer:
    """What was asked of it.

    Attributes:
        url: its address.
        files: path -> content.
        heads: path -> further header lines of the answer.
        gets: path -> requests so far.
        agents: `User-Agent` of all requests.
        at_once: most requests that were answered at the same time.
        mended: paths whose faults are over: the file is given.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.heads: dict[str, tuple[str, ...]] = {}
        self.gets: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.mended = False
        self.delay = 0.0
        self.at_once = self._now = 0

    def asked(self, process: subprocess.Popen[bytes], more: int) -> bool:
        """Wait until `more` requests have come since the call; False if `process` ended before."""
        enough, patience = self.gets.total() + more, time.monotonic() + 60
        while self.gets.total() < enough and time.monotonic() < patience:
            if process.poll() is not None:
                return False
            time.sleep(0.005)
        return process.poll() is None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ", 2)[1]
                self.gets[path] += 1
                self.agents |= {line[12:] for line in head.split("\r\n") if line.startswith("User-Agent: ")}
                await self._wait()
                await self._answer(path, writer)
        writer.close()

    async def _wait(self) -> None:
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        await asyncio.sleep(self.delay)
        self._now -= 1

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        kind, _, rest = path.strip("/").partition("/")
        if path in self.files:
            self._send(writer, 200, self.files[path], *self.heads.get(path, ()))
        elif self.mended and kind != "missing":
            self._send(writer, 200, self.files["/0.png"])
        elif kind == "status":
            self._send(writer, int(rest.split("/")[0]), b"")
        elif kind == "busy":  # /busy/SECONDS/...: the second time it goes well
            first = self.gets[path] == 1
            retry = f"Retry-After: {rest.split('/')[0]}"
            self._send(writer, 429 if first else 200, b"" if first else self.files["/0.png"], retry)
        elif kind == "busy-until":
            date = formatdate(4_000_000_000, usegmt=True)
            self._send(writer, 503, b"", f"Retry-After: {date}")
        elif kind == "flaky":  # closes the connection the first time
            if self.gets[path] == 1:
                raise OSError
            self._send(writer, 200, self.files["/0.png"])
        elif kind == "loop":
            self._send(writer, 302, b"", f"Location: /loop/{'b' if rest == 'a' else 'a'}")
        elif kind == "hops":  # /hops/3 -> /hops/2 -> ... -> /0.png
            target = f"/hops/{int(rest) - 1}" if int(rest) > 1 else "/0.png"
            self._send(writer, 301, b"", f"Location: {target}")
        elif kind == "to":
            self._send(writer, 302, b"", "Location: " + rest.replace("=", "/"))
        elif kind == "page":
            self._send(writer, 200, b"<html>", "Content-Type: text/html; charset=utf-8")
        elif kind == "cut":
            content = self.files["/0.png"]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:50])
            raise OSError
        elif kind in ("endless", "slow", "silent"):
            await self._drag(kind, writer)
        else:
            self._send(writer, 404, b"")

    async def _drag(self, kind: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" if kind != "silent" else b"")
        for _ in range(2000):
            writer.write({"endless": bytes(100_000), "slow": b"x", "silent": b""}[kind])
            await writer.drain()
            await asyncio.sleep(0.01)
        raise OSError

    def _send(self, writer: asyncio.StreamWriter, status: int, content: bytes, *lines: str) -> None:
        head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", *lines]
        writer.write("\r\n".join([*head, "", ""]).encode() + content)


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Serve until the block ends."""
    state, loop, started = FaultServer(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(state.handle, "127.0.0.1", 0)
        state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        async with server:
            await stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        # Tasks that were cancelled end.
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

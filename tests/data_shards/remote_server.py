"""A web server on the loopback address that gives files and parts of files, and fails when told to."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """What it gave, and what it is to do next.

    Attributes:
        url: address of the folder.
        gets: file name -> requests so far.
        misbehave: called with the file name and the number of its request (from 1); returns "" (answer),
            "500", "403", "cut" (half of the content), "wrong" (other content), "whole" (parts are ignored),
            "to PORT" (a redirect).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.gets, self.lock = folder, Counter[str](), threading.Lock()
        self.misbehave: Callable[[str, int], str] = lambda name, number: ""
        self.url = ""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder until the block ends."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(200, b"")

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            with state.lock:
                state.gets[name] += 1
                number = state.gets[name]
            how = state.misbehave(name, number)
            path = folder / name
            if how in ("500", "403") or not path.is_file():
                self._answer(int(how or 404), b"")
                return
            if how.startswith("to "):
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{how[3:]}/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if how == "wrong":
                content = bytes(len(content))
            if part and how != "whole":
                self._answer(206, content[int(part[1]) : int(part[2]) + 1])
            else:
                self._answer(200, content, cut=how == "cut")

        def _answer(self, status: int, content: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/data/toy"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

"""What a worker process of the local engine does."""

import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from diptych.data.engines.outcomes import attempt_packed

PAUSE = 0.2
"""Seconds between two messages of how far a task is."""


def serve(channel: int, alive: int) -> None:
    """Do the tasks that come through the socket `channel` until its other end is closed.

    Args:
        channel: descriptor of the socket.
        alive: descriptor of a pipe whose other end only the process that hands out tasks holds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    connection = Connection(channel)
    # The other end may go at any moment, also in the middle of a message.
    with suppress(EOFError, OSError):
        while True:
            function, careful = connection.recv()
            packed = connection.recv_bytes()
            connection.send(attempt_packed(function, packed, _Teller(connection, careful)))


def _end_with(alive: int) -> None:
    """End this process when the other one does, however that comes about."""
    os.read(alive, 1)
    os._exit(1)


class _Teller:
    """Sends how far a task is, now and then; always if processes died of it, to know what they died of."""

    def __init__(self, connection: Connection, careful: bool) -> None:
        self._connection, self._careful, self._next = connection, careful, 0.0

    def __call__(self, done: int, at: str) -> None:
        now = time.monotonic()
        if self._careful or now >= self._next:
            self._next = now + PAUSE
            self._connection.send((done, at))

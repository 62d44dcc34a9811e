"""What a worker process of the local engine does."""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from diptych.data.engines.outcomes import attempt_packed

PAUSE = 0.2
"""Seconds between two messages of how far a task is."""


def serve(channel: int, alive: Sequence[int]) -> None:
    """Do the tasks that come through the socket `channel` until its other end is closed.

    Args:
        channel: descriptor of the socket.
        alive: descriptors of pipes whose other ends the processes hold without which this one is to end.
    """
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    connection = Connection(channel)
    # The other end may go at any moment, also in the middle of a message.
    with suppress(EOFError, OSError):
        connection.send(None)  # it is there
        while True:
            function, careful = connection.recv()
            packed = connection.recv_bytes()
            connection.send(attempt_packed(function, packed, _Teller(connection, careful)))


def _end_with(alive: Sequence[int]) -> None:
    """End this process when one of the others does, however that comes about."""
    wait(alive)
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

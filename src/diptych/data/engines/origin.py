"""The process that worker processes are copies of: it has loaded what they need, and runs nothing else.

So workers are there at once, whatever they need, and share the memory of it. It begins anew and is not a copy
of the process that hands out tasks, which may have threads and much in its memory. Threads that libraries
begin when they are loaded (OpenBLAS, jemalloc) are ended or begun anew by these where a process is copied.
"""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Self

from diptych.data.engines.process import serve

_START = """\
import sys
sys.path[:] = {path!r}
from diptych.data.engines.origin import breed
breed({control}, {alive}, {load!r})
"""
_FORK, _END = b"fork", b"end"
"""Messages: `fork NUMBER` with the descriptor of a worker's socket; `end NUMBER SECONDS`."""
_LONGEST = 64
"""Bytes of a message."""
_NO_PROCESS = os.EX_OSERR
"""Status of a worker that could not be made."""
_LOST = -signal.SIGKILL
"""Status of workers that died together with their origin, which only a kill can do."""
_PATIENCE = 10.0
"""Seconds that an origin gets to end its workers and itself."""
_LOOK = 0.005
"""Seconds between two looks at whether a worker has ended by itself."""


class Origin:
    """The side of the process that hands out tasks; none of its methods needs another to be called before.

    As a context manager it begins at once and ends with the block.

    Args:
        load: modules that workers need. What cannot be imported is left to the tasks, which say so.
    """

    def __init__(self, load: Sequence[str] = ()) -> None:
        self._load = tuple(load)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._alive = -1
        self._numbers, self._copied = count(), False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *more: str) -> socket.socket:
        """Begin the process if there is none, which then loads; return the socket to speak to it.

        Args:
            more: further modules to load.
        """
        if self._control is None:
            self._load = tuple(dict.fromkeys((*self._load, *more)))
            # A Ctrl-C would come between the process and the note that there is one.
            held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._begin()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        assert self._control is not None
        return self._control

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, self._alive = os.pipe()
        try:
            code = _START.format(path=sys.path, control=theirs.fileno(), alive=alive, load=self._load)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), alive),
                # Of its own group: Ctrl-C reaches this process only, which ends the others.
                process_group=0,
            )
        except BaseException:
            ours.close()
            os.close(self._alive)
            raise
        finally:
            theirs.close()
            os.close(alive)
        self._control, self._copied = ours, False

    def fork(self, channel: int) -> int:
        """Make a worker and return its number.

        Args:
            channel: descriptor of the socket through which it gets tasks. Where no worker can be made, nobody
                holds it any more, as if one had died.
        """
        number = next(self._numbers)
        message = b"%s %d" % (_FORK, number)
        control = self.start()
        self._copied = True
        try:
            socket.send_fds(control, [message], [channel])
        except OSError:
            # It was killed; the next one is as good.
            self.close()
            control = self.start()
            self._copied = True
            socket.send_fds(control, [message], [channel])
        return number

    def end(self, number: int, patience: float = 0.0) -> int:
        """End a worker, whatever it does, and return its status.

        Args:
            number: of a worker that has not been ended before.
            patience: seconds that it gets to end by itself.
        """
        if self._control is not None:
            with suppress(OSError):
                self._control.send(b"%s %d %f" % (_END, number, patience))
                if said := self._control.recv(_LONGEST):
                    return int(said)
        return _LOST

    def close(self) -> None:
        """End the process and all workers."""
        if self._control is not None:
            self._control.close()
            os.close(self._alive)
            self._control = None
        if self._process is not None:
            if not self._copied:
                # It may still be loading, and nothing depends on it.
                self._process.kill()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def breed(control: int, alive: int, load: Sequence[str]) -> None:
    """Make workers as the process that hands out tasks says, until it is gone: what an origin does.

    Args:
        control: descriptor of the socket through which that process speaks.
        alive: descriptor of a pipe whose other end only that process holds.
        load: see `Origin`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _import(load)
    watched, held = os.pipe()
    os.set_inheritable(alive, False)
    workers: dict[int, int] = {}
    with socket.socket(fileno=control) as commander, suppress(OSError):
        commander.set_inheritable(False)
        while True:
            message, given, _, _ = socket.recv_fds(commander, _LONGEST, 1)
            if not message:
                break
            word, number, *more = message.split()
            if word == _END:
                commander.send(b"%d" % _end(workers.pop(int(number), 0), float(more[0])))
                continue
            worker = _copy()
            if worker == 0:
                commander.close()
                os.close(held)
                _work(given[0], (alive, watched))
            workers[int(number)] = worker
            os.close(given[0])
    for worker in workers.values():
        if worker > 0:
            os.kill(worker, signal.SIGKILL)
    for worker in workers.values():
        _end(worker, 0)
    os._exit(0)


def _import(load: Sequence[str]) -> None:
    # All of this stays: looking through it for garbage costs time, and would copy the memory in each worker.
    gc.disable()
    for name in load:
        with suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _copy() -> int:
    """Return the process of a new worker, 0 in the worker itself, -1 if there can be none."""
    try:
        return os.fork()
    except OSError as error:
        sys.stderr.write(f"no worker process can be made: {error.strerror}\n")
        sys.stderr.flush()
        return -1


def _work(channel: int, alive: Sequence[int]) -> None:
    """Be a worker, to the end of this process."""
    status = 1
    try:
        os.set_inheritable(channel, False)
        serve(channel, alive)
        status = 0
    finally:
        os._exit(status)


def _end(process: int, patience: float) -> int:
    """End a child process, which gets some seconds to do so by itself; return its status."""
    if process <= 0:
        return _NO_PROCESS
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

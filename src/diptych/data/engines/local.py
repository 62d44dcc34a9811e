"""Tasks in processes of this machine."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from diptych.data.engines import MAX_DEATHS, MAX_HELD, Function, Task, Told
from diptych.data.engines.draw import Draw
from diptych.data.engines.outcomes import Outcome
from diptych.errors import DataError

AHEAD = 2
"""Tasks drawn ahead, so that a process that is done goes on at once."""
_START = """\
import sys
sys.path[:] = {path!r}
from diptych.data.engines.process import serve
serve({channel}, {alive})
"""
"""A process begins anew and not as a copy of this one, which may have threads and much in its memory."""

Done = tuple[str, Any]
"""Name and result of a task."""


class LocalEngine:
    """Runs tasks in processes of this machine; in this one if there is one worker, or one task only.

    Args:
        workers: how many; None: one for each core that this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))

    def run(self, function: Function, tasks: Iterable[Task], told: Told | None = None) -> Iterator[Done]:
        """See `Engine`."""
        draw, told = Draw(tasks), told or _ignore
        begin = [task for _ in range(min(self.workers, 2)) if (task := draw.next()) is not None]
        if len(begin) > 1:
            yield from _Pool(self.workers, function, draw, told).run(begin)
        else:
            yield from _here(function, begin, draw, told)
        draw.conclude()


def _ignore(name: str, done: int) -> None:
    pass


def _here(function: Function, begin: list[Task], draw: Draw, told: Told) -> Iterator[Done]:
    """Do tasks in this process."""
    task = begin[0] if begin else None
    while task is not None:
        name = task.name

        def tell(done: int, at: str, name: str = name) -> None:
            told(name, done)

        try:
            result = function(task.work, tell)
        except Exception as error:
            draw.fail(error)
            return
        told(name, task.samples)
        yield name, result
        task = draw.next()


@dataclass
class _Packed:
    """A task on its way."""

    name: str
    samples: int
    work: bytes
    deaths: int = 0
    at: str = ""
    """What it was about to do when it was last heard of."""


class _Process:
    """A worker process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        alive, self._alive = os.pipe()
        try:
            code = _START.format(path=sys.path, channel=theirs.fileno(), alive=alive)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), alive),
                # Of its own group: Ctrl-C reaches this process only, which ends the others.
                process_group=0,
            )
        finally:
            theirs.close()
            os.close(alive)
        self.channel = Connection(ours.detach())
        self.task: _Packed | None = None

    def begin(self, function: Function, task: _Packed) -> None:
        """Hand a task over; that the process is dead shows when the outcome is awaited."""
        self.task = task
        with suppress(OSError):
            self.channel.send((function, task.deaths > 0))
            self.channel.send_bytes(task.work)

    def end(self, patience: float = 0) -> int:
        """End the process, whatever it does; return its status.

        Args:
            patience: seconds that it gets to end by itself.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()
        status = self._process.wait()
        self.channel.close()
        os.close(self._alive)
        return status


class _Pool:
    """Worker processes, begun as they are needed."""

    def __init__(self, workers: int, function: Function, draw: Draw, told: Told) -> None:
        self._workers, self._function, self._draw, self._told = workers, function, draw, told
        self._ready: deque[_Packed] = deque()
        self._idle: list[_Process] = []
        self._busy: dict[Connection, _Process] = {}

    def run(self, begin: list[Task]) -> Iterator[Done]:
        self._ready.extend(_pack(task) for task in begin)
        try:
            while True:
                self._hand_out()
                drawing = not self._draw.ended and len(self._ready) < AHEAD and self._held() < MAX_HELD
                if not drawing and not self._busy:
                    return
                yield from self._collect(0 if drawing else None)
                if drawing and not self._draw.ended and (task := self._draw.next()) is not None:
                    self._ready.append(_pack(task))
        finally:
            for process in (*self._idle, *self._busy.values()):
                process.end()

    def _held(self) -> int:
        packed = [process.task for process in self._busy.values()]
        return sum(len(task.work) for task in (*self._ready, *packed) if task)

    def _hand_out(self) -> None:
        if self._draw.stopped:
            self._ready.clear()
        while self._ready and len(self._busy) < self._workers:
            process = self._idle.pop() if self._idle else _Process()
            process.begin(self._function, self._ready.popleft())
            self._busy[process.channel] = process

    def _collect(self, patience: float | None) -> Iterator[Done]:
        """Yield what has been finished; wait for something to happen if `patience` is None."""
        for channel in wait(list(self._busy), patience):
            process = self._busy[channel]  # type: ignore[index]
            task = process.task
            if task is None:
                continue
            try:
                said: tuple[int, str] | Outcome = process.channel.recv()
            except (EOFError, OSError):
                self._bury(process, task)
                continue
            if not isinstance(said, Outcome):
                done, task.at = said
                self._told(task.name, done)
                continue
            del self._busy[process.channel]
            process.task = None
            self._idle.append(process)
            try:
                result = said.get()
            except Exception as error:
                self._draw.fail(error)
                continue
            self._told(task.name, task.samples)
            yield task.name, result

    def _bury(self, process: _Process, task: _Packed) -> None:
        """Give the task of a dead process to a new one, or give it up."""
        del self._busy[process.channel]
        # It has closed its socket: it is on its way out, and the reason is wanted.
        status = process.end(patience=5)
        task.deaths += 1
        if task.deaths < MAX_DEATHS:
            self._told(task.name, 0)
            self._ready.appendleft(task)
            return
        at = f", the last one at '{task.at}'" if task.at else ""
        self._draw.fail(
            DataError(
                f"{task.name}: {task.deaths} worker processes died of it{at} ({_why(status)}); what is "
                "finished stays: free memory, use fewer workers, or take the sample out of the raw files, "
                "then run the same command again"
            )
        )


def _pack(task: Task) -> _Packed:
    return _Packed(task.name, task.samples, pickle.dumps(task.work, pickle.HIGHEST_PROTOCOL))


def _why(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name

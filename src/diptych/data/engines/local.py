"""Tasks in processes of this machine."""

import math
import os
import pickle
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from diptych.data.engines import MAX_DEATHS, MAX_HELD, Function, Task, Told
from diptych.data.engines.draw import Draw
from diptych.data.engines.origin import Origin
from diptych.data.engines.outcomes import Outcome
from diptych.errors import DataError

AHEAD = 2
"""Tasks drawn ahead, so that a process that is done goes on at once."""
SILENCE = 3600.0
"""Seconds without a word from a worker after which it counts as hung and is killed, as if it had died."""

Done = tuple[str, Any]
"""Name and result of a task."""


class LocalEngine:
    """Runs tasks in processes of this machine; in this one if there is one worker, or one task only.

    Args:
        workers: how many; None: one for each core that this process may use.
        load: modules that the processes need besides that of the function; loaded once for all.
        origin: what the processes are copies of, if it has been begun before; `load` means nothing then.
        silence: see `SILENCE`.
    """

    def __init__(
        self,
        workers: int | None = None,
        load: Sequence[str] = (),
        origin: Origin | None = None,
        *,
        silence: float = SILENCE,
    ) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._silence = silence
        self._origin = origin or Origin(load)

    def __enter__(self) -> Self:
        if self.workers > 1:
            self._origin.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._origin.close()

    def run(self, function: Function, tasks: Iterable[Task], told: Told | None = None) -> Iterator[Done]:
        """See `Engine`."""
        draw = Draw(tasks)
        work = _Work(function, draw, told or _ignore)
        begin = [task for _ in range(min(self.workers, 2)) if (task := draw.next()) is not None]
        try:
            if len(begin) > 1:
                self._origin.start(function.__module__)
                yield from _Pool(self.workers, self._origin, self._silence, work).run(begin)
            else:
                self._origin.close()
                yield from _here(work, begin)
        finally:
            self._origin.close()
        draw.conclude()


def _ignore(name: str, done: int) -> None:
    pass


@dataclass(frozen=True)
class _Work:
    """What a run is to do."""

    function: Function
    draw: Draw
    told: Told


def _here(work: _Work, begin: list[Task]) -> Iterator[Done]:
    """Do tasks in this process."""
    task = begin[0] if begin else None
    while task is not None:
        name = task.name

        def tell(done: int, at: str, name: str = name) -> None:
            work.told(name, done)

        try:
            result = work.function(task.work, tell)
        except Exception as error:
            work.draw.fail(error)
            return
        work.told(name, task.samples)
        yield name, result
        task = work.draw.next()


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

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        ours, theirs = socket.socketpair()
        with theirs:
            self._number = origin.fork(theirs.fileno())
        self.channel = Connection(ours.detach())
        self.task: _Packed | None = None
        self.heard = math.inf
        """When it said something, or got its task; infinity: it is not there yet."""

    def begin(self, function: Function, task: _Packed) -> None:
        """Hand a task over; that the process is dead shows when the outcome is awaited."""
        self.task = task
        with suppress(OSError):
            self.channel.send((function, task.deaths > 0))
            self.channel.send_bytes(task.work)
        self.heard = max(self.heard, time.monotonic())

    def is_gone(self) -> bool:
        """Tell whether it has died without a task: then it says nothing but that there is no more to come."""
        return self.channel.poll()

    def end(self, patience: float) -> int:
        """End the process, whatever it does; return its status.

        Args:
            patience: seconds that it gets to end by itself.
        """
        status = self._origin.end(self._number, patience)
        self.channel.close()
        return status


class _Pool:
    """Worker processes, begun as they are needed; that they end is left to their origin."""

    def __init__(self, workers: int, origin: Origin, silence: float, work: _Work) -> None:
        self._workers, self._origin, self._silence, self._work = workers, origin, silence, work
        self._draw, self._told = work.draw, work.told
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
                yield from self._collect(0 if drawing else self._patience())
                if drawing and not self._draw.ended and (task := self._draw.next()) is not None:
                    self._ready.append(_pack(task))
        finally:
            for process in (*self._idle, *self._busy.values()):
                process.channel.close()

    def _held(self) -> int:
        packed = [process.task for process in self._busy.values()]
        return sum(len(task.work) for task in (*self._ready, *packed) if task)

    def _hand_out(self) -> None:
        if self._draw.stopped:
            self._ready.clear()
        while self._ready and len(self._busy) < self._workers:
            process = self._free()
            self._busy[process.channel] = process
            process.begin(self._work.function, self._ready.popleft())

    def _free(self) -> _Process:
        while self._idle:
            process = self._idle.pop()
            if not process.is_gone():
                return process
            process.end(patience=0)
        return _Process(self._origin)

    def _patience(self) -> float | None:
        """Return the seconds until a process may count as hung; None: there is none that could."""
        heard = min(process.heard for process in self._busy.values())
        return None if heard == math.inf else max(heard + self._silence - time.monotonic(), 0.0)

    def _collect(self, patience: float | None) -> Iterator[Done]:
        """Wait for something to happen, so many seconds at most; yield what has been finished."""
        speaking = wait(list(self._busy), patience)
        self._end_hung(speaking)
        for channel in speaking:
            process = self._busy[channel]  # type: ignore[index]
            process.heard = time.monotonic()
            task = process.task
            if task is None:
                continue
            try:
                said: tuple[int, str] | Outcome | None = process.channel.recv()
            except (EOFError, OSError):
                # It has closed its socket: it is on its way out, and the reason is wanted.
                self._bury(process, task, _why(process.end(patience=5)))
                continue
            if said is None:
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

    def _end_hung(self, speaking: Sequence[object]) -> None:
        now = time.monotonic()
        for process in list(self._busy.values()):
            hung = process.channel not in speaking and now - process.heard >= self._silence
            if hung and process.task is not None:
                process.end(patience=0)
                self._bury(process, process.task, f"without a word for {self._silence:g} s")

    def _bury(self, process: _Process, task: _Packed, why: str) -> None:
        """Give the task of a dead process to a new one, or give it up."""
        del self._busy[process.channel]
        task.deaths += 1
        if task.deaths < MAX_DEATHS:
            self._told(task.name, 0)
            self._ready.appendleft(task)
            return
        at = f", the last one at '{task.at}'" if task.at else ""
        self._draw.fail(
            DataError(
                f"{task.name}: {task.deaths} worker processes died of it{at} ({why}); what is "
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

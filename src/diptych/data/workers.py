"""Processes that read samples into memory which they share with the loader.

The loader cuts a batch into pieces and puts them into one pipe, from which idle workers take them: the first
batch is there as soon as possible, no worker waits for another, and a batch is in memory once, however many
workers there are. Pictures are written where the batch shows them; only texts go through pipes.
"""

import contextlib
import ctypes
import fcntl
import gc
import mmap
import os
import pickle
import select
import signal
import struct
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from diptych.data.decode import Pixels
from diptych.data.plan import Drawn
from diptych.data.reader import Piece
from diptych.errors import DataError

Read = Callable[[Drawn, Pixels | None], Piece]

HANDED_OUT = 2
"""Slots whose memory batches may show at a time; a batch beyond them is a copy."""
SMALLEST_PIECE = 8
"""Samples below which passing a piece on costs too much."""

_ORDER = struct.Struct("<qqqq")
"""What goes through the pipe of orders, in one piece: ticket number, slot, first sample, last + 1."""
_WAKE = _ORDER.pack(-1, 0, 0, 0)
"""Wakes a worker that is to end: workers of a later pool hold this pipe open too."""
_ALIGNED = 4096
_LOOK_AFTER = 5000
"""Milliseconds after which an idle worker looks whether its parent is still there."""
_PATIENCE = 5.0
"""Seconds that workers get to end."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT = -1, -3, 32 * 2**20
"""Settings of `mallopt`, and the bytes from which on memory goes back to the system."""
_RESULTS_ROOM = 2**20
"""Bytes of results that may wait for the loader, where the system allows."""


class WorkerDiedError(DataError):
    """A worker was killed or broke down."""


@dataclass
class Ticket:
    """Samples that are being read."""

    drawn: Drawn
    slot: int
    missing: set[int]
    """First samples of the pieces that are not there yet."""
    pieces: dict[int, Piece] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class _Answer:
    ticket: int
    first: int
    piece: Piece | None
    failure: str
    """Why the run must stop (a `DataError`)."""
    defect: str
    """Traceback of any other exception."""
    cpu_seconds: float


class Pool:
    """Forked workers and the slots that they fill; for the process that made it, one thread at a time.

    Attributes:
        cpu_seconds: by worker, CPU time as of its newest answer.
    """

    def __init__(
        self, read: Read, workers: int, *, slots: int, capacity: int, shape: tuple[int, ...] | None
    ) -> None:
        """Start workers.

        Args:
            read: reads samples into memory for their pictures; called in the workers.
            workers: how many.
            slots: batches that are read at a time.
            capacity: samples that a slot has room for.
            shape: of the picture(s) of a sample, [H, W, C] or [2, H, W, C]; None without pictures.
        """
        self._owner, self._workers, self._slots, self._capacity = os.getpid(), workers, slots, capacity
        self._memory = _Memory(slots + HANDED_OUT, capacity, shape)
        self._free = list(range(slots + HANDED_OUT))
        self._shown: dict[int, weakref.ref[Pixels]] = {}
        self._tickets: dict[int, Ticket] = {}
        self._issued = 0
        self.cpu_seconds: dict[int, float] = {}
        self._poll = select.poll()
        self._results: dict[int, tuple[int, Connection]] = {}
        orders, self._orders = os.pipe()
        os.set_blocking(orders, False)
        self._pids: list[int] = []
        try:
            for worker in range(workers):
                self._start(worker, read, orders)
        finally:
            os.close(orders)
        # Also when the pool is forgotten and when the interpreter ends.
        self._end = weakref.finalize(
            self,
            _end,
            self._owner,
            self._pids,
            self._orders,
            [c for _, c in self._results.values()],
            self._memory,
        )

    def _start(self, worker: int, read: Read, orders: int) -> None:
        receiving, sending = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12+ warns of forks with threads around; workers touch neither CUDA nor those threads.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                # Ends that only the parent may hold: that they are open is how workers know of it.
                for descriptor in (self._orders, receiving, *self._results):
                    os.close(descriptor)
                _work(read, orders, Connection(sending, readable=False), self._memory, self._owner)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)  # not the parent's exit handlers
        os.close(sending)
        with contextlib.suppress(OSError):
            fcntl.fcntl(receiving, getattr(fcntl, "F_SETPIPE_SZ", fcntl.F_GETFL), _RESULTS_ROOM)
        self._pids.append(pid)
        self._results[receiving] = (worker, Connection(receiving, writable=False))
        self._poll.register(receiving, select.POLLIN)

    @property
    def has_room(self) -> bool:
        """Whether a slot is free for another batch."""
        return len(self._tickets) < self._slots

    def submit(self, drawn: Drawn) -> int | None:
        """Have samples read; return the number of their ticket, None if no slot is free or large enough."""
        count = len(drawn.rows)
        if not self.has_room or count > self._capacity:
            return None
        slot = self._free.pop()
        self._memory.put(slot, drawn)
        size = max(SMALLEST_PIECE, -(-count // self._workers))
        self._issued += 1
        starts = range(0, count, size)
        self._tickets[self._issued] = Ticket(drawn, slot, set(starts))
        for first in starts:
            os.write(self._orders, _ORDER.pack(self._issued, slot, first, min(first + size, count)))
        return self._issued

    def wait(self, ticket: int) -> Ticket:
        """Wait until all of a ticket is read.

        Raises:
            WorkerDiedError: a worker is gone.
            RuntimeError: a worker met a defect; the message is its traceback.
        """
        found = self._tickets[ticket]
        while found.missing:
            self._receive()
        return found

    def _receive(self) -> None:
        for descriptor, _ in self._poll.poll():
            worker, connection = self._results[descriptor]
            try:
                # Safe: an unnamed pipe from a process that this one has forked.
                answer: _Answer = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise WorkerDiedError(
                    "a loader process died (out of memory?); set data.loader.workers=0 to see the reason"
                ) from error
            self.cpu_seconds[worker] = answer.cpu_seconds
            if answer.defect:
                raise RuntimeError(f"a loader process failed:\n{answer.defect}")
            ticket = self._tickets[answer.ticket]
            ticket.missing.discard(answer.first)
            ticket.failure = ticket.failure or answer.failure
            if answer.piece is not None:
                ticket.pieces[answer.first] = answer.piece

    def collect(self, ticket: int) -> tuple[Piece, Pixels | None]:
        """Return what was read for a ticket that is done, and its pictures in one piece.

        The pictures lie in the slot, which is free again when nothing shows them any more; where too many
        slots are shown already, they are a copy.
        """
        found = self._tickets.pop(ticket)
        whole = Piece()
        images = self._memory.images(found.slot)
        for first, piece in sorted(found.pieces.items()):
            have, more = len(whole.keys), len(piece.keys)
            if images is not None and have != first:  # samples before it were left out
                images[have : have + more] = images[first : first + more].copy()
            whole.add(piece, first)
        if images is None:
            self._free.append(found.slot)
            return whole, None
        if len(self._shown) >= HANDED_OUT:
            copied = images[: len(whole.keys)].copy()
            self._free.append(found.slot)
            return whole, copied
        self._show(found.slot, images)
        return whole, images[: len(whole.keys)]

    def _show(self, slot: int, images: Pixels) -> None:
        # Views of an array made from a buffer keep that array alive, not each other: the base is what counts.
        base = images.base
        assert isinstance(base, np.ndarray)
        shown, free = self._shown, self._free

        def given_back(_: object) -> None:
            del shown[slot]
            free.append(slot)

        shown[slot] = weakref.ref(base, given_back)

    def pin(self) -> bool:
        """Lock the slots' memory for copies to a GPU; return whether that was possible.

        The caller keeps a batch until its copy is done: the slot of a forgotten batch is filled anew.
        """
        return self._memory.pin()

    def close(self) -> None:
        """End the workers and wait for them."""
        self._end()


class _Memory:
    """Slots in an anonymous map, which forked processes share and /dev/shm does not limit.

    A slot holds the numbers of its samples, [3, capacity] int64, then their pictures. Memory is only taken as
    slots are used.
    """

    def __init__(self, slots: int, capacity: int, shape: tuple[int, ...] | None) -> None:
        self._capacity, self._shape = capacity, shape
        self._numbers = _padded(3 * 8 * capacity)
        self._stride = self._numbers + (_padded(capacity * int(np.prod(shape))) if shape else 0)
        self._map = mmap.mmap(-1, _ALIGNED + slots * self._stride)
        self._pinned: int | None = None

    @property
    def ended(self) -> bool:
        """Whether workers are to end without finishing what was ordered."""
        return self._map[0] != 0

    def end(self) -> None:
        """Tell workers to end."""
        self._map[0] = 1

    def put(self, slot: int, drawn: Drawn) -> None:
        """Write which samples go into a slot."""
        numbers = self._drawn(slot)
        for row, values in zip(numbers, (drawn.sources, drawn.rows, drawn.positions), strict=True):
            row[: len(values)] = values

    def drawn(self, slot: int, first: int, last: int) -> Drawn:
        """Return some of the samples that go into a slot."""
        sources, rows, positions = self._drawn(slot)[:, first:last].copy()
        return Drawn(sources, rows, positions)

    def _drawn(self, slot: int) -> np.ndarray:
        start = _ALIGNED + slot * self._stride
        count = 3 * self._capacity
        return np.frombuffer(self._map, np.int64, count, start).reshape(3, self._capacity)

    def images(self, slot: int) -> Pixels | None:
        """Return [capacity, H, W, C]; its `base` is an array of its own for every call."""
        if self._shape is None:
            return None
        start = _ALIGNED + slot * self._stride + self._numbers
        count = self._capacity * int(np.prod(self._shape))
        return np.frombuffer(self._map, np.uint8, count, start).reshape(-1, *self._shape)

    def pin(self) -> bool:
        """Register the map with CUDA."""
        if self._pinned is None and torch.cuda.is_available():
            address = np.frombuffer(self._map, np.uint8).ctypes.data
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            if int(runtime.cudaHostRegister(address, len(self._map), 0)) == 0:
                self._pinned = address
        return self._pinned is not None

    def unpin(self) -> None:
        """Undo `pin`."""
        if self._pinned is not None:
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            runtime.cudaHostUnregister(self._pinned)
            self._pinned = None


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _work(read: Read, orders: int, results: Connection, memory: _Memory, parent: int) -> None:
    """Take pieces until there are no more, or nobody is left to want them."""
    torch.set_num_threads(1)
    _keep_memory()
    # Collecting the parent's objects would copy their memory.
    gc.freeze()
    # A terminal's Ctrl-C and a scheduler's SIGTERM reach every process; the parent decides what happens and
    # ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    while os.getppid() == parent and not memory.ended:
        if not poll.poll(_LOOK_AFTER):
            continue
        try:
            order = os.read(orders, _ORDER.size)
        except BlockingIOError:  # another worker was faster
            continue
        if not order or memory.ended:
            return
        answer = _answer(read, memory, *_ORDER.unpack(order))
        try:
            results.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        except OSError:  # nobody listens any more
            return


def _keep_memory() -> None:
    """Have the C library keep what is freed: every picture needs buffers of about the same size again.

    Giving them back to the system and asking anew would fault in their pages each time.
    """
    with contextlib.suppress(OSError, AttributeError):  # C libraries other than GNU's
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(setting, _KEPT)


def _answer(read: Read, memory: _Memory, ticket: int, slot: int, first: int, last: int) -> _Answer:
    piece, failure, defect = None, "", ""
    images = memory.images(slot)
    try:
        piece = read(memory.drawn(slot, first, last), None if images is None else images[first:last])
    except DataError as error:
        # As a value: an exception from a worker would reach the user as a page of traceback.
        failure = str(error)
    except Exception:
        defect = traceback.format_exc()
    return _Answer(ticket, first, piece, failure, defect, time.process_time())


def _end(owner: int, pids: list[int], orders: int, results: list[Connection], memory: _Memory) -> None:
    """End the workers of a pool and wait for them; nothing in a process that was forked from its owner."""
    if os.getpid() != owner:
        return
    memory.end()
    memory.unpin()
    with contextlib.suppress(OSError):  # all are dead
        os.write(orders, _WAKE * len(pids))
    os.close(orders)
    for connection in results:
        connection.close()
    deadline = time.monotonic() + _PATIENCE
    for pid in pids:
        while not _is_over(pid, block=False):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                _is_over(pid, block=True)
                break
            time.sleep(0.001)


def _is_over(pid: int, *, block: bool) -> bool:
    try:
        return os.waitpid(pid, 0 if block else os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else has waited for it
        return True

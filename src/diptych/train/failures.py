"""When a rank fails, one line says which and why; the others end without a word, and none waits for the dead.

Ranks that `torchrun` started share a key-value store that outlives them. Each says there where it runs. A
rank that fails claims the right to speak before it ends; one whose collective broke because of that finds the
claim and stays quiet. A thread in each rank looks after the processes of its machine: one that vanished
without a word was killed, and who notices first says so.
"""

import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.distributed import DistError

from diptych.errors import DiptychError
from diptych.train.files import causes, first_line
from diptych.train.meeting import meeting as meet_others
from diptych.train.ranks import ElsewhereError
from diptych.train.signals import StoppedError
from diptych.train.together import is_agreed

PERIOD = 0.5
"""Seconds between two looks at the other processes."""
GRACE = 10.0
"""Seconds to end by itself after another rank has failed, and to learn why a collective broke."""
BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""What the messages of torch.distributed contain when the other side is gone."""
RANKED = re.compile(r"rank \d+ of ")

logger = logging.getLogger("diptych")


@dataclass(frozen=True)
class Process:
    """Where a rank runs."""

    rank: int
    pid: int
    started: str
    """Clock ticks since boot: another process with the same number started at another time."""
    host: str
    place: str
    """Host and name space of process numbers: only there can others look it up."""

    def vanished(self) -> bool:
        """Whether the process has ended; meaningful in the same place only."""
        return _started(self.pid) != self.started


class Watch:
    """Looks after the ranks of a run, in this one; a context manager around the work.

    Args:
        rank: this one.
        size: number of ranks.
        store: what ranks share; None: every rank speaks for itself and looks after nobody.
        grace: see `GRACE`.
    """

    def __init__(self, rank: int, size: int, store: Any, *, grace: float = GRACE) -> None:
        self.rank, self.size, self.grace = rank, size, grace
        self._store = store
        self._over = threading.Event()
        self._known: dict[int, Process] = {}
        self._oom_kills = _oom_kills()
        self._thread = threading.Thread(target=self._look_after, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        here = socket.gethostname()
        me = Process(self.rank, os.getpid(), _started(os.getpid()), here, _place(here))
        self._known[self.rank] = me
        self._tell(f"who/{self.rank}", json.dumps(asdict(me)))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tell(f"left/{self.rank}", "1")  # before this process ends: it was not killed
        self._over.set()
        self._thread.join()

    def claim(self) -> bool:
        """Whether this rank is the first to speak; ranks that ask later must not. Without a store all may."""
        try:
            return self._store is None or self._store.add("claim", 1) == 1
        except RuntimeError:  # the store went with the machine that failed
            return True

    def explain(self, error: BaseException) -> str | None:
        """Return the line that this rank has to say about its failure; None where another rank speaks."""
        if _broken_by_others(error):
            return self._why_broken(error)
        if not self.claim():
            return None
        words = (
            str(error) if isinstance(error, DiptychError) else f"{type(error).__name__}: {first_line(error)}"
        )
        known = is_agreed(error) or RANKED.match(words)
        return words if known else f"rank {self.rank} of {self.size}: {words}"

    def _why_broken(self, error: BaseException) -> str | None:
        """Wait for the word of the rank that failed, or find out which it is."""
        self._tell(f"met/{self.rank}", "1")
        deadline = time.monotonic() + self.grace
        while time.monotonic() < deadline and self._store is not None:
            if self._has("claim"):
                return None
            lost = self._lost()
            if lost is not None:
                return self._obituary(lost) if self.claim() else None
            time.sleep(PERIOD / 5)
        if not self.claim():
            return None
        silent = [r for r in range(self.size) if r != self.rank and not self._has(f"met/{r}")]
        names = ", ".join(self._name(r) for r in silent) or "another rank"
        return f"{names} does not answer ({first_line(error)}); look at that machine"

    # The thread

    def _look_after(self) -> None:
        while not self._over.wait(PERIOD):
            if self._has("claim"):
                break
            lost = self._lost()
            if lost is not None:
                if self.claim():
                    say(self._obituary(lost))
                break
        # A collective on a GPU may wait for the dead for long: end the process from here.
        if not self._over.wait(self.grace):
            sys.stderr.flush()
            os._exit(1)

    def _lost(self) -> int | None:
        """Return a rank of this machine that has gone without a word, if there is one."""
        me = self._known[self.rank]
        for rank in range(self.size):
            if rank not in self._known and self._has(f"who/{rank}"):
                self._known[rank] = Process(**json.loads(self._store.get(f"who/{rank}")))
            other = self._known.get(rank)
            if other is None or other.place != me.place or not other.vanished():
                continue
            if not self._has(f"left/{rank}") and not self._has("claim"):
                return rank
        return None

    def _obituary(self, rank: int) -> str:
        kills = _oom_kills()
        if kills is not None and self._oom_kills is not None and kills > self._oom_kills:
            cause = "killed because memory ran out; lower data.loader.batch_size or data.loader.workers"
        else:
            cause = "killed, out of memory? (dmesg or the job's log may tell)"
        return f"{self._name(rank)} is gone: {cause}"

    def _name(self, rank: int) -> str:
        known = self._known.get(rank)
        where = f" (pid {known.pid} on {known.host})" if known else ""
        return f"rank {rank} of {self.size}{where}"

    # The store, which may vanish like everything else

    def _has(self, key: str) -> bool:
        try:
            return self._store is not None and bool(self._store.check([key]))
        except RuntimeError:
            return False

    def _tell(self, key: str, value: str) -> None:
        with contextlib.suppress(RuntimeError):
            if self._store is not None:
                self._store.set(key, value)


@contextlib.contextmanager
def watched(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Look after the ranks of a launcher while the context lasts; one process alone needs nothing.

    Raises:
        SystemExit: this rank or another has failed and what there is to say is said, with the exit status.
        StoppedError: on rank 0, when all ranks stopped on request.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield
        return
    meeting = meet_others()
    with Watch(int(environment.get("RANK", "0")), size, meeting.store() if meeting else None) as watch:
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            status = error.exit_status if isinstance(error, DiptychError) else 1
            broken = _broken_by_others(error)
            if isinstance(error, StoppedError) and not broken:
                watch.claim()
                if watch.rank == 0:
                    raise
                raise SystemExit(status) from error
            line = watch.explain(error)
            if line is not None:
                if not isinstance(error, DiptychError) and not broken:
                    traceback.print_exception(error)  # a defect
                say(line)
            raise SystemExit(status) from error


def say(line: str) -> None:
    """Print an error on stderr at once, and leave it in the run's log.txt where this process writes it."""
    sys.stderr.write("".join(f"error: {part}\n" for part in line.splitlines()))
    sys.stderr.flush()
    logger.info("stopped: %s", line, extra={"file_only": True})


def _broken_by_others(error: BaseException) -> bool:
    """Whether an exception only says that another rank failed, or that a collective broke for that reason."""
    return any(
        isinstance(cause, DistError | ElsewhereError)
        or (type(cause) is RuntimeError and BROKEN.search(str(cause)) is not None)
        for cause in causes(error)
    )


def _started(pid: int) -> str:
    """Return when a running process started; empty when there is none, or it only waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    return "running"


def _place(host: str) -> str:
    try:
        return f"{host} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return host


def _oom_kills() -> int | None:
    """Return how many processes of this container the kernel has killed for lack of memory, if it tells."""
    for name in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", Path(name).read_text(encoding="utf-8"), re.MULTILINE)
            if found:
                return int(found[1])
    return None

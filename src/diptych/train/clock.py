"""CPU seconds of a run: the process and its workers, summed over resumes."""

import multiprocessing
import os
import resource
import time
from pathlib import Path


class CpuClock:
    """Counts CPU seconds from its creation on, on top of what earlier parts of the run have used.

    Work that was lost by a kill (after the last checkpoint) is not counted, as its steps are done again.
    """

    def __init__(self, used: float = 0.0) -> None:
        self._offset = used - _cpu_seconds()

    def seconds(self) -> float:
        """Return the CPU seconds (user and system) used by the run up to now."""
        return self._offset + _cpu_seconds()


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(_process_seconds(child.pid) for child in multiprocessing.active_children())
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def _process_seconds(pid: int | None) -> float:
    """Return the CPU seconds of a running child; 0 where there is no /proc (then it counts when it ends)."""
    try:
        # Fields 14 and 15 (user, system) counted from 1; the name in field 2 may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

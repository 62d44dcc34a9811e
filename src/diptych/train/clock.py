"""CPU seconds of a run: the process and its workers, summed over resumes."""

import resource
import time


class CpuClock:
    """Counts CPU seconds from its creation on, on top of what earlier parts of the run have used.

    Work that was lost by a kill (after the last checkpoint) is not counted, as its steps are done again.
    """

    def __init__(self, used: float = 0.0) -> None:
        self._offset = used - _cpu_seconds()

    def seconds(self, workers: float = 0.0) -> float:
        """Return the CPU seconds (user and system) used by the run up to now.

        Args:
            workers: CPU seconds of processes that still run; the system only tells those of processes that
            ended.
        """
        return self._offset + _cpu_seconds() + workers


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime

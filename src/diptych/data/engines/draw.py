"""Drawing tasks one by one, until there are no more or something went wrong."""

from collections.abc import Iterable

from diptych.data.engines import Task


class Draw:
    """Tasks as they are needed. An error in drawing ends it like the last task, and is raised at the end.

    Args:
        tasks: where they come from.

    Attributes:
        ended: no more tasks come.
        stopped: a task failed.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self._error: Exception | None = None
        self.ended = self.stopped = False

    def next(self) -> Task | None:
        """Return the next task, or None."""
        if self.ended:
            return None
        try:
            task = next(self._tasks, None)
        except Exception as error:
            task, self._error = None, error
        self.ended = task is None
        return task

    def fail(self, error: Exception) -> None:
        """End it with the error of a task: no other one is to begin. The first error counts."""
        self._error, self.ended, self.stopped = self._error or error, True, True

    def conclude(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error

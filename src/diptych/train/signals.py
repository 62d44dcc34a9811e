"""Ending a run when the terminal or the system asks for it, without losing a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from diptych.errors import RunError


class StoppedError(RunError):
    """A signal stopped training after a step and a checkpoint; exit status 128 + its number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class Signals:
    """While open, SIGINT and SIGTERM only leave a note in `received`; a second SIGINT interrupts at once.

    Outside the main thread it does nothing: Python handles signals there only.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal, or 0."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

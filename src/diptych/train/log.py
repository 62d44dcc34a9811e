"""What a run says: log.txt, the trackers of its figures, and a progress bar or lines on stderr."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diptych.train.trackers import Tracker

logger = logging.getLogger("diptych")


class RunLog:
    """The logs of one run. Use it as a context manager.

    Args:
        folder: the run directory.
        show: whether anything is printed.
        trackers: what takes the rows of figures.

    Everything that goes to the `diptych` logger while it is open lands in log.txt with the time of day. On a
    terminal
    stderr shows a progress bar, and messages above it; otherwise one line per `train.log_every` steps.
    """

    def __init__(self, folder: Path, *, show: bool, trackers: Sequence[Tracker] = ()) -> None:
        self._folder = folder
        self._show = show
        self._display = _Display() if show and sys.stderr.isatty() else None
        self._trackers = trackers
        self._handlers: list[logging.Handler] = []
        self._level = logging.NOTSET

    def __enter__(self) -> Self:
        file = logging.FileHandler(self._folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handlers = [file]
        if self._show:
            screen = _Screen(self._display)
            screen.addFilter(lambda record: not getattr(record, "file_only", False))
            self._handlers.append(screen)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        for handler in self._handlers:
            logger.addHandler(handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
        for handler in self._handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(self._level)
        for tracker in self._trackers:
            tracker.close(failed=error is not None)

    def say(self, text: str) -> None:
        """Write a line to log.txt and to the screen."""
        logger.info(text)

    def record(self, text: str) -> None:
        """Write a line to log.txt only."""
        logger.info(text, extra={"file_only": True})

    def row(self, row: Mapping[str, Any], summary: str) -> None:
        """Give a row of figures to the trackers; say `summary` where there is no bar."""
        for tracker in self._trackers:
            tracker.row(row)
        logger.info(summary, extra={"file_only": self._display is not None})

    def moved(self, progress: float, step: int, loss: str) -> None:
        """Move the progress bar, if there is one."""
        if self._display is not None:
            self._display.move(progress, step, loss)


class _Display:
    """A rich bar: progress, step, rate, loss, time used and left."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        columns = (
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("", total=1.0, detail="")
        self._since: tuple[float, int] | None = None

    def move(self, progress: float, step: int, loss: str) -> None:
        """Show how far the run is; the first call starts the bar."""
        now = time.monotonic()
        if self._since is None:
            self._since = (now, step)
            self._bar.start()
            self._bar.reset(self._task, completed=int(progress), total=1.0)
        elapsed = now - self._since[0]
        rate = f"{(step - self._since[1]) / elapsed:.1f}/s" if elapsed > 0 else ""
        self._bar.update(self._task, completed=progress, detail=f"step {step} {rate} {loss}".strip())

    def stop(self) -> None:
        """Take the bar away."""
        if self._since is not None:
            self._bar.stop()


class _Screen(logging.Handler):
    """Prints messages on stderr, above the bar if there is one."""

    def __init__(self, display: _Display | None) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        if self._display is not None:
            self._display.console.print(prefix + record.getMessage())
        else:
            sys.stderr.write(f"{prefix}{record.getMessage()}\n")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return whole seconds as h:mm:ss."""
    return str(timedelta(seconds=max(0, round(seconds))))

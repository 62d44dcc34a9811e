"""A training run in a second process, beside the one that the user watches."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from diptych.errors import RunError

PR_SET_PDEATHSIG = 1
PATIENCE = 60.0
"""Seconds that a stopped run gets for its checkpoint."""


class Companion:
    """`diptych train` as a child process; it ends with its parent and resumes the next time."""

    def __init__(self, recipe: str, settings: Sequence[str], run_dir: Path, log: Path) -> None:
        """Start the run; what it prints goes to `log`."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "diptych", "train", recipe, *settings, "--run-dir", str(run_dir)]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def finish(self) -> None:
        """Wait until the run is done.

        Raises:
            RunError: it failed; the message holds the last line that it printed.
        """
        status = self.process.wait()
        if status:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it printed nothing"
            raise RunError(
                f"the run beside this one ended with status {status}: {last} (all of it: {self.log})"
            )

    def stop(self) -> None:
        """Ask a run that still goes on to write its checkpoint and leave."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _end_with_parent() -> None:
    """Let the kernel end the child with its parent: an orphan would keep the run directory locked."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

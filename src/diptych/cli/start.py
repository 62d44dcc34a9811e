"""The first and the last moments of a command. Importing this is cheap: what takes longest begins at once."""

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.data.engines.origin import Origin

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells count."""
_NEEDLESS = frozenset({"-h", "--help", "--workers=1", "ray", "--engine=ray"})
"""Arguments with which there are no workers of this machine."""


def main() -> None:
    """Run the command line of this process, and end it: entry point of the console script."""
    arguments = sys.argv[1:]
    try:
        with workers_ahead(arguments) as ahead:
            # Only now: what reads command lines takes longer to load than the process takes to begin.
            from diptych.cli.main import run

            status = run(arguments, ahead)
    except KeyboardInterrupt:
        status = INTERRUPTED
    leave(status)


def workers_ahead(arguments: Sequence[str]) -> "AbstractContextManager[Origin | None]":
    """Return what workers of the command line will be copied from: they load while it is being read.

    Args:
        arguments: of `diptych`; None comes of all that is no fetch with several workers. What is wrong in
            them, and that a list makes only one chunk, shows later.
    """
    if list(arguments[:2]) != ["data", "fetch"] or not _NEEDLESS.isdisjoint(arguments):
        return nullcontext()
    if ("--workers", "1") in pairwise(arguments):
        return nullcontext()
    from diptych.data.acquire.workers import FORMS, origin_of_workers

    return origin_of_workers(video=not {"video", "--media=video", *FORMS}.isdisjoint(arguments))


def leave(status: int) -> None:
    """End this process.

    Where nothing else runs in it, its memory goes back as a whole: taking all objects apart one by one costs
    a tenth of a second.

    Args:
        status: exit status.
    """
    if threading.active_count() > 1:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # Nobody listens any more (`| head`).
            status = status or 1
    os._exit(status)

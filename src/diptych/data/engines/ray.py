"""Tasks on a Ray cluster."""

import importlib.util
import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from diptych.data.engines import MAX_DEATHS, MAX_HELD, Function, Task, Told
from diptych.data.engines.draw import Draw
from diptych.data.engines.outcomes import Outcome, attempt_packed
from diptych.errors import DataError, UsageError

AHEAD = 2
"""Tasks beyond the cores of the cluster, so that a core that is done goes on at once."""

_PATIENCE = 10.0
"""Seconds within which a cluster answers."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class RayEngine:
    """Runs tasks on the Ray cluster that is running or that RAY_ADDRESS names, else on one begun here.

    Paths are all that tasks have in common: what they read and write must lie on a file system that all
    machines of the cluster share.

    Args:
        workers: tasks at a time, each on one core; None: as many as there are cores.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UsageError("the engine 'ray' needs the package ray: pip install 'diptych[ray]'")
        self._workers = workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: tasks need no processes that are made for them."""

    def run(
        self, function: Function, tasks: Iterable[Task], told: Told | None = None
    ) -> Iterator[tuple[str, Any]]:
        """See `Engine`; how far tasks are is told when they are finished."""
        import ray

        begun_here = not ray.is_initialized()
        if begun_here:
            _join(self._workers)
        flights: dict[Any, tuple[Task, int]] = {}
        try:
            yield from self._run(function, Draw(tasks), told, flights)
        finally:
            for reference in flights:
                with suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=True)
            if begun_here:
                ray.shutdown()

    def _run(
        self,
        function: Function,
        draw: Draw,
        told: Told | None,
        flights: dict[Any, tuple[Task, int]],
    ) -> Iterator[tuple[str, Any]]:
        import ray

        remote = ray.remote(max_retries=MAX_DEATHS - 1, num_cpus=1)(_attempt)
        held = 0
        while True:
            room = len(flights) < self._at_a_time() and (held < MAX_HELD or not flights)
            task = draw.next() if room else None
            if task is not None:
                packed = pickle.dumps(task.work, pickle.HIGHEST_PROTOCOL)
                held += len(packed)
                # What is left of the task is its name; the work lies in Ray's store until it is done.
                flights[remote.remote(function, packed)] = (Task(task.name, None, task.samples), len(packed))
                continue
            if not flights:
                break
            finished, _ = ray.wait(list(flights), num_returns=1)
            for reference in finished:
                task, size = flights.pop(reference)
                held -= size
                try:
                    result = _outcome(task, reference).get()
                except Exception as error:
                    draw.fail(error)
                    continue
                if told:
                    told(task.name, task.samples)
                yield task.name, result
        draw.conclude()

    def _at_a_time(self) -> int:
        # Asked every time: clusters grow and shrink.
        return self._workers or _cores() + AHEAD


def _cores() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def _join(workers: int | None) -> None:
    """Connect to a cluster, or begin one on this machine for as long as this process lasts."""
    import ray

    named = os.environ.get("RAY_ADDRESS")
    try:
        if named:
            _knock(named)
        ray.init(named or "auto", **_QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        if named:
            raise UsageError(f"RAY_ADDRESS={named}: no Ray cluster answers there ({error})") from error
        ray.init("local", num_cpus=workers, include_dashboard=False, **_QUIET)


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at `host:port`: Ray itself takes minutes to notice."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), _PATIENCE).close()


def _attempt(function: Function, packed: bytes) -> Outcome:
    return attempt_packed(function, packed, lambda done, at: None)


def _outcome(task: Task, reference: Any) -> Outcome:
    import ray

    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{task.name}: its worker processes died {MAX_DEATHS} times: {reason}; what is finished stays: "
            "give tasks more memory, or take the sample out of the raw files, then run the same command again"
        ) from error
    return outcome

"""Engines run tasks in other processes: those of this machine, or those of a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from diptych.errors import UsageError
from diptych.resolve import nearest

if TYPE_CHECKING:
    from diptych.data.engines.origin import Origin

Tell = Callable[[int, str], None]
"""A task calls it with how many samples it has done, and what comes next (a key, for messages)."""
Function = Callable[[Any, Tell], Any]
"""Does a task; a function of a module. Returns what can be pickled. Done twice, it must do the same."""
Told = Callable[[str, int], None]
"""Called with the name of a task and how many of its samples are done."""

MAX_DEATHS = 3
"""Processes that may die of a task before it is given up."""
MAX_HELD = 2**30
"""Bytes of tasks that are kept for processes, above which no further task is drawn."""


@dataclass(frozen=True)
class Task:
    """A piece of work."""

    name: str
    """For messages and results."""
    work: Any
    """What the function gets; can be pickled."""
    samples: int
    """Samples in it, for progress."""


class Engine(Protocol):
    """Runs tasks. As a context manager it makes its processes ready at once, while others go on here."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(
        self, function: Function, tasks: Iterable[Task], told: Told | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Do the tasks and yield name and result of each as it is finished, in any order.

        Tasks are drawn as they are needed, so their number does not matter. After an error (of a task, or in
        drawing one) no further task is begun; those under way are finished first. A process that dies costs
        nothing but time: its task is given to another one.

        Args:
            function: does a task.
            tasks: what is to be done.
            told: told how far tasks are.

        Raises:
            DiptychError: a task raised it (the message is kept, the class where it is known).
            DataError: the processes of a task died `MAX_DEATHS` times.
            TaskError: a task raised something else.
        """
        ...


ENGINES = ("local", "ray")


def make_engine(
    name: str, workers: int | None = None, load: Sequence[str] = (), origin: "Origin | None" = None
) -> Engine:
    """Return an engine.

    Args:
        name: `local`, or `ray` for a Ray cluster: the one that is running or RAY_ADDRESS names, else a new
            one on this machine.
        workers: tasks at a time; None: one for each core.
        load: modules that tasks will need, where processes can load them ahead.
        origin: of local processes, if it has been begun before.

    Raises:
        UsageError: there is no such engine, it is not installed, or `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected at least 1, got {workers}")
    if name == "local":
        from diptych.data.engines.local import LocalEngine

        return LocalEngine(workers, load, origin)
    if name == "ray":
        from diptych.data.engines.ray import RayEngine

        return RayEngine(workers)
    raise UsageError(f"unknown engine '{name}'{nearest(name, ENGINES)} (known: {', '.join(ENGINES)})")

"""Actions that ranks do as one: either all of them succeed, or every rank learns which one failed and why."""

import pickle
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from diptych.blocks.collective import ALONE, World
from diptych.train.files import causes, first_line, out_of_room

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Exception)

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others here: the slowest may be writing its share of a large checkpoint.

The end of a process is noticed at once (its connections break); this only bounds a process that hangs.
"""


@dataclass(frozen=True)
class Failure:
    """What went wrong on a rank."""

    rank: int
    host: str
    error: Exception


class RankError(Exception):
    """An action failed on a rank; raised on every rank."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"rank {failure.rank} on {failure.host}: {first_line(failure.error)}")
        self.failure = failure


class Together:
    """The ranks of a `World`, for actions on files. Every rank calls the same methods in the same order.

    One process: the action is simply done, and its exception wrapped like anybody's.

    Args:
        world: who takes part.
        apart: talk through a process group of its own, on the CPU, so that the calls may come from a thread
            beside the training loop. Made at the first call, which has to be on the main thread.
    """

    def __init__(self, world: World = ALONE, *, apart: bool = False) -> None:
        self.world = world
        self._apart = apart
        self._group: Any = None

    def connect(self) -> None:
        """Make the group of its own, where one is wanted and not there yet."""
        if self._apart and self._group is None and self.world.size > 1:
            ranks = dist.get_process_group_ranks(self.world.group)
            self._group = dist.new_group(ranks, backend="gloo", timeout=PATIENCE)

    def main(self, action: Callable[[], T]) -> T:
        """Let rank 0 act; every rank gets its result, or its exception as it is.

        Raises:
            Exception: whatever the action raised on rank 0.
        """
        try:
            return self.all(lambda: None, lambda _: action())
        except RankError as failed:
            raise agreed(failed.failure.error) from failed.__cause__

    def all(self, action: Callable[[], T], join: Callable[[list[T]], R]) -> R:
        """Let every rank act, then let rank 0 join the results; every rank gets what that returns.

        Args:
            action: its result must be picklable.
            join: called on rank 0 with the results in the order of ranks.

        Raises:
            RankError: the action failed on a rank, or joining did on rank 0.
        """
        gathered = self._gather(self._tried(action))
        joined = [self._joined(gathered, join)] if self.world.is_main else [None]
        if self.world.size > 1:
            dist.broadcast_object_list(joined, src=self._main, group=self._within)
        result: R = _result(joined[0])
        return result

    def deal(self, action: Callable[[], T], join: Callable[[list[T]], Sequence[R]]) -> R:
        """Let every rank act, then let rank 0 make one thing for each rank of the results.

        Raises:
            RankError: the action failed on a rank, or joining did on rank 0.
        """
        gathered = self._gather(self._tried(action))
        hand: list[Any] = []
        mine: list[Any] = [None]
        if self.world.is_main:
            joined = self._joined(gathered, join)
            hand = [joined] * self.world.size if isinstance(joined, Failure) else list(joined)
        if self.world.size > 1:
            dist.scatter_object_list(mine, hand or None, src=self._main, group=self._within)
        result: R = _result((hand if self.world.size == 1 else mine)[0])
        return result

    def _tried(self, action: Callable[[], T]) -> T | Failure:
        try:
            return action()
        except Exception as error:  # nothing is lost: every rank raises it again
            return Failure(self.world.rank, socket.gethostname(), self._portable(error))

    def _gather(self, result: Any) -> list[Any]:
        if self.world.size == 1:
            return [result]
        self.connect()
        results = [None] * self.world.size if self.world.is_main else None
        dist.gather_object(result, results, dst=self._main, group=self._within)
        return results or []

    def _joined(self, gathered: list[Any], join: Callable[[list[Any]], R]) -> R | Failure:
        failures = [result for result in gathered if isinstance(result, Failure)]
        return failures[0] if failures else self._tried(lambda: join(gathered))

    @property
    def _within(self) -> Any:
        return self._group if self._group is not None else self.world.group

    @property
    def _main(self) -> int:
        return dist.get_global_rank(self._within, 0) if self._within is not None else 0

    def _portable(self, error: Exception) -> Exception:
        """Return an exception that survives the way to other ranks, where its causes are lost."""
        if self.world.size == 1:
            return error
        if out_of_room(error) and not isinstance(error, OSError):
            error = next(e for e in causes(error) if isinstance(e, OSError) and out_of_room(e))
        try:
            return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else _plain(error)
        except Exception:  # of any kind: classes decide themselves how they are pickled
            return _plain(error)


def agreed(error: E) -> E:
    """Mark an exception that every rank raises, so that its message need not say which rank it is of."""
    vars(error)["agreed"] = True
    return error


def is_agreed(error: BaseException) -> bool:
    """Whether every rank raises this exception."""
    return bool(getattr(error, "agreed", False))


def _plain(error: Exception) -> Exception:
    return RuntimeError(f"{type(error).__name__}: {first_line(error)}")


def _result(result: Any) -> Any:
    if isinstance(result, Failure):
        raise RankError(result) from result.error
    return result

"""How a task went, in a form that any process can hand to another one."""

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from diptych.data.engines import Function, Tell
from diptych.data.files import WriteError
from diptych.errors import DataError, DiptychError, UsageError

_KNOWN: dict[str, type[DiptychError]] = {kind.__name__: kind for kind in (WriteError, DataError, UsageError)}
"""Errors that keep their class; the others become `DataError`."""


class TaskError(Exception):
    """A task raised what is no `DiptychError`, a defect; its traceback is the message."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    result: Any = None
    kind: str = ""
    """Class of the error, empty if there was none."""
    message: str = ""

    def get(self) -> Any:
        """Return the result, or raise the error."""
        if not self.kind:
            return self.result
        raise _KNOWN.get(self.kind, TaskError)(self.message)


def attempt_packed(function: Function, packed: bytes, tell: Tell) -> Outcome:
    """Do a task whose work is pickled: what is in it must be importable here."""
    try:
        return Outcome(function(pickle.loads(packed), tell))
    except DiptychError as error:
        kind = next((name for name, known in _KNOWN.items() if isinstance(error, known)), "DataError")
        return Outcome(None, kind, str(error))
    except Exception:
        return Outcome(None, TaskError.__name__, f"in a worker process:\n{traceback.format_exc()}")

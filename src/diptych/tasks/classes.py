"""The classes that a model chooses from: where their list comes from, and which class a label means."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.data.targets.build import build
from diptych.data.targets.target_set import NAMES_FILE, TargetSet
from diptych.errors import DataError, UsageError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

UNKNOWN = -1
"""Class of a sample without a label."""
_NAMED = 5


class Classes:
    """A list of classes, each with one name or several.

    Attributes:
        names: synonyms of each class, the principal one first.
    """

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        self.names = [list(synonyms) for synonyms in names]
        self._by_name: dict[str, int] = {}
        # Principal names before synonyms, and the first class where two have one name.
        for place in range(max(map(len, self.names), default=0)):
            for number, synonyms in enumerate(self.names):
                if place < len(synonyms):
                    self._by_name.setdefault(synonyms[place], number)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, label: Any, column: str = "label") -> int:
        """Return the class that a label means, `UNKNOWN` for none.

        Raises:
            DataError: it is no number or name of these classes.
        """
        if label is None or label == -1:
            return UNKNOWN
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self):
            return label
        if isinstance(label, str) and label in self._by_name:
            return self._by_name[label]
        raise DataError(
            f"column '{column}' says {label!r}, which is none of {len(self)} classes "
            f"(0 to {len(self) - 1}, or names such as {', '.join(repr(n[0]) for n in self.names[:3])}); "
            "set task.target and task.label"
        )


def read_classes(what: str, key: str = "task.target") -> list[list[str]]:
    """Return the names that `task.target` stands for.

    Raises:
        UsageError: nothing is called so.
        DataError: a file that cannot be read, or holds something else.
    """
    path = Path(what)
    if "#" in what:
        return _of_column(what, key)
    if (path / NAMES_FILE).exists():
        found = TargetSet.load(path)
    else:
        try:
            sets = build(what)
        except UsageError as error:
            raise UsageError(f"{key} = {what}: {error}") from error
        if len(sets) > 1:
            raise UsageError(f"{key} = {what}: is {len(sets)} sets; name one ({sets[0].name}, ...)")
        found = sets[0]
    return checked_classes([list(names) for names in found.classes], f"{key} = {what}")


def _of_column(what: str, key: str) -> list[list[str]]:
    """Return what a column of a dataset says: `PATH#COLUMN` or `PATH:SPLIT#COLUMN`."""
    from diptych.data.index import ShardDataset

    place, _, column = what.rpartition("#")
    path, split = (
        (place, None) if Path(place).exists() else (place.rpartition(":")[0], place.rpartition(":")[2])
    )
    try:
        return labels_seen([ShardDataset.open(path).select(split, None)], column)
    except DataError as error:
        raise DataError(f"{key} = {what}: {error}") from error


def checked_classes(content: Any, where: str) -> list[list[str]]:
    """Return the content if it is a list of lists of names.

    Raises:
        DataError: it is not.
    """
    good = isinstance(content, list) and len(content) > 0
    if not good or not all(
        isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        for names in content
    ):
        raise DataError(f"{where}: expected names of each class, of one class at least")
    return [list(names) for names in content]


def labels_seen(selections: "Iterable[Selection]", column: str) -> list[list[str]]:
    """Return the labels that samples have, by alphabet, as classes.

    Raises:
        DataError: there are none, or they are numbers without names.
    """
    found: set[Any] = set()
    for selection in selections:
        if column not in selection.columns:
            raise DataError(
                f"task.label = {column}: {selection.dataset.root} has no such column "
                f"(it has: {', '.join(selection.columns)}); set task.label"
            )
        values = selection.column(column)
        found.update(value for value in (values if isinstance(values, list) else values.tolist()))
    found.discard(None)
    if not found or not all(isinstance(value, str) for value in found):
        shown = ", ".join(map(repr, sorted(found, key=str)[:_NAMED])) or "nothing"
        raise DataError(
            f"task.target = auto: column '{column}' says {shown}, which are no names; set task.target to a "
            "list of names, in the order of the numbers"
        )
    return [[name] for name in sorted(found)]

"""What cards of pictures and videos in classes share: class numbers, keys, endings, the order of a draw."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import LeftOut
from diptych.data.members import clean_key, is_key
from diptych.data.shards import KeySet
from diptych.errors import DataError, UsageError

MISSING_PICTURE = "missing picture"
MISSING_VIDEO = "missing video"
BAD_ENTRY = "bad entry"
REPEATED_ENTRY = "repeated entry"

_LONGEST = 150
_SHOWN = 20
_NO_LETTER = re.compile(r"[\W_]+")


def needed(card: str, raw: Path | None) -> Path:
    """Return the raw folder.

    Raises:
        UsageError: there is none.
    """
    if raw is None:
        raise UsageError(f"card '{card}' needs its raw files: give their folder with --raw")
    return raw


def ending(name: str) -> str:
    """Return the extension that a medium of this name is stored under; `jpg` for all spellings of JPEG."""
    found = PurePosixPath(name).suffix[1:].lower()
    return "jpg" if found in ("jpeg", "jpe") else found


def stem(name: str) -> str:
    """Return the name of a file without folders and ending."""
    return PurePosixPath(name).stem


def squeezed(text: str) -> str:
    """Return a text with single blanks for white space, and none around it."""
    return " ".join(text.split())


def bad_entry(where: str, expected: str, got: object) -> LeftOut:
    """Return what is counted for an entry of a list that cannot be used."""
    shown = str(got)
    return LeftOut(
        BAD_ENTRY, where, f"expected {expected}, got {shown if len(shown) <= 100 else shown[:100] + '...'}"
    )


class Classes:
    """The classes of a dataset, from its full list, whatever is there of it.

    Names are compared by their letters and digits alone: folders have underscores, plus signs or nothing
    where the names have blanks, parentheses or an apostrophe.

    Args:
        card: name of the card, for messages.
        names: of the classes in their order.
        also: further names -> class.
    """

    def __init__(self, card: str, names: Sequence[str], also: Mapping[str, int] | None = None) -> None:
        self.names, self._card = tuple(names), card
        self._exact = {name: i for i, name in enumerate(names)} | dict(also or {})
        self._folded = {fold(name): i for name, i in self._exact.items()}

    def find(self, name: str) -> int | None:
        """Return the class of a name, or None."""
        exact = self._exact.get(name)
        return self._folded.get(fold(name)) if exact is None else exact

    def check(self, found: Iterable[str], where: object) -> None:
        """Refuse names that are none.

        Raises:
            DataError: there are such names; the message lists them.
        """
        unknown = sorted({name for name in found if self.find(name) is None})
        if unknown:
            shown = ", ".join(f"'{name}'" for name in unknown[:_SHOWN])
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            raise DataError(
                f"{where}: {len(unknown)} names are no class of card '{self._card}': {shown}{more}; "
                f"rename or remove them (`diptych targets show {self._card}` lists the classes)"
            )

    def meta(self, name: str) -> dict[str, Any]:
        """Return the entries `label` and `class_name` of a name that `check` accepts."""
        label = self.find(name)
        if label is None:
            self.check([name], self._card)
            raise AssertionError(name)
        return {"label": label, "class_name": self.names[label]}


def fold(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return _NO_LETTER.sub("", name).casefold()


class MediaKeys:
    """Makes keys from the names of media: as they stand where possible, else cleaned and with a hash."""

    def __init__(self) -> None:
        self._taken = KeySet()

    def make(self, name: str, place: str = "") -> str:
        """Return the key of a medium.

        Args:
            name: without folders and ending.
            place: tells media of equal names apart, for example the folder.
        """
        key = name if is_key(name) and len(name) <= _LONGEST else _hashed(name, name)
        if place and key in self._taken:
            key = _hashed(name, f"{place}/{name}")
        self._taken.add(key)
        return key


def _hashed(name: str, text: str) -> str:
    return f"{clean_key(name)[:_LONGEST]}_{_digest(text)[:8]}".lstrip("_")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def draw_order(names: Sequence[str], label: str, seed: int) -> Callable[[str], dict[str, int]]:
    """Return a function from a name to its place in a random order of its class.

    The entries `draw` (place, from 0) and `drawn_of` make few-shot selections: the published one keeps
    `int(drawn_of * fraction) + 1` media of each class.

    Args:
        names: of the media of a class, all different.
        label: name of the class.
        seed: of the order.
    """
    order = sorted(names, key=lambda name: _digest(f"{seed}/{label}/{name}"))
    places = {name: i for i, name in enumerate(order)}
    return lambda name: {"draw": places[name], "drawn_of": len(places)}


def few_shot(percent: int) -> str:
    """Return the condition that selects `percent` of the training media of each class, and one."""
    return f"split = 'train' and draw < drawn_of * {percent} // 100 + 1"

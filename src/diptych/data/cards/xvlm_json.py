"""What the cards of fine-tuning annotations share: lists in JSON beside folders of pictures.

A list has one entry for each caption, question or statement; entries about one picture become one sample.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import LeftOut, Split
from diptych.data.cards.options import Options, names_of
from diptych.data.members import PICTURES, clean_key
from diptych.data.raw.refs import FileRef
from diptych.errors import DataError, UsageError

SPLITS = {
    "train": Split("split = 'train'", note="`-o train=`"),
    "val": Split("split = 'val'", note="`-o val=`"),
    "test": Split("split = 'test'", note="`-o test=`"),
}
LISTS = {
    "train": "annotation files of the split, under --raw (or with their whole path), with commas",
    "val": "the same",
    "test": "the same",
}
"""Options that all these cards have."""
EXAMPLE = {"train": "train.json", "val": "val.json", "test": "test.json"}
"""What these options may look like; one of them is enough."""
MISSING = "missing picture"

_HASH = 8
_LONGEST = 150
"""Letters that a key keeps of the names of pictures."""


def check_options(card: str, options: Mapping[str, str], known: Mapping[str, str]) -> Options:
    """Return the options of one of these cards.

    Raises:
        UsageError: an option that the card does not have, or no annotation file at all.
    """
    given = Options(card, options, known)
    if not any(given.text(split) for split in SPLITS):
        raise UsageError(f"card '{card}': no annotations; name a file with -o train=, -o val= or -o test=")
    return given


class Entries:
    """The entries of an annotation file, checked as they are used.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read or holds no list of objects.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = read_json(path)
        if not isinstance(self._content, list):
            raise DataError(f"{path}: expected a list of entries, got {type(self._content).__name__}")
        self._number = -1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, entry in enumerate(self._content):
            self._number = number
            if not isinstance(entry, dict):
                raise self.wrong("an object", entry)
            yield entry

    def wrong(self, expected: str, got: object) -> DataError:
        """Return the error for the current entry."""
        shown = json.dumps(got, ensure_ascii=False)
        shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
        return DataError(f"{self._path}: entry {self._number}: expected {expected}, got {shown}")

    def text(self, entry: Mapping[str, Any], *names: str) -> str:
        """Return the first of these fields that is there, a text that is not empty."""
        value = next((entry[name] for name in names if name in entry), None)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"a text in '{names[0]}'", value)
        return value

    def number_or_text(self, entry: Mapping[str, Any], name: str) -> str | int:
        """Return a field that is a text or a whole number."""
        value = entry.get(name)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.wrong(f"a text or a whole number in '{name}'", value)
        return value

    def texts(self, entry: Mapping[str, Any], name: str) -> list[str]:
        """Return a field that is a text or a list of texts as a list."""
        value = entry.get(name)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise self.wrong(f"a text or a list of texts in '{name}'", value)
        return found


def files_of(given: Options, raw: Path) -> Iterator[tuple[str, Path]]:
    """Yield split and path of each annotation file, in the order of the splits."""
    for split in SPLITS:
        for name in names_of(given.text(split)):
            yield split, raw / name


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON in UTF-8: {error}") from error


def find_picture(folder: Path, name: str) -> tuple[str, FileRef] | None:
    """Return extension and place of a picture; None if it is not there, or not below the folder."""
    path = folder / name
    # A list that somebody else wrote does not choose among all files of the machine.
    if ".." in PurePosixPath(name).parts or not path.is_relative_to(folder):
        return None
    try:
        if not path.is_file():
            return None
        size = path.stat().st_size
    except (OSError, ValueError):
        return None
    extension = PurePosixPath(name).suffix[1:].lower()
    # The content says what it is; the name is for people.
    return (extension if extension in PICTURES else "jpg"), FileRef(path, size)


def missing(key: str, detail: str) -> LeftOut:
    """Return what is counted for a picture that cannot be read."""
    return LeftOut(MISSING, key, detail)


class Keys:
    """Makes keys of samples: `<split>_<name of the picture>`, with a hash where two names would be alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def make(self, split: str, *names: str) -> str:
        """Return a key for a sample of a split with pictures of these names; another one for each call."""
        stems = "_".join(posixpath.splitext(name)[0] for name in names)
        readable = clean_key(f"{split}_{stems}")
        key, attempt = readable, 0
        while key in self._taken or len(key) > _LONGEST + _HASH + 1:
            digest = hashlib.sha256("\0".join([split, *names, str(attempt)]).encode()).hexdigest()[:_HASH]
            key, attempt = f"{readable[:_LONGEST]}_{digest}", attempt + 1
        self._taken.add(key)
        return key

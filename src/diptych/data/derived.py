"""Files that are made once from an index, beside it or in the user's cache folder."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from diptych.data.files import sync
from diptych.data.locking import locked
from diptych.errors import DataError

FOLDER = ".diptych"
"""Where what Diptych derives from a dataset lies, beside it."""
LOCK = "lock"


def user_cache() -> Path:
    """Return Diptych's folder among the user's caches; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "diptych"


def cache_home(path: Path) -> Path:
    """Return the folder in the user's cache for what is derived from the dataset or tar `path`."""
    return user_cache() / "index" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]


def writable(folder: Path) -> bool:
    """Make a folder where it is missing, and tell whether files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def derived_file(
    homes: Sequence[Path], name: str, make: Callable[[Path], None], good: Callable[[Path], bool]
) -> Path:
    """Return the file `name` in the first of the folders where it is good; make it where none has it.

    Processes that want the same file wait for the first to make it.

    Args:
        homes: folders, the best first.
        name: the file's.
        make: writes it to the path that it is given.
        good: tells whether a file that is there can be used.

    Raises:
        DataError: no folder can be written, or what `make` raises.
    """
    for home in homes:
        if good(home / name):
            return home / name
    home = _first_writable(homes, name)
    with locked(home / LOCK):
        if not good(home / name):
            with tempfile.TemporaryDirectory(dir=home, prefix="parts-") as folder:
                made = Path(folder) / name
                make(made)
                sync(made)
                made.rename(home / name)
    return home / name


def _first_writable(homes: Sequence[Path], name: str) -> Path:
    for home in homes:
        if writable(home):
            return home
    tried = " nor ".join(str(home) for home in homes)
    raise DataError(f"no place for {name}: neither {tried} can be written; make one of them writable")

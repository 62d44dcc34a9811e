"""The lists of addresses that dataset owners publish, each read in its own form: `url_list("cc3m", raw)`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.data.raw.listed import Listed
from diptych.errors import UsageError
from diptych.resolve import look_up

LISTS = {
    "sbu": "diptych.data.raw.list_sbu:sbu",
    "cc3m": "diptych.data.raw.list_cc:cc3m",
    "cc12m": "diptych.data.raw.list_cc:cc12m",
    "yfcc15m": "diptych.data.raw.list_yfcc:yfcc15m",
    "webvid": "diptych.data.raw.list_video:webvid",
    "internvid": "diptych.data.raw.list_video:internvid",
    "didemo": "diptych.data.raw.list_video:didemo",
}
"""Dataset -> function that yields the rows of its list."""
FILES = {
    "webvid": "diptych.data.raw.list_video:webvid_file",
    "internvid": "diptych.data.raw.list_video:internvid_file",
}
"""Dataset -> function that yields the rows of one file of its list, whatever the file is called."""


def listed(name: str, raw: Path) -> Iterator[Listed]:
    """Yield the rows of a dataset's published list, damaged ones included (`problem` says why).

    Args:
        name: the dataset, one of `LISTS`.
        raw: folder with the list under the name that its owners gave it.

    Raises:
        UsageError: there is no such dataset.
        DataError: the list is not there, or as a whole of another form.
    """
    rows: Iterator[Listed] = look_up(LISTS, name, "list of addresses")(raw)
    return rows


def listed_file(name: str, path: Path) -> Iterator[Listed]:
    """Yield the rows of one file of a dataset's list; see `listed`.

    Raises:
        UsageError: the lists of this dataset are not read one by one.
        DataError: the file is not there, or of another form.
    """
    if name in LISTS and name not in FILES:
        raise UsageError(f"{path}: the list of {name} is read as a whole; give the folder that has it")
    rows: Iterator[Listed] = look_up(FILES if name in FILES else LISTS, name, "list of addresses")(path)
    return rows


def url_list(name: str, raw: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows as dictionaries, see `Listed.as_row`; arguments and errors as in `listed`.

    A row whose address cannot be used has the reason in `problem`.
    """
    return (row.as_row() for row in listed(name, raw))

"""Writing files so that a kill at any moment leaves either the old content or the new."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
"""Operating system errors that mean "no room": disk full, file size limit, quota."""


def write_text(path: Path, content: str) -> None:
    """Write a file aside, sync it, and rename it into place."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object by `write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> dict[str, int]:
    """Sync every file and folder below `folder`; return relative path -> size in bytes of the files."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    sync_folder(folder)
    return sizes


def out_of_room(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the disk is full or a size limit is reached."""
    return any(isinstance(cause, OSError) and cause.errno in FULL for cause in causes(error))


def causes(error: BaseException) -> list[BaseException]:
    """Return an exception and all that it came from, nearest first."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is not None and current not in found:
            found.append(current)
            waiting += [current.__cause__, current.__context__]
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

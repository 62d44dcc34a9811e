"""A video on its way to the disk: checked by its first bytes, bounded in size and time, never held whole."""

import hashlib
import os
import stat
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

from diptych.data.acquire.client import SPEED_AFTER, Client, check_head
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.problems import FetchError, MediumProblemError
from diptych.data.files import cannot_write
from diptych.data.raw.video import HEAD, container_of

ACCEPT = "video/*,application/octet-stream;q=0.9,*/*;q=0.5"

_OTHER_TYPES = ("text/html", "application/json", "application/pdf", "application/xhtml", "image/")
"""Types of content that are no videos for certain; the body is not fetched."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Saved:
    """A video that lies on the disk."""

    path: Path
    size: int
    sha256: str
    """Hex, of its content."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What a page tells about it: `info`, `subtitles`."""


async def save(client: Client, url: str, seconds: float, path: Path, options: NetOptions) -> Saved:
    """Fetch an address once, straight into a file.

    Args:
        client: makes the request.
        url: http or https.
        seconds: for everything.
        path: the file; what is there is replaced.
        options: limits.

    Raises:
        FetchError: anything that can go wrong; also `not a video` as soon as its first bytes tell.
        WriteError: the disk is full.
    """

    async def receive(response: aiohttp.ClientResponse, _: str) -> Saved:
        check_head(response, options, options.max_bytes, _OTHER_TYPES)
        try:
            file = path.open("wb")
        except OSError as error:
            raise cannot_write(path, error) from error
        with file:
            return await _body(response, _Sink(file, path, options.max_bytes), options)

    return await client.ask(url, seconds, receive, ACCEPT)


async def _body(response: aiohttp.ClientResponse, sink: "_Sink", options: NetOptions) -> Saved:
    unpack = _unpacker(response.headers.get("Content-Encoding", ""))
    started, came = time.monotonic(), 0
    while part := await response.content.readany():
        came += len(part)
        seconds = time.monotonic() - started
        if options.min_speed and seconds > SPEED_AFTER and came < options.min_speed * seconds:
            raise FetchError("too slow", f"{came} bytes came in {seconds:.0f} s")
        if unpack is None:
            sink.write(part)
            continue
        try:
            while part:
                sink.write(unpack.decompress(part, _PIECE))
                part = unpack.unconsumed_tail
        except zlib.error as error:
            raise FetchError("protocol", f"the body is not packed as it says: {error}") from error
    return sink.end()


def _unpacker(coding: str) -> Any:
    """Return what undoes gzip or deflate, which nobody asked for."""
    coding = coding.strip().lower()
    if coding in ("", "identity", "none", "utf-8"):
        return None
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError("protocol", f"the body is encoded as {coding}, which was not asked for")
    return zlib.decompressobj(47 if "gzip" in coding else 15)


class _Sink:
    """Takes the bytes of a video, as long as they can be of one."""

    def __init__(self, file: BinaryIO, path: Path, most: int) -> None:
        self._file, self._path, self._most = file, path, most
        self._digest, self._size, self._head = hashlib.sha256(), 0, b""

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            raise FetchError("too large", f"more than {self._most} bytes came")
        if len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
            if len(self._head) == HEAD:
                check_start(self._head)
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def end(self) -> Saved:
        if not self._size:
            raise FetchError("empty", "the body is empty")
        if self._size < HEAD:
            check_start(self._head)
        return Saved(self._path, self._size, self._digest.hexdigest())


def check_start(head: bytes) -> None:
    """Refuse what does not begin like a video.

    Raises:
        MediumProblemError: `not a video`.
    """
    if container_of(head):
        return
    start = head.lstrip()[:20]
    what = (
        "a web page" if start[:1] == b"<" else "a play list" if start.startswith(b"#EXTM3U") else "no video"
    )
    raise MediumProblemError("not a video", f"{what}; it starts with {start!r}")


def local_file(text: str, folder: str) -> Path:
    """Return the file of this machine that a row names, if the user allowed its folder.

    Args:
        text: absolute, or relative to the folder; also with `file://`.
        folder: what the user allowed; empty: nothing.

    Raises:
        FetchError: `refused file`, `missing file`.
    """
    if not folder:
        raise FetchError(
            "refused file", f"{text[:200]} is no web address; --files FOLDER allows files below a folder"
        )
    root = Path(folder).resolve()
    try:
        # Links are followed first: none of them may lead out of the folder.
        path = (root / text.removeprefix("file://")).resolve()
        if not path.is_relative_to(root):
            raise FetchError("refused file", f"{text[:200]} is not below {folder}")
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise FetchError("missing file", f"{text[:200]}: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(mode):
        raise FetchError("refused file", f"{text[:200]} is no plain file")
    return path


def take_local(path: Path, most: int) -> Saved:
    """Return a file of this machine as it lies there; nothing is copied.

    Raises:
        FetchError: `too large`, `empty`, `missing file`, `not a video`.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FetchError("too large", f"{size} bytes, at most {most} are taken")
            if not size:
                raise FetchError("empty", "the file is empty")
            check_start(file.read(HEAD))
            file.seek(0)
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise FetchError("missing file", f"{path}: {error.strerror or error}") from error
    return Saved(path, size, digest.hexdigest())

"""Files of a dataset that lies behind a URL: whole or in part, with retries, timeouts and clear errors."""

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from diptych.data.addresses import PRIVATE, public_socket
from diptych.data.config import RemoteConfig
from diptych.errors import ConfigError, DiptychError, RemoteError

LONGEST_WAIT = 60.0
"""Seconds between two tries, at most."""
_LOG = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_PASSING = (408, 425, 429)
"""Answers of a server to a client's fault that are none."""

_INHERITED: list[Any] = []
"""File systems that came with a fork: closing one waits for a thread that stayed behind."""

T = TypeVar("T")


class WrongContentError(Exception):
    """What came is not what was asked for; another try may help."""


class Source:
    """The files below a URL; each process connects for itself.

    Args:
        url: folder, in the form that fsspec takes (s3://, gs://, https://, memory://, file://, ...).
        config: retries, timeout, which addresses may be reached.
    """

    def __init__(self, url: str, config: RemoteConfig) -> None:
        if "::" in url or "?" in url or "#" in url:
            raise ConfigError(f"data.path: expected the URL of a folder without '::', '?' or '#', got {url}")
        self.url, self.config = url, config
        self._process, self._system = 0, None

    def place(self, name: str) -> str:
        """Return the URL of a file for messages, without a password."""
        return re.sub(r"://[^/@]*@", "://", f"{self.url}/{name}")

    def download(self, name: str, out: Path, check: Callable[[Path], None]) -> None:
        """Copy a file to `out`.

        Args:
            name: the file's name below the URL.
            out: path to write; removed where that fails.
            check: raises `WrongContentError` if the copy is not what was expected; it is made again then.

        Raises:
            RemoteError: it cannot be fetched.
        """

        def copy() -> None:
            self._connected().get_file(f"{self.url}/{name}", str(out))
            check(out)

        try:
            self._with_retries(name, copy)
        except BaseException:
            out.unlink(missing_ok=True)
            raise

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` of a file; fewer only where it ends early.

        Raises:
            RemoteError: it cannot be fetched, or the server does not give parts of files.
        """

        def part() -> bytes:
            data = self._connected().cat_file(f"{self.url}/{name}", start=offset, end=offset + size)
            return bytes(data)

        data = self._with_retries(name, part)
        if len(data) > size:
            raise RemoteError(
                f"{self.place(name)}: asked for {size} bytes, {len(data)} came: the server does not give "
                "parts of files; set data.remote.read=cache"
            )
        return data

    def read_whole(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            RemoteError: it cannot be fetched.
        """
        return self._with_retries(name, lambda: bytes(self._connected().cat_file(f"{self.url}/{name}")))

    def _with_retries(self, name: str, action: Callable[[], T]) -> T:
        for attempt in range(self.config.retries + 1):
            try:
                return action()
            except DiptychError:
                raise
            except Exception as error:  # file systems raise what their libraries raise
                problem = self._explain(name, error)
                if problem.final or attempt == self.config.retries:
                    tries = "" if problem.final else f" ({attempt + 1} tries)"
                    raise RemoteError(f"{problem.text}{tries}; {problem.advice}") from error
                wait = min(self.config.backoff * 2**attempt, LONGEST_WAIT)
                _LOG.warning("%s; trying again in %.3g s", problem.text, wait)
                # Ranks that failed together do not come back together.
                time.sleep(wait * random.SystemRandom().uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def _explain(self, name: str, error: Exception) -> "_Problem":
        place, text = self.place(name), _one_line(error)
        if isinstance(error, FileNotFoundError):
            return _Problem(f"{place} does not exist", "copy the whole dataset there", final=True)
        if PRIVATE in text:
            advice = "set data.remote.allow_private=true if you mean it"
            return _Problem(f"{place} is refused: {text}", advice, final=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            advice = "make room, set data.remote.cache to another folder or data.remote.cache_gb to less"
            return _Problem(f"{place} cannot be kept: {text}", advice, final=True)
        status = getattr(error, "status", None)
        refused = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING
        if refused or isinstance(error, PermissionError):
            return _Problem(f"{place} is not given out: {text}", "check address and credentials", final=True)
        return _Problem(f"{place} cannot be fetched: {text}", "check the connection", final=False)

    def _connected(self) -> Any:
        """Return the file system of this process: connections do not survive a fork."""
        if self._process != os.getpid():
            _INHERITED.append(self._system)
            self._system, self._process = _connect(self.url, self.config), os.getpid()
        return self._system

    def __reduce__(self) -> tuple[type["Source"], tuple[str, RemoteConfig]]:
        return Source, (self.url, self.config)


class _Problem:
    def __init__(self, text: str, advice: str, *, final: bool) -> None:
        self.text, self.advice, self.final = text, advice, final


def _connect(url: str, config: RemoteConfig) -> Any:
    scheme = url.partition("://")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme, skip_instance_cache=scheme != "memory", **_options(scheme, config))
    except ImportError as error:
        raise RemoteError(
            f"{scheme}:// needs a package that is not installed ({error}); "
            "pip install 'diptych[remote]', and s3fs for s3://, gcsfs for gs://"
        ) from error
    except ValueError as error:
        raise ConfigError(f"data.path: {url}: {_one_line(error)}") from error


def _options(scheme: str, config: RemoteConfig) -> dict[str, Any]:
    """Return what a file system takes for timeouts; credentials come from its own environment."""
    if scheme in ("http", "https"):
        return {"get_client": _client(config)}
    if scheme in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": config.timeout, "read_timeout": config.timeout}}
    if scheme in ("gs", "gcs"):
        return {"requests_timeout": config.timeout}
    return {}


def _client(config: RemoteConfig) -> Callable[..., Any]:
    """Return what makes an aiohttp session that reaches allowed addresses only, redirects included."""
    import aiohttp

    async def make(**settings: Any) -> Any:
        limits = aiohttp.ClientTimeout(total=None, connect=config.timeout, sock_read=config.timeout)
        guard = None if config.allow_private else public_socket
        connector = aiohttp.TCPConnector(socket_factory=guard)
        return aiohttp.ClientSession(connector=connector, timeout=limits, **settings)

    return make


def _one_line(error: BaseException) -> str:
    """Return what an error says; never empty."""
    # aiohttp's errors hold the system's, which says more.
    inner = getattr(error, "os_error", None) or error
    text = (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(error).__name__
    return " ".join(text.split())

"""Videos of platforms' pages through yt-dlp, which runs in processes of its own (`page_child`)."""

import asyncio
import hashlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from diptych.data.acquire.downloads import Saved, check_start
from diptych.data.acquire.options import NetOptions
from diptych.data.acquire.page_errors import page_error
from diptych.data.acquire.problems import FetchError
from diptych.data.acquire.subtitles import MOST_CHARACTERS, read_subtitles
from diptych.data.acquire.video_options import PageOptions, VideoOptions
from diptych.data.raw.video import HEAD, VIDEOS
from diptych.errors import DataError, UsageError

PLATFORMS = (
    *("youtube.com", "youtu.be", "youtube-nocookie.com", "vimeo.com", "dailymotion.com", "dai.ly"),
    *("tiktok.com", "bilibili.com", "twitch.tv", "facebook.com", "instagram.com", "twitter.com", "x.com"),
    *("flickr.com", "reddit.com", "rutube.ru", "vk.com", "ok.ru", "niconico.jp", "nicovideo.jp"),
)
"""Hosts (and all below them) whose addresses are pages, not files."""
LONGEST_LIFE = 50
"""Pages after which a process is replaced: what it has gathered goes."""

_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")
_START = "import sys; sys.path[:] = {path!r}; from diptych.data.acquire.page_child import main; main()"
_LIMIT = 1 << 20
_INSTALL = "install yt-dlp (pip install 'diptych[video]')"


def as_address(text: str) -> str:
    """Return an address; a bare id of YouTube becomes that of its page."""
    if _YOUTUBE.fullmatch(text):
        return f"https://www.youtube.com/watch?v={text}"
    return text


def is_page(url: str, extract: str) -> bool:
    """Tell whether an address is that of a page.

    Args:
        url: http or https.
        extract: see `PageOptions`.
    """
    if extract == "none":
        return False
    parts = urlsplit(url)
    ending = parts.path.rpartition("/")[2].rpartition(".")[2].lower()
    if ending in VIDEOS:
        return False
    host = (parts.hostname or "").lower()
    return extract == "all" or any(host == name or host.endswith(f".{name}") for name in PLATFORMS)


def check_sources(options: PageOptions, form: str) -> None:
    """Refuse options with which no video could ever come, before the list is read.

    Args:
        options: where videos come from besides the web.
        form: the published list.

    Raises:
        UsageError: a folder or file is missing, or yt-dlp for a list of pages.
    """
    if options.files and not Path(options.files).is_dir():
        raise UsageError(f"--files: {options.files} is no folder")
    if options.cookies and not Path(options.cookies).is_file():
        raise UsageError(f"--cookies: {options.cookies} is no file")
    if form == "internvid" and options.extract != "none" and not _is_installed():
        raise UsageError(f"the list of {form} has pages of a platform: {_INSTALL}")


def _is_installed() -> bool:
    return importlib.util.find_spec("yt_dlp") is not None


class Pages:
    """The processes of one worker. Use it as an asynchronous context manager.

    Args:
        options: where pages are asked for.
        videos: what is wanted.
        net: limits.
        scratch: folder for what each process needs.
    """

    def __init__(self, options: PageOptions, videos: VideoOptions, net: NetOptions, scratch: Path) -> None:
        self._options, self._net, self._scratch = options, net, scratch
        self._turns = asyncio.Semaphore(options.at_a_time)
        self._idle: list[_Child] = []
        self._started = 0
        self._config: dict[str, Any] = {
            "allow_private": net.allow_private,
            "format": _format(videos.height),
            "max_bytes": net.max_bytes,
            "read_timeout": net.read_timeout,
            "proxy": options.proxy,
            "sleep_requests": options.sleep_requests,
            "rate": options.rate,
            "subtitles": list(videos.subtitles),
            "automatic": videos.automatic,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            await self._idle.pop().stop()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a page may be asked for, and count as one during the block."""
        async with self._turns:
            yield

    async def save(self, url: str, seconds: float, folder: Path) -> Saved:
        """Fetch the video of a page into a folder.

        Args:
            url: of the page.
            seconds: for everything; then the process is killed.
            folder: an empty one.

        Raises:
            FetchError: anything that can go wrong.
        """
        if not _is_installed():
            raise FetchError("no yt-dlp", f"{url[:200]} is a page: {_INSTALL}")
        if self._options.sleep:
            await asyncio.sleep(min(self._options.sleep, seconds))
        try:
            async with asyncio.timeout(seconds):
                answer = await self._ask({"url": url, "folder": str(folder)})
        except TimeoutError as error:
            raise FetchError("timeout", f"not done after {seconds:.3g} s") from error
        if "error" in answer:
            text = str(answer["error"])
            if answer.get("cause") == "too large" or f"larger than {self._net.max_bytes}" in text:
                raise FetchError("too large", f"more than {self._net.max_bytes} bytes")
            raise page_error(text, int(answer["status"]), self._options.pause)
        return await asyncio.to_thread(_taken, folder, str(answer["file"]), self._net.max_bytes)

    async def _ask(self, task: dict[str, str]) -> dict[str, Any]:
        child = self._idle.pop() if self._idle else await self._start()
        try:
            answer = await child.ask(task)
        except BaseException:
            # Also after a timeout: what it does cannot be ended in another way.
            await child.stop()
            raise
        if child.asked < LONGEST_LIFE:
            self._idle.append(child)
        else:
            await child.stop()
        return answer

    async def _start(self) -> "_Child":
        cookies = ""
        if self._options.cookies:
            # yt-dlp writes into it; several processes at a time would spoil it.
            self._started += 1
            copy = self._scratch / f"cookies-{self._started}.txt"
            try:
                shutil.copyfile(self._options.cookies, copy)
            except OSError as error:
                raise DataError(
                    f"--cookies: {self._options.cookies} cannot be read: {error.strerror or error}"
                ) from error
            cookies = str(copy)
        return await _Child.start({**self._config, "cookies": cookies})


class _Child:
    """A process that fetches one page after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.asked = process, 0

    @classmethod
    async def start(cls, config: dict[str, Any]) -> "_Child":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _START.format(path=sys.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LIMIT,
        )
        child = cls(process)
        child._tell(config)
        return child

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def ask(self, task: dict[str, str]) -> dict[str, Any]:
        """Return its answer."""
        assert self._process.stdout is not None
        self.asked += 1
        self._tell(task)
        line = await self._process.stdout.readline()
        if not line:
            raise FetchError("page failed", "the process of yt-dlp ended", again=True)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        # Its pipes are closed with it, not whenever they are collected.
        self._process._transport.close()  # type: ignore[attr-defined]


def _format(height: int) -> str:
    """Return what yt-dlp is asked for: sound and pictures in one file, unless it can join two."""
    one = f"b[height<={height}][ext=mp4]/b[height<={height}]"
    if shutil.which("ffmpeg"):
        one += f"/bv*[height<={height}]+ba"
    return f"{one}/w/bv*[height<={height}]/wv*"


def _taken(folder: Path, name: str, most: int) -> Saved:
    path = folder / name
    try:
        size = path.stat().st_size
        if size > most:
            raise FetchError("too large", f"{size} bytes, at most {most} are kept")
        if not size:
            raise FetchError("empty", "the video is empty")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            check_start(file.read(HEAD))
            file.seek(0)
            while piece := file.read(1 << 20):
                digest.update(piece)
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        shown = {}
        for language, file_name in about["subtitles"].items():
            text = (folder / file_name).read_bytes()[: 4 * MOST_CHARACTERS].decode("utf-8", errors="replace")
            shown[language] = read_subtitles(text)
    except (OSError, ValueError, KeyError) as error:
        raise FetchError("page failed", f"what yt-dlp left cannot be read: {error}") from error
    return Saved(path, size, digest.hexdigest(), {"info": about["info"], "subtitles": shown})

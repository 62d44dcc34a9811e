"""The process in which yt-dlp runs: told what to fetch line by line, and killed when it takes too long.

What can be checked is checked where Python does it (an audit hook, for every thread and library): the address
of each connection, and that no other program is started with an address. The library that brings native code
for connections (curl_cffi) is kept out. What a program does that yt-dlp starts without an address (JavaScript
for some platforms, which yt-dlp runs without network) cannot be seen, and behind a proxy nothing can.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from diptych.data.addresses import PRIVATE, PrivateAddressError, refuse_private

STARTS = frozenset({"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn"})
"""What Python calls the start of a program."""
LEFT_OUT = frozenset(
    {
        *("formats", "requested_formats", "requested_downloads", "requested_subtitles", "thumbnails"),
        *("automatic_captions", "subtitles", "http_headers", "heatmap", "url", "fragments", "cookies"),
        *("manifest_url", "entries", "filename", "filepath", "downloader_options", "epoch"),
    }
)
"""What of a page's description is not kept: addresses that soon end, paths of this machine, the time."""
LONGEST = 20_000
"""Characters of a text, entries of a list that are kept."""


def main() -> None:
    """Answer each line of the input with one line; the first line tells the options."""
    with suppress(OSError, AttributeError):
        # Who is killed cannot say goodbye: then this process ends, too.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may come between the answers
    config = json.loads(sys.stdin.readline())
    guard(config)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = fetch(config, task)
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__, "status": status_of(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def guard(config: Mapping[str, Any]) -> None:
    """Keep this process from reaching what it must not; there is no way back."""
    sys.modules["curl_cffi"] = None  # type: ignore[assignment]
    sys.addaudithook(hook(config["allow_private"], _places_of(config["proxy"])))


def hook(allow_private: bool, proxy: frozenset[tuple[str, int]]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return what Python asks before it connects or starts something.

    Args:
        allow_private: do not look at addresses.
        proxy: places that may be reached all the same.
    """

    def look(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto") and not allow_private:
            place = args[1]
            if not isinstance(place, tuple):
                raise PrivateAddressError(f"{place} {PRIVATE}")
            if (place[0], place[1]) not in proxy:
                refuse_private(place[0])
        elif event in STARTS and "://" in repr(args[:2]):
            raise PermissionError("no other program may be started with an address")

    return look


def _places_of(proxy: str) -> frozenset[tuple[str, int]]:
    """Return the addresses and ports of a proxy that the user named."""
    if not proxy:
        return frozenset()
    from urllib.parse import urlsplit

    parts = urlsplit(proxy)
    usual = {"https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
    port = parts.port or usual.get(parts.scheme, 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    return frozenset((str(target[0]), int(target[1])) for *_, target in found)


def fetch(config: Mapping[str, Any], task: Mapping[str, str]) -> dict[str, Any]:
    """Fetch the video of one page into a folder and return the name of its file.

    Beside it come `about.json` and the subtitles.
    """
    import yt_dlp

    folder = Path(task["folder"])
    with yt_dlp.YoutubeDL(parameters(config, folder)) as downloader:
        info = downloader.extract_info(task["url"], download=True)
    while isinstance(info, dict) and info.get("entries") is not None:
        info = next((entry for entry in info["entries"] if entry), None)
    if not isinstance(info, dict):
        raise ValueError("no video on the page")
    paths = [Path(part["filepath"]) for part in info.get("requested_downloads") or () if part.get("filepath")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        # yt-dlp leaves out what is announced as too large, and says so only in words.
        return {"error": f"larger than {config['max_bytes']} bytes", "status": 0, "cause": "too large"}
    subtitles = {
        name: Path(entry["filepath"]).name
        for name, entry in (info.get("requested_subtitles") or {}).items()
        if entry.get("filepath")
    }
    about = {"info": tidy(info), "subtitles": subtitles}
    (folder / "about.json").write_text(json.dumps(about, default=str), encoding="utf-8")
    return {"file": path.name}


def parameters(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what yt-dlp is told."""
    most = config["max_bytes"]

    def progress(state: Mapping[str, Any]) -> None:
        if (state.get("downloaded_bytes") or 0) > most:
            raise ValueError(f"larger than {most} bytes")

    def refuse_live(info: Mapping[str, Any], *, incomplete: bool = False) -> None:
        if info.get("is_live"):
            raise ValueError("the video is live")

    found: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silent(),
        "format": config["format"],
        "outtmpl": {"default": str(folder / "video.%(ext)s")},
        "noplaylist": True,
        "playlist_items": "1",
        "max_filesize": most,
        "socket_timeout": config["read_timeout"],
        "retries": 0,
        "fragment_retries": 2,
        "extractor_retries": 1,
        # An empty text: none, whatever the environment says.
        "proxy": config["proxy"],
        "sleep_interval_requests": config["sleep_requests"],
        "cachedir": False,
        "nopart": True,
        "overwrites": True,
        "fixup": "never",
        "enable_file_urls": False,
        "hls_prefer_native": True,
        "external_downloader": {"default": "native"},
        "progress_hooks": [progress],
        "match_filter": refuse_live,
        "writesubtitles": bool(config["subtitles"]),
        "writeautomaticsub": bool(config["subtitles"]) and config["automatic"],
        "subtitleslangs": config["subtitles"],
        "subtitlesformat": "vtt/srt/best",
    }
    if config["cookies"]:
        found["cookiefile"] = config["cookies"]
    if config["rate"]:
        found["ratelimit"] = config["rate"]
    return found


def tidy(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a page's description: texts, numbers, and short lists of them."""
    kept: dict[str, Any] = {}
    for name, value in info.items():
        if name in LEFT_OUT or name.startswith("_"):
            continue
        if isinstance(value, str):
            kept[name] = value[:LONGEST]
        elif value is None or isinstance(value, bool | int | float):
            kept[name] = value
        elif isinstance(value, list) and len(value) <= LONGEST:
            plain = [entry for entry in value if isinstance(entry, str | int | float | dict)]
            if len(json.dumps(plain, default=str)) <= LONGEST:
                kept[name] = plain
    return kept


def status_of(error: BaseException | None) -> int:
    """Return the status of the server's answer that lies behind an error; 0: there is none."""
    for _ in range(8):
        if error is None:
            return 0
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
        held = getattr(error, "exc_info", None)
        inner = held[1] if isinstance(held, tuple) and len(held) > 1 else None
        following = inner or getattr(error, "cause", None) or error.__cause__
        error = following if following is not error else None
    return 0


class _Silent:
    """Takes yt-dlp's messages; errors are raised, too."""

    def debug(self, message: str) -> None:
        """Ignore it."""

    info = warning = error = debug


if __name__ == "__main__":
    main()

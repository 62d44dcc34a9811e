"""What a user may set about fetching videos: what is stored, where videos come from, and their limits."""

import math
from dataclasses import dataclass, replace
from typing import Any

from diptych.data.acquire.options import NetOptions
from diptych.errors import UsageError
from diptych.resolve import nearest

PRECISIONS = ("exact", "keyframe")
SOUND = ("keep", "drop")
EXTRACT = ("platforms", "all", "none")
NET: dict[str, Any] = {
    "connections": 8,
    "per_host": 8,
    "timeout": 600.0,
    "row_timeout": 1800.0,
    "max_bytes": 2 * 2**30,
}
"""Limits of the network for videos, where they differ from those for pictures."""


def video_net(**changed: Any) -> NetOptions:
    """Return the limits of the network for videos, with changes."""
    return replace(NetOptions(**NET), **changed)


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What is stored of a video."""

    precision: str = "exact"
    """How clips are cut: `exact` encodes the frames in [start, end) anew; `keyframe` copies from the keyframe
    before on."""
    fps: float = 0.0
    """Frames a second, at most; 0: as they are."""
    short_side: int = 0
    """Pixels of the shorter side, at most; 0: as it is."""
    audio: str = "keep"
    """`keep` or `drop` the sound."""
    max_seconds: float = 0.0
    """Longer videos or clips are left out; 0: none."""
    min_seconds: float = 0.0
    """Shorter videos or clips are left out."""
    cut_timeout: float = 300.0
    """Seconds that one clip may take to be made."""
    height: int = 360
    """Pages: lines of the format that is asked for, at most, where there is a choice."""
    subtitles: tuple[str, ...] = ()
    """Pages: languages of the subtitles that are kept."""
    automatic: bool = False
    """Pages: also subtitles that the platform made by machine."""

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("audio", self.audio, SOUND)
        for name in ("fps", "short_side", "max_seconds", "min_seconds"):
            _at_least(name, getattr(self, name), 0)
        _at_least("height", self.height, 1)
        if not 0 < self.cut_timeout < math.inf:
            raise UsageError(f"--cut-timeout: expected seconds above 0, got {self.cut_timeout}")


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where videos come from besides the web; none of this is written into the dataset."""

    files: str = ""
    """Folder below which a list may name files of this machine; empty: it may not."""
    extract: str = "platforms"
    """Which addresses are those of pages, for yt-dlp: those of known `platforms`, `all` that do not end like
    a video file, or `none`."""
    cookies: str = ""
    """File with cookies, in Netscape's format."""
    proxy: str = ""
    """Address of a proxy for pages; empty: none, whatever the environment says."""
    sleep: float = 0.0
    """Seconds before each page."""
    sleep_requests: float = 0.0
    """Seconds between the requests for one page."""
    rate: int = 0
    """Bytes a second of one download; 0: no limit."""
    at_a_time: int = 1
    """Pages at a time in one worker process."""
    pause: float = 60.0
    """Seconds for which a platform is left alone after it asked for it (429) or took us for a robot."""

    def __post_init__(self) -> None:
        _one_of("extract", self.extract, EXTRACT)
        for name in ("sleep", "sleep_requests", "rate", "pause"):
            _at_least(name, getattr(self, name), 0)
        _at_least("at_a_time", self.at_a_time, 1)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise UsageError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"--{name}: unknown value '{value}'{nearest(value, known)} (known: {', '.join(known)})"
        )

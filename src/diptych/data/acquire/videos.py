"""What is stored of a video that lies on the disk: the file as it is, or a clip of it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from diptych.data.acquire.lists import ListRow
from diptych.data.acquire.media import Medium
from diptych.data.acquire.problems import MediumProblemError
from diptych.data.acquire.subtitles import within
from diptych.data.acquire.video_options import VideoOptions
from diptych.data.members import Facts
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.refs import MediumError
from diptych.data.raw.video import HEAD, VideoFacts, ending_of, probe_video


class CutTimeoutError(Exception):
    """A clip took too long."""


@dataclass(frozen=True, slots=True)
class TimedRef:
    """A file whose reading ends at a moment: what is made of it cannot go on for ever."""

    path: Path
    until: float
    """By the clock of `time.monotonic`."""

    @property
    def size(self) -> int | None:
        """Not told."""
        return None

    def read(self) -> bytes:
        """Return the content."""
        return self.path.read_bytes()

    def open(self) -> BinaryIO:
        """Return the file."""
        return cast(BinaryIO, _Timed(self.path.open("rb"), self.until))

    def __str__(self) -> str:
        return "video"


class _Timed:
    """A file to be read until a moment."""

    def __init__(self, file: BinaryIO, until: float) -> None:
        self._file, self._until = file, until

    def read(self, size: int = -1) -> bytes:
        if time.monotonic() > self._until:
            raise CutTimeoutError
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Timed":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def examine(path: Path) -> VideoFacts:
    """Return what a video is.

    Raises:
        MediumProblemError: it is none, or damaged.
    """
    try:
        return probe_video(path)
    except MediumError as error:
        raise MediumProblemError(error.cause, error.detail) from error


def make(
    path: Path, found: VideoFacts, row: ListRow, options: VideoOptions, about: Mapping[str, Any]
) -> Medium:
    """Return what is stored for a row.

    Args:
        path: the whole video.
        found: what it is.
        row: which part is wanted.
        options: how it is stored.
        about: what its page tells, see `Saved`.

    Raises:
        MediumProblemError: clip past the end, too long, it takes too long, ...
    """
    start, end = row.start or 0.0, math.inf if row.end is None else row.end
    whole = start <= 0 and end == math.inf
    _check_length(min(end, found.duration) - start, found.duration, options)
    clip = ClipRef(
        TimedRef(path, time.monotonic() + options.cut_timeout),
        start,
        end,
        # Nothing is lost by copying where all frames are wanted.
        "keyframe" if whole else cast(Literal["exact", "keyframe"], options.precision),
        options.fps if 0 < options.fps < found.fps else None,
        options.short_side if 0 < options.short_side < min(found.width, found.height) else None,
        sound=options.audio == "keep",
    )
    members: dict[str, bytes | Path]
    if whole and not clip.fps and not clip.short_side and (clip.sound or not found.audio):
        with path.open("rb") as file:
            members = {ending_of(file.read(HEAD)) or "mp4": path}
        facts = found
    else:
        members, facts = _cut(clip, options)
    meta: dict[str, Any] = {
        "width": facts.width,
        "height": facts.height,
        "original_width": found.width,
        "original_height": found.height,
        "original_duration": found.duration,
        "original_fps": found.fps,
        "yt_meta_dict": dict(about) or None,
    }
    if not whole:
        last = min(end, found.duration) if end == math.inf else end
        meta |= {"clips": [[start, last]], "clip_start": start, "clip_end": last}
        if about.get("subtitles"):
            meta["clip_subtitles"] = {
                name: within(shown, start, last) for name, shown in about["subtitles"].items()
            }
    return Medium(members, _facts(facts), meta)


def _check_length(wanted: float, whole: float, options: VideoOptions) -> None:
    if options.max_seconds and wanted > options.max_seconds:
        raise MediumProblemError(
            "video too long", f"{wanted:g} s, at most {options.max_seconds:g} are stored"
        )
    if wanted < options.min_seconds and wanted > 0:
        detail = f"{wanted:g} s of {whole:g}, at least {options.min_seconds:g} are stored"
        raise MediumProblemError("video too short", detail)


def _cut(clip: ClipRef, options: VideoOptions) -> tuple[dict[str, bytes | Path], VideoFacts]:
    try:
        data = clip.read()
        return {"mp4": data}, probe_video(data)
    except MediumError as error:
        raise MediumProblemError(error.cause, error.detail) from error
    except CutTimeoutError as error:
        detail = f"not cut after {options.cut_timeout:g} s; --cut-timeout gives more"
        raise MediumProblemError("cutting timeout", detail) from error


def _facts(found: VideoFacts) -> Facts:
    return Facts(found.width, found.height, found.frames, found.duration, found.fps, found.audio)

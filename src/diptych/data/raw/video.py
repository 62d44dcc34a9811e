"""What a video file is, from its content: container, size, length, frames, sound.

A file chooses nothing here: the container is told from its first bytes and FFmpeg is held to it, so a play
list or a list of other files (which FFmpeg would follow, to other files and to the network) is no video.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from diptych.data.raw.refs import MediumError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEOS: Mapping[str, str] = {
    "mp4": "mov",
    "m4v": "mov",
    "mov": "mov",
    "3gp": "mov",
    "webm": "matroska",
    "mkv": "matroska",
    "avi": "avi",
    "flv": "flv",
    "ts": "mpegts",
    "mpg": "mpeg",
    "mpeg": "mpeg",
    "ogv": "ogg",
    "wmv": "asf",
    "asf": "asf",
}
"""Ending of a name -> the container that is expected, as FFmpeg calls it."""
MAX_PIXELS = 89_478_485
"""Pixels of a frame, at most, as for pictures."""
HEAD = 1024
"""Bytes at the start of a file that tell its container."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid")
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"jxl ", b"crx ")
_TRANSPORT = 188
_OF_HEADERS = frozenset({"mov"})
"""Containers whose header tells number and times of the frames; in others the frames are counted."""
_TELLING = frozenset({"mov"})
"""Containers whose header tells size and codec of the pictures, and how far they are out of order."""
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video without decoding more than its first frame."""

    container: str
    """As FFmpeg calls it: mov (MP4 too), matroska (WebM too), avi, ..."""
    codec: str
    width: int
    """Pixels, as a player shows it."""
    height: int
    duration: float
    """Seconds of pictures, from the first frame to the end of the last."""
    frames: int
    fps: float
    """Frames a second, on average."""
    rotation: int
    """Degrees clockwise (0, 90, 180, 270) by which players turn the stored frames; width and height are
    those after it."""
    audio: bool


def container_of(head: bytes) -> str:
    """Return the container that the first bytes (`HEAD` or more) are of, as FFmpeg calls it; else nothing."""
    if head[4:8] in _BOXES:
        return "" if head[8:12] in _PICTURE_BRANDS else "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    starts = {b"FLV": "flv", b"OggS": "ogg", b"\x30\x26\xb2\x75": "asf", b"\0\0\1\xba": "mpeg"}
    found = next((name for start, name in starts.items() if head.startswith(start)), "")
    if found:
        return found
    is_transport = len(head) > 2 * _TRANSPORT and all(head[n * _TRANSPORT] == 0x47 for n in range(3))
    return "mpegts" if is_transport else ""


def ending_of(head: bytes) -> str:
    """Return the ending that suits a video of this content; empty if it is none."""
    container = container_of(head)
    if container == "mov":
        return "mov" if head[4:8] != b"ftyp" or head[8:12] == b"qt  " else "mp4"
    if container == "matroska":
        return "webm" if b"webm" in head[:64] else "mkv"
    return {"mpeg": "mpg", "mpegts": "ts", "ogg": "ogv", "asf": "wmv"}.get(container, container)


def probe_video(source: bytes | Path) -> VideoFacts:
    """Return what a video is; its first frame is decoded, the others are at most counted.

    Args:
        source: the content, or the file.

    Raises:
        MediumError: `unreadable video`, `truncated video` or `no video stream`.
    """
    with open_video(source) as container:
        return _facts(container)


@contextmanager
def open_video(source: bytes | Path | BinaryIO, *, quick: bool = False) -> "Iterator[InputContainer]":
    """Open a video for FFmpeg, errors of which become MediumErrors until it is closed.

    Args:
        source: the content, the file or an open file.
        quick: believe the headers of containers that tell all about their streams, where FFmpeg would decode
            the first frames to be sure: saves a twentieth of the time that a short video takes.

    Raises:
        MediumError: it is no video, or damaged.
    """
    import av

    file = _file(source)
    try:
        file.seek(0)
        head = file.read(HEAD)
        name = container_of(head)
        if not name:
            raise MediumError("unreadable video", _no_video(head))
        if name == "mov":
            _check_boxes(file)
        file.seek(0)
        options = {"skip_frame": "all"} if quick and name in _TELLING else {}
        with av.open(file, "r", format=name, metadata_errors="replace", options=options) as container:
            yield container
    except av.FFmpegError as error:
        raise MediumError("unreadable video", error.strerror or str(error)) from error
    except (OSError, ValueError) as error:
        raise MediumError("unreadable video", str(error)) from error
    finally:
        if file is not source:
            file.close()


def _file(source: bytes | Path | BinaryIO) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, Path):
        return source
    try:
        return source.open("rb")
    except OSError as error:
        raise MediumError("unreadable video", f"{source}: {error.strerror or error}") from error


def _no_video(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.lstrip()[:1] == b"<":
        return f"a web page, no video; it starts with {head[:20]!r}"
    return f"no known video format; it starts with {head[:12]!r}"


def _check_boxes(file: BinaryIO) -> None:
    """Refuse an MP4 that is cut off: FFmpeg would show what is there and be silent about the rest."""
    end, at = file.seek(0, io.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size == 0:
            return  # to the end of the file
        # Odd bytes behind the last box are common and harmless; what is announced and missing is not.
        if at + size > end and head[4:8] in (b"mdat", b"moov", b"moof"):
            raise MediumError("truncated video", f"{end} bytes of {at + size}")
        if size < 8:
            return
        at += size


def _facts(container: "InputContainer") -> VideoFacts:
    stream = first_video(container)
    first = next(container.decode(stream), None)
    if first is None:
        raise MediumError("unreadable video", "no frame can be decoded")
    rotation = turned(first)
    frames, duration = _from_header(container, stream)
    if not frames:
        container.seek(0, backward=True, any_frame=False)
        frames, duration = _count(container, stream)
    width, height = first.width, first.height
    return VideoFacts(
        container=container.format.name.partition(",")[0],
        codec=stream.codec_context.codec.canonical_name,
        width=height if rotation in (90, 270) else width,
        height=width if rotation in (90, 270) else height,
        duration=round(float(duration), 6),
        frames=frames,
        fps=round(float(frames / duration), 6) if duration else 0.0,
        rotation=rotation,
        audio=any(stream.type == "audio" for stream in container.streams),
    )


def first_video(container: "InputContainer") -> "VideoStream":
    """Return the video stream that players show; cover pictures of music do not count.

    Raises:
        MediumError: there is none, or its frames are too large to be decoded.
    """
    for stream in container.streams.video:
        if stream.codec_context is None or _is_cover(stream):
            continue
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise MediumError("video too large", f"{width} x {height} pixels, at most {MAX_PIXELS} are read")
        # Threads that wait for frames ahead cost more than they bring here: processes work side by side.
        stream.codec_context.thread_count = 1
        return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no stream at all"
    raise MediumError("no video stream", f"only {kinds}")


def turned(frame: "VideoFrame") -> int:
    """Return by how many degrees clockwise players turn a frame: 0, 90, 180, 270; other angles count as 0."""
    rotation = -round(frame.rotation) % 360
    return rotation if rotation % 90 == 0 else 0


def _is_cover(stream: "VideoStream") -> bool:
    return "attached_pic" in str(stream.disposition)


def _from_header(container: "InputContainer", stream: "VideoStream") -> tuple[int, Fraction]:
    """Return frames and seconds as the header tells them; 0 where it does not."""
    name = container.format.name.partition(",")[0]
    if name not in _OF_HEADERS or not stream.frames or not stream.duration or stream.time_base is None:
        return 0, Fraction(0)
    return stream.frames, stream.duration * stream.time_base


def _count(container: "InputContainer", stream: "VideoStream") -> tuple[int, Fraction]:
    """Return frames and seconds by going through the packets, without decoding them."""
    frames, first, last, length = 0, None, None, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        frames += 1
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None:
            continue
        first = at if first is None else min(first, at)
        if last is None or at >= last:
            last, length = at, packet.duration or 0
    if not frames:
        raise MediumError("unreadable video", "no frame in it")
    rate = stream.average_rate or stream.guessed_rate
    if first is None or last is None or stream.time_base is None:
        return frames, frames / rate if rate else Fraction(0)
    span = (last - first) * stream.time_base
    if length:
        return frames, span + length * stream.time_base
    # The last frame is shown as long as the others are on average.
    return frames, span + (span / (frames - 1) if frames > 1 else 1 / rate if rate else Fraction(0))


def start_of(container: "InputContainer") -> Fraction:
    """Return the time stamp, in seconds, that players show as 0."""
    return Fraction(container.start_time or 0, _MICROSECONDS)

"""Parts of videos, cut out when they are read: a seek to the keyframe before, then only what is wanted.

Times are seconds as players show them. Equal sources and arguments give equal bytes with the same FFmpeg.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from diptych.data.raw.encode import COPIED_SOUND, SLACK, Encoder, Sampler
from diptych.data.raw.refs import MediumError, Ref, open_ref
from diptych.data.raw.video import first_video, open_video, start_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

_Item = tuple[str, Fraction, Any]
"""Kind of a stream (video, audio), time in seconds, frame or packet."""
_COPIED = frozenset({"h264", "hevc", "mpeg4", "vp9", "av1"})
"""Video codecs that an MP4 takes as they are; others are encoded again."""


@dataclass(frozen=True, slots=True)
class ClipRef:
    """The part [start, end) of a video, as an MP4; a `Ref` like others.

    `exact` decodes from the keyframe before `start`, keeps the frames whose time is in [start, end) and
    encodes them as H.264; a part between two frames is the one frame that is shown then. `keyframe` copies
    packets instead: fast and without loss, but the clip begins at the keyframe before `start` and may end a
    few frames late; what cannot be copied (VP8, no times, ...) is encoded. What lies behind the end of the
    video is not there.
    """

    source: Ref
    start: float = 0.0
    """Seconds; before the video's start means its start."""
    end: float = math.inf
    """Seconds."""
    precision: Literal["exact", "keyframe"] = "exact"
    fps: float | None = None
    """Frames a second, at most: frames are left out, never repeated."""
    short_side: int | None = None
    """Pixels of the shorter side, at most: never enlarged."""
    sound: bool = True
    """Keep the sound track, if there is one."""

    @property
    def size(self) -> int | None:
        """Nobody knows before."""
        return None

    def resample(self, fps: float | None = None, short_side: int | None = None) -> "ClipRef":
        """Return the same part with another frame rate or size."""
        return replace(self, fps=fps, short_side=short_side)

    def read(self) -> bytes:
        """Return the clip; see `Ref`. Memory is that of the clip and a few frames.

        Raises:
            MediumError: also `empty clip`, `clip past the end`, `unreadable video`, `truncated video`,
                `no video stream`.
        """
        if not self.end > max(self.start, 0.0):
            raise MediumError("empty clip", f"{self}: expected a start before the end")
        with open_ref(self.source) as opened:
            seekable = opened if opened.seekable() else io.BytesIO(self.source.read())
            try:
                return self._cut(seekable)
            except MediumError as error:
                raise MediumError(error.cause, f"{self}: {error.detail}") from error

    def _cut(self, file: BinaryIO) -> bytes:
        """Return the clip, made in the first of three ways that works for this file."""
        ways: list[Callable[[ClipRef, InputContainer, VideoStream, Any], bytes | None]] = []
        if self.precision == "keyframe" and not self.fps and not self.short_side:
            ways.append(_copy)
        if self.start > 0:
            ways.append(_encode_from_keyframe)
        for way in ways:
            with open_video(file) as container:
                made = way(self, container, first_video(container), self._sound_of(container))
            if made is not None:
                return made
        with open_video(file) as container:
            video, sound = first_video(container), self._sound_of(container)
            return _encode(self, video, sound, _decoded(self, container, video, sound))

    def _sound_of(self, container: "InputContainer") -> Any:
        """Return the first sound track of a codec that FFmpeg knows, or None."""
        known = (stream for stream in container.streams.audio if stream.codec_context is not None)
        return next(known, None) if self.sound else None

    def __str__(self) -> str:
        return f"{self.source} [{self.start:g} s, {self.end:g} s)"


def resample(source: Ref, fps: float | None = None, short_side: int | None = None) -> ClipRef:
    """Return a whole video with another frame rate or size, as a `ClipRef`."""
    return ClipRef(source, fps=fps, short_side=short_side)


def _encode_from_keyframe(
    clip: ClipRef, container: "InputContainer", video: "VideoStream", sound: Any
) -> bytes | None:
    """Return the clip; None where the seek went too far, as in containers without an index."""
    _seek(clip, container, video)
    items = _decoded(clip, container, video, sound)
    early: list[_Item] = []
    for item in items:
        early.append(item)
        if item[0] == "video":
            break
    if not early or early[-1][0] != "video" or early[-1][1] > _exact(clip.start) + SLACK:
        return None
    return _encode(clip, video, sound, chain(early, items))


def _encode(clip: ClipRef, video: "VideoStream", sound: Any, items: "Iterable[_Item]") -> bytes:
    start, end = _exact(max(clip.start, 0.0)), _exact(clip.end)
    fps = None if clip.fps is None else _exact(clip.fps)
    sampler = Sampler(start, end, fps)
    length = 1 / (video.average_rate or video.guessed_rate or Fraction(25))
    with closing(Encoder(video, sound, clip.short_side, fps)) as encoder:
        for kind, time, frame in items:
            if kind == "audio":
                if start - SLACK <= time < end - SLACK:
                    encoder.add_sound(time, frame)
                continue
            shown = frame.duration * frame.time_base if frame.duration else length
            for at, chosen in sampler.push(time, frame, shown):
                encoder.add_frame(at, chosen)
        for at, chosen in sampler.finish():
            encoder.add_frame(at, chosen)
        if not encoder.frames:
            raise _past(sampler.ends)
        return encoder.finish()


def _seek(clip: ClipRef, container: "InputContainer", video: "VideoStream") -> None:
    import av

    time, base = _exact(max(clip.start, 0.0)) + start_of(container), video.time_base or Fraction(1, 90_000)
    # Not every container can seek: then the first frame tells where it is.
    with suppress(av.FFmpegError, OSError):
        container.seek(math.floor(time / base), stream=video, backward=True)


def _decoded(
    clip: ClipRef, container: "InputContainer", video: "VideoStream", sound: Any
) -> "Iterator[_Item]":
    """Yield frames (of sound that is copied: packets) until all streams have passed the end of the clip."""
    zero, clock, end = start_of(container), Fraction(0), _exact(clip.end)
    rate = video.average_rate or video.guessed_rate or Fraction(25)
    waiting = {video.index} | ({sound.index} if sound is not None else set())
    for packet in container.demux([video] if sound is None else [video, sound]):
        kind, index = packet.stream.type, packet.stream.index
        for frame in _contents(packet):
            time = clock if frame.pts is None else frame.pts * frame.time_base - zero
            if kind == "video":
                clock = time + 1 / rate
            if time >= end - SLACK:
                waiting.discard(index)
            yield kind, time, frame
        if not waiting:
            return


def _contents(packet: Any) -> list[Any]:
    import av

    if packet.stream.type == "video":
        return list(packet.decode())
    if packet.stream.codec_context.codec.canonical_name in COPIED_SOUND:
        return [packet] if packet.size and packet.pts is not None else []
    try:
        return list(packet.decode())
    except av.InvalidDataError:
        return []  # a gap in the sound is no reason to lose the clip


def _copy(clip: ClipRef, container: "InputContainer", video: "VideoStream", sound: Any) -> bytes | None:
    """Return the clip made of copied packets; None where that is not possible."""
    import av

    if video.codec_context.codec.canonical_name not in _COPIED or video.time_base is None:
        return None
    if sound is not None and sound.codec_context.codec.canonical_name not in COPIED_SOUND:
        return None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        targets = {s.index: out.add_stream_from_template(s) for s in (video, sound) if s is not None}
        last = _copy_packets(clip, container, video, targets, out)
    if last is None:
        return None
    if last <= _exact(clip.start) + SLACK:
        raise _past(last)
    return file.getvalue()


def _copy_packets(
    clip: ClipRef,
    container: "InputContainer",
    video: "VideoStream",
    targets: "dict[int, Stream]",
    out: Any,
) -> Fraction | None:
    """Copy the packets of [start, end) and return when the last frame ends; None if they are not usable."""
    start, end = _exact(max(clip.start, 0.0)), _exact(clip.end)
    _seek(clip, container, video)
    zero, origin, last = start_of(container), None, Fraction(0)
    waiting = set(targets)
    for packet in container.demux([container.streams[index] for index in targets]):
        if not packet.size:
            continue
        if packet.pts is None or packet.dts is None or packet.time_base is None:
            return None
        shown, index = packet.pts * packet.time_base - zero, packet.stream.index
        is_video = index == video.index
        if origin is None and is_video and packet.is_keyframe:
            if shown > start + SLACK and start > 0:
                return None
            origin = shown
        if packet.dts * packet.time_base - zero >= end - SLACK:
            waiting.discard(index)
            if not waiting:
                break
            continue
        if origin is None or shown < origin - SLACK:
            continue  # frames that need what lies before the keyframe, sound before it
        if is_video:
            last = max(last, shown + (packet.duration or 0) * packet.time_base)
        moved = round((origin + zero) / packet.time_base)
        packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
        packet.stream = targets[index]
        out.mux(packet)
    return None if origin is None else last


def _past(end: Fraction) -> MediumError:
    return MediumError("clip past the end", f"the video ends at {float(end):g} s")


def _exact(number: float) -> Fraction:
    """Return a number as a fraction; what is endless becomes longer than any video."""
    return Fraction(number) if math.isfinite(number) else Fraction(1 << 40)

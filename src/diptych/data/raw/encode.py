"""Frames and sound into an MP4 of H.264, upright, in memory."""

import io
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.data.raw.video import turned

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SLACK = Fraction(1, 2000)
"""Seconds: lists round times, and some containers keep whole milliseconds."""

_CLOCK = Fraction(1, 90_000)
"""The usual frame rates are whole multiples of it."""
_OPTIONS = {"crf": "18", "preset": "veryfast", "g": "48", "threads": "1"}
"""Nearly without visible loss; a keyframe every two seconds or so. More threads would give other bytes."""
_TINY = 64
"""Pixels of a side below which x264's look ahead (mbtree) sees memory that nobody wrote."""
_SOUND, _RATE = "libopus", 48_000
"""What sound is encoded as where it cannot be copied."""
COPIED_SOUND = frozenset({"aac", "mp3", "opus", "ac3"})
"""Sound that an MP4 takes as it is."""

Timed = list[tuple[Fraction, Any]]


class Sampler:
    """Chooses the frames of [start, end): all of them, or those shown at start, start + 1/fps, ...

    Args:
        start: seconds.
        end: seconds.
        fps: frames a second, at most.
    """

    def __init__(self, start: Fraction, end: Fraction, fps: Fraction | None) -> None:
        self._start, self._end, self._fps = start, end, fps
        self._number, self._chosen = 0, False
        self._held: tuple[Fraction, Any] | None = None
        self._fresh = False
        self.ends = Fraction(0)
        """When the last frame that was pushed ends."""

    def push(self, time: Fraction, frame: "VideoFrame", shown: Fraction) -> Timed:
        """Take the next frame, shown from `time` on for `shown` seconds; return what is chosen by now."""
        if time >= self._end - SLACK:
            return []
        self.ends = max(self.ends, time + shown)
        if self._fps is not None:
            chosen = self._due(time)
            self._held, self._fresh = (time, frame), True
            return chosen
        if time < self._start - SLACK:
            self._held = time, frame
            return []
        self._chosen = True
        return [(time, frame)]

    def finish(self) -> Timed:
        """Return what is left: the frame that is shown last, or that which is shown all the time."""
        if self._held is None or self.ends <= self._start + SLACK:
            return []
        chosen = [] if self._fps is None else self._due(min(self.ends, self._end))
        if not self._chosen:
            chosen = [(max(self._start, self._held[0]), self._held[1])]
        return chosen

    def _due(self, until: Fraction) -> Timed:
        """Return the held frame if a moment of the grid before `until` falls on it."""
        if self._fps is None or self._held is None:
            return []
        chosen: Timed = []
        time, frame = self._held
        while (moment := self._start + self._number / self._fps) < until - SLACK:
            self._number += 1
            if self._fresh and time <= moment + SLACK:
                chosen, self._fresh, self._chosen = [(moment, frame)], False, True
        return chosen


class Encoder:
    """Writes one clip.

    Args:
        video: the stream that the frames come from.
        sound: the stream of the sound, or None.
        short_side: pixels of the shorter side, at most.
        fps: frames a second, at most.
    """

    def __init__(
        self, video: "VideoStream", sound: Any, short_side: int | None, fps: Fraction | None = None
    ) -> None:
        self._sound, self._short_side = sound, short_side
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        self._rate = rate if fps is None else min(rate, fps)
        self._file = io.BytesIO()
        self._out: Any = None
        self._shown: Any = None
        self._heard: Any = None
        self._resampler: Any = None
        self._early: list[tuple[Fraction, Any]] = []
        self._origin = Fraction(0)
        self._last = -1
        self._size = (0, 0)
        self.frames = 0
        """How many there are so far."""

    def add_frame(self, time: Fraction, frame: "VideoFrame") -> None:
        """Append a frame; the first one is at 0."""
        if self._out is None:
            self._open(time, frame)
        rotation = turned(frame)
        sideways = rotation in (90, 270)
        width, height = self._size[::-1] if sideways else self._size
        made = _upright(frame.reformat(width=width, height=height, format="yuv420p"), rotation)
        at = max(round((time - self._origin) / _CLOCK), self._last + 1)
        made.pts, made.time_base, self._last = at, _CLOCK, at
        made.pict_type = 0  # the encoder chooses the keyframes, not the source
        self._out.mux(self._shown.encode(made))
        self.frames += 1

    def add_sound(self, time: Fraction, piece: Any) -> None:
        """Append sound: a packet if its codec is one of COPIED_SOUND, else a frame.

        What comes before the first frame of the clip is left out.
        """
        if self._out is None:
            self._early.append((time, piece))
        elif self._heard is None or time < self._origin - SLACK:
            return
        elif self._resampler is None:
            self._copy_sound(max(time - self._origin, Fraction(0)), piece)
        else:
            piece.pts = max(0, round((time - self._origin) * piece.sample_rate))
            piece.time_base = Fraction(1, piece.sample_rate)
            for ready in self._resampler.resample(piece):
                self._out.mux(self._heard.encode(ready))

    def _copy_sound(self, time: Fraction, packet: "Packet[Any]") -> None:
        packet.pts = packet.dts = round(time / packet.time_base)
        packet.stream = self._heard
        self._out.mux(packet)

    def finish(self) -> bytes:
        """Return the clip."""
        self._out.mux(self._shown.encode(None))
        if self._resampler is not None:
            for ready in self._resampler.resample(None):
                self._out.mux(self._heard.encode(ready))
            self._out.mux(self._heard.encode(None))
        self.close()
        return self._file.getvalue()

    def close(self) -> None:
        """Close what is open."""
        if self._out is not None:
            self._out.close()
            self._out = None

    def _open(self, time: Fraction, first: "VideoFrame") -> None:
        import av

        self._origin, self._size = time, _fitting(first, self._short_side)
        self._out = av.open(self._file, "w", format="mp4", options={"fflags": "+bitexact"})
        options = _OPTIONS if min(self._size) >= _TINY else {**_OPTIONS, "x264-params": "mbtree=0"}
        self._shown = self._out.add_stream("libx264", rate=self._rate, options=options)
        self._shown.width, self._shown.height = self._size
        self._shown.pix_fmt = "yuv420p"
        context = self._shown.codec_context
        context.time_base = _CLOCK
        context.colorspace, context.color_range = first.colorspace, _range_of(first)
        if self._sound is not None:
            self._open_sound()
        early, self._early = self._early, []
        for at, frame in early:
            self.add_sound(at, frame)

    def _open_sound(self) -> None:
        import av

        context = self._sound.codec_context
        if context.codec.canonical_name in COPIED_SOUND:
            self._heard = self._out.add_stream_from_template(self._sound)
            return
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        self._heard = self._out.add_stream(_SOUND, rate=_RATE, layout=layout)
        self._resampler = av.AudioResampler(format="flt", layout=layout, rate=_RATE, frame_size=960)


def _fitting(frame: "VideoFrame", short_side: int | None) -> tuple[int, int]:
    """Return width and height of the clip, upright and even."""
    width, height = frame.width, frame.height
    if turned(frame) in (90, 270):
        width, height = height, width
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    """Return the even number next to a side: H.264 stores colours at half the size."""
    return max(2, 2 * math.floor(side / 2 + 0.5))


def _range_of(frame: "VideoFrame") -> int:
    """Return whether values reach from 0 to 255 (2) or not (1), after the frame became yuv420p."""
    return 1 if frame.format.name.startswith("yuvj") else int(frame.color_range)


def _upright(frame: "VideoFrame", rotation: int) -> "VideoFrame":
    """Return a frame of yuv420p turned clockwise."""
    if not rotation:
        return frame
    import av

    width, height = frame.width, frame.height
    if rotation in (90, 270):
        width, height = height, width
    made = av.VideoFrame(width, height, "yuv420p")
    for target, source in zip(made.planes, frame.planes, strict=True):
        stored = np.frombuffer(bytes(source), dtype=np.uint8).reshape(source.height, source.line_size)
        rows = np.zeros((target.height, target.line_size), dtype=np.uint8)
        rows[:, : target.width] = np.rot90(stored[:, : source.width], -rotation // 90)
        target.update(rows.tobytes())
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    return made

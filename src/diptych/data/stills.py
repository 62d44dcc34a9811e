"""Single frames of videos: whether the ends can be decoded, and the one in the middle as a picture."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from PIL import Image

from diptych.data.raw.refs import MediumError
from diptych.data.raw.video import first_video, open_video, probe_video, turned

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MICROSECONDS = 1_000_000
MAX_FRAMES = 5000
"""Frames that are decoded in search of one; key frames that lie further apart are not worth the time."""


def check_video(data: bytes) -> None:
    """Decode the first and the last frame of a video.

    Raises:
        MediumError: `unreadable video`, `truncated video`, `no video stream`, `video too large` or
            `damaged video` (its end cannot be decoded).
    """
    # The first frame, and what the header says.
    probe_video(data)
    with open_video(data) as container:
        stream = first_video(container)
        last = None
        for frame in _from(container, stream, Fraction(1)):
            last = frame
    if last is None:
        raise MediumError("damaged video", "its last frames cannot be decoded")
    if last.is_corrupt:
        raise MediumError("damaged video", f"the frame at {last.time:.3f} s is broken")


def middle_frame(data: bytes) -> Image.Image:
    """Return the frame in the middle of a video, upright.

    Raises:
        MediumError: it cannot be read, as `check_video`.
    """
    with open_video(data) as container:
        stream = first_video(container)
        start, length = _times(container, stream)
        base = stream.time_base or Fraction(1)
        wanted = start + length / 2
        found = None
        for number, frame in enumerate(_from(container, stream, Fraction(1, 2))):
            found = frame
            if number >= MAX_FRAMES or frame.pts is None or frame.pts * base >= wanted:
                break
        if found is None:
            raise MediumError("unreadable video", "no frame can be decoded")
        image = Image.fromarray(found.to_ndarray(format="rgb24"))
        return image.rotate(-turned(found), expand=True) if turned(found) else image


def _from(container: "InputContainer", stream: "VideoStream", part: Fraction) -> "Iterator[VideoFrame]":
    """Yield the frames from the key frame before a part (0 to 1) of the video on."""
    start, length = _times(container, stream)
    at = None
    if length and stream.time_base:
        at = round((start + part * length) / stream.time_base)
    frames = 0
    if at is not None:
        container.seek(at, stream=stream, backward=True)
        for frame in container.decode(stream):
            frames += 1
            yield frame
    if not frames:
        # Neither the length nor an index is known of everything: then from the beginning.
        container.seek(0, backward=True)
        yield from container.decode(stream)


def _times(container: "InputContainer", stream: "VideoStream") -> tuple[Fraction, Fraction]:
    """Return start and length in seconds; 0 where they are not known."""
    base = stream.time_base or Fraction(0)
    start = (stream.start_time or 0) * base
    if stream.duration:
        return start, stream.duration * base
    return start, Fraction(container.duration or 0, _MICROSECONDS)

"""Tiny pictures and videos for miniatures: plain colours that say which medium it is.

The colour survives JPEG, WebP and the usual video codecs, so a test can tell that the right bytes reached the
right caption.
"""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

COLOURS = 4096
"""Number of colours: ids are below it."""

_CHANNELS = 3
_BITS = 4
_STEP = 17
"""Difference of two levels of a channel: 16 levels from 0 to 255."""
_FORMATS = {"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM"}
_RATE = 44_100
_VIDEO_CODECS = {"webm": "libvpx", "avi": "mpeg4"}
_AUDIO_CODECS = {"webm": "libopus"}
_TRACK_MATRIX = 40
"""Bytes from the name of an MP4 track header (`tkhd`, version 0) to its matrix."""
_TURNED = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Degrees clockwise -> the numbers a, b, c, d of the matrix."""


def colour(colour_id: int) -> tuple[int, int, int]:
    """Return red, green and blue of an id; small ids are far apart.

    Raises:
        ValueError: the id is not in 0..4095.
    """
    if not 0 <= colour_id < COLOURS:
        raise ValueError(f"colour_id: expected 0 to {COLOURS - 1}, got {colour_id}")
    levels = [0] * _CHANNELS
    for bit in range(_CHANNELS * _BITS):
        # The lowest three bits become the highest one of red, green and blue.
        levels[bit % _CHANNELS] |= (colour_id >> bit & 1) << (_BITS - 1 - bit // _CHANNELS)
    red, green, blue = (_STEP * level for level in levels)
    return red, green, blue


def picture(colour_id: int, size: tuple[int, int] = (32, 24), format: str = "jpg") -> bytes:
    """Return a picture of one colour.

    Args:
        colour_id: 0 to 4095; see `colour_of`.
        size: width and height in pixels.
        format: ending of the name: jpg, jpeg, png, webp, gif, bmp, tif, ...
    """
    file = io.BytesIO()
    name = _FORMATS.get(format.lower(), format.upper())
    Image.new("RGB", size, colour(colour_id)).save(file, name, quality=95)
    return file.getvalue()


def video(
    colour_id: int,
    seconds: float = 2.0,
    fps: int = 8,
    size: tuple[int, int] = (32, 24),
    container: str = "mp4",
    audio: bool = False,
    rotation: int = 0,
) -> bytes:
    """Return a video of one colour.

    Args:
        colour_id: 0 to 4095; see `colour_of`.
        seconds: its length; at least one frame is written.
        fps: frames a second.
        size: width and height in pixels, even, as stored.
        container: mp4, mov, mkv, webm or avi.
        audio: with a sound track (silence).
        rotation: degrees clockwise (0, 90, 180, 270) by which a player turns it; mp4 and mov only.
    """
    count = max(1, round(seconds * fps))
    return video_of([colour_id] * count, fps, size, container, audio=audio, rotation=rotation)


def video_of(
    colour_ids: Sequence[int],
    fps: int = 8,
    size: tuple[int, int] = (32, 24),
    container: str = "mp4",
    *,
    audio: bool = False,
    rotation: int = 0,
    key_every: int = 250,
    times: Sequence[int] | None = None,
) -> bytes:
    """Return a video with one frame for each colour; arguments as in `video`.

    Args:
        colour_ids: one a frame.
        fps: frames a second.
        size: width and height in pixels, even.
        container: mp4, mov, mkv, webm or avi.
        audio: with a sound track (silence).
        rotation: degrees clockwise.
        key_every: frames from one keyframe to the next, at most.
        times: when each frame is shown, in 1/fps seconds (variable frame rate); 0, 1, 2, ... if not given.
    """
    import av

    file = io.BytesIO()
    with av.open(
        file, "w", format={"mkv": "matroska"}.get(container, container), options={"fflags": "+bitexact"}
    ) as out:
        shown: Any = out.add_stream(_VIDEO_CODECS.get(container, "libx264"), rate=fps)
        shown.width, shown.height, shown.pix_fmt = *size, "yuv420p"
        shown.codec_context.gop_size, shown.codec_context.thread_count = key_every, 1
        shown.bit_rate = 400_000
        if container not in _VIDEO_CODECS:
            # Keyframes where they are asked for; and the same bytes every time, see `raw.encode`.
            shown.options = {"sc_threshold": "0", "x264-params": "mbtree=0"}
        sound: Any = (
            out.add_stream(_AUDIO_CODECS.get(container, "libmp3lame"), rate=_sound_rate(container))
            if audio
            else None
        )
        for number, colour_id in enumerate(colour_ids):
            pixels = np.full((size[1], size[0], _CHANNELS), colour(colour_id), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (number if times is None else times[number]), Fraction(1, fps)
            out.mux(shown.encode(frame))
        out.mux(shown.encode(None))
        if sound is not None:
            _silence(out, sound, len(colour_ids) / fps)
    return turned(file.getvalue(), rotation)


def _sound_rate(container: str) -> int:
    return 48_000 if container == "webm" else _RATE  # Opus knows no other


def _silence(out: Any, stream: Any, seconds: float) -> None:
    import av

    rate = stream.codec_context.sample_rate
    kind = stream.codec_context.format.name
    left, at = round(seconds * rate), 0
    resampler = av.AudioResampler(format=kind, layout=stream.codec_context.layout, rate=rate)
    while left > 0:
        count = min(left, 1024)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, count), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        for ready in resampler.resample(frame):
            out.mux(stream.encode(ready))
        left, at = left - count, at + count
    out.mux(stream.encode(None))


def turned(data: bytes, rotation: int) -> bytes:
    """Return an MP4 that players turn: the matrix of its first track says so."""
    if not rotation:
        return data
    start = data.index(b"tkhd") + 4 + _TRACK_MATRIX
    a, b, c, d = _TURNED[rotation]
    one = 1 << 16
    rows = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in rows)
    return data[:start] + matrix + data[start + len(matrix) :]


def colour_of(data: bytes) -> int:
    """Return the colour id of a picture, or of the first frame of a video.

    Raises:
        ValueError: it is neither.
    """
    return colour_ids(data, 1)[0]


def colour_ids(data: bytes, most: int = 1 << 20) -> list[int]:
    """Return the colour id of each frame of a video (at most so many), or that of a picture.

    Raises:
        ValueError: it is neither.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return [_nearest(np.asarray(image.convert("RGB")))]
    except UnidentifiedImageError:
        pass
    import av

    try:
        with av.open(io.BytesIO(data), "r") as file:
            frames = []
            for frame in file.decode(video=0):
                frames.append(_nearest(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)))
                if len(frames) >= most:
                    break
            return frames
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"neither picture nor video: {data[:12]!r}...") from error


def _nearest(pixels: NDArray[np.uint8]) -> int:
    """Return the id of the colour in the middle of [H, W, 3]."""
    height, width, _ = pixels.shape
    centre = pixels[height // 4 : -(-height * 3 // 4), width // 4 : -(-width * 3 // 4)]
    levels = np.rint(centre.reshape(-1, _CHANNELS).mean(axis=0) / _STEP).astype(int)
    found = 0
    for bit in range(_CHANNELS * _BITS):
        found |= int(levels[bit % _CHANNELS] >> (_BITS - 1 - bit // _CHANNELS) & 1) << bit
    return found

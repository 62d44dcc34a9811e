"""Small videos that the tests of loading make, and the slow obvious way to read them."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 64, 48


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture [H, W, 3] that moves with its number, and is another one every 50."""
    rng = np.random.default_rng(number // 50)
    base = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    shift = number % 8
    return base[shift : shift + height, shift : shift + width].astype(np.uint8)


_MADE: dict[str, bytes] = {}


def make_video(frames: int = 30, **form: Any) -> bytes:
    """A video, see `encode`; the same one is made once."""
    if "pictures" in form:
        return encode(frames, **form)
    name = f"{frames} {sorted(form.items())}"
    if name not in _MADE:
        _MADE[name] = encode(frames, **form)
    return _MADE[name]


def encode(
    frames: int,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: int = 25,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
    pictures: list[np.ndarray] | None = None,
) -> bytes:
    """A video of `picture(0)`, `picture(1)`, ...; `times` are in milliseconds."""
    file = io.BytesIO()
    options = dict(options or {})
    if codec == "libx264":  # whose look ahead sees memory that nobody wrote in pictures as small as these
        options["x264-params"] = f"{options.get('x264-params', 'threads=1')}:mbtree=0"
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = out.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number in range(frames):
            shown = picture(number, *size) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if audio is not None:
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            noise.sample_rate = 8000
            out.mux(audio.encode(noise))
            out.mux(audio.encode(None))
    return file.getvalue()


def naive_frames(data: bytes) -> list[np.ndarray]:
    """All frames, as a decoder that is given everything gives them."""
    with av.open(io.BytesIO(data)) as container:
        return [np.array(frame.to_image()) for frame in container.decode(video=0)]

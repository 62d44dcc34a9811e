"""Small H.264 clips whose frames look the same in whatever order they come."""

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OPTIONS = {
    "qp": "24",
    "preset": "veryfast",
    "x264-params": "keyint=1:scenecut=0:mbtree=0:aq-mode=0:rc-lookahead=0:bframes=0",
}
"""Every frame by itself at one quality. Frames coded by their difference would keep traces of what was
before, and those tell which way a thing moves."""


def encode(frames: Sequence[NDArray[np.uint8]], fps: int) -> bytes:
    """Return an MP4 of frames [H, W, 3], H and W even; equal frames give equal bytes."""
    import av

    height, width, _ = frames[0].shape
    file = BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        stream: Any = out.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", _OPTIONS
        stream.codec_context.gop_size, stream.codec_context.thread_count = 1, 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()

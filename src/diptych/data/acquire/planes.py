"""JPEGs made smaller without going through RGB: the planes of brightness and colour are resized as they are.

ffmpeg decodes and resizes them (bicubic with antialiasing). Whatever it doubts is left to others.
"""

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
"""[height, width]"""
Planes = tuple[Plane, Plane, Plane]
"""Brightness and both colours, these perhaps of half the height or width."""

Shape = tuple[int, int, int, int, str]
"""Width and height, before and after, and the layout of the planes."""
KEPT = 32
"""Shapes whose filters are kept."""

_LAYOUTS = frozenset({"yuvj420p", "yuvj422p", "yuvj444p"})


class PlaneScaler:
    """Decodes and resizes one JPEG after the other."""

    def __init__(self) -> None:
        self._codec: Any = None
        self._reformatters: dict[Shape, VideoReformatter] = {}

    def scale(self, data: bytes, size: tuple[int, int], target: tuple[int, int]) -> Planes | None:
        """Return the planes of a colour JPEG in another size; None if it is damaged or of another kind.

        Args:
            data: the whole file.
            size: width and height by its header.
            target: width and height wanted.
        """
        try:
            frame = self._decode(data)
            if frame is None or (frame.width, frame.height) != size or frame.format.name not in _LAYOUTS:
                return None
            # More threads would only wait for each other: each worker has a core.
            frame = self._reformatter((*size, *target, frame.format.name)).reformat(
                frame, *target, frame.format.name, interpolation=Interpolation.BICUBIC, threads=1
            )
            y, u, v = (_plane(plane) for plane in frame.planes)
        except (av.FFmpegError, ValueError):
            # What is left in the decoder belongs to the damaged picture.
            self._codec = None
            return None
        return y, u, v

    def _reformatter(self, shape: Shape) -> VideoReformatter:
        """Return what resizes pictures of a shape: its filters are made once."""
        if shape not in self._reformatters and len(self._reformatters) >= KEPT:
            self._reformatters.pop(next(iter(self._reformatters)))
        return self._reformatters.setdefault(shape, VideoReformatter())

    def _decode(self, data: bytes) -> Any:
        if self._codec is None:
            self._codec = av.CodecContext.create("mjpeg", "r")
            self._codec.thread_count = 1
            self._codec.options = {"err_detect": "explode"}
        frames = self._codec.decode(av.Packet(data))
        return frames[0] if len(frames) == 1 else None


def _plane(plane: Any) -> Plane:
    rows: Plane = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return np.ascontiguousarray(rows[:, : plane.width])

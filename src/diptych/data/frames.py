"""Which frames of a video are shown. Legend: V frames of the video, n frames shown."""

import itertools

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.int64]


def segments(frames: int, count: int) -> list[tuple[int, int]]:
    """Return first and last + 1 of the frames that each shown one is drawn from, as SNP-S3 cuts videos.

    The last frame of a part of several is never drawn (published: its ranges end before it). Videos of fewer
    frames than `count` have one part a frame.

    Args:
        frames: V, at least 1.
        count: n, at least 1.
    """
    parts = min(frames, count)
    cuts = np.linspace(0, frames, parts + 1).astype(np.int64).tolist()
    found = []
    for start, end in itertools.pairwise(cuts):
        last = end - 1
        found.append((start, last if last > start else start + 1))
    return found


def choose_frames(frames: int, count: int, draws: NDArray[np.float64] | None = None) -> Frames:
    """Return which frames are shown, [n] int64 ascending: one of each part of the video.

    Args:
        frames: V, at least 1.
        count: n, at least 1; of shorter videos frames are shown several times.
        draws: [n] in 0..1, where in its part each lies (training); None: in the middle.
    """
    parts = segments(frames, count)
    if draws is None:
        chosen = [(start + end) // 2 for start, end in parts]
    else:
        given = draws[: len(parts)].tolist()
        chosen = [s + min(int(u * (e - s)), e - s - 1) for (s, e), u in zip(parts, given, strict=True)]
    if len(chosen) < count:
        last = len(chosen) - 1
        chosen = [chosen[int(last * i / (count - 1) + 0.5)] for i in range(count)]
    return np.array(chosen, dtype=np.int64)

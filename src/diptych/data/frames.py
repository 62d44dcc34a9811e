"""Which frames of a video are shown. Legend: V frames of the video, n frames shown, K clips of a video."""

import itertools

import numpy as np
from numpy.typing import NDArray

from diptych.data.video_config import VideoConfig

Frames = NDArray[np.int64]
Times = NDArray[np.float64]
"""[V] seconds at which frames are shown, ascending."""


def frames_between(times: Times, start: float | None, end: float | None) -> tuple[int, int]:
    """Return first and last + 1 of the frames that are shown within [start, end); at least one.

    Args:
        times: of all frames.
        start: seconds; None: from the first frame on.
        end: seconds; None: up to the last.
    """
    first = 0 if start is None else int(np.searchsorted(times, start + 1e-6, side="right")) - 1
    last = len(times) if end is None else int(np.searchsorted(times, end - 1e-6, side="left"))
    first = min(max(first, 0), len(times) - 1)
    return first, max(last, first + 1)


def frames_of_clip(
    times: Times, config: VideoConfig, draws: NDArray[np.float64] | None = None, clips: int = 1
) -> Frames:
    """Return which frames of a video (or of a part of it) a row shows, [K * n] int64, clip after clip.

    Args:
        times: of the frames to choose from.
        config: the policy.
        draws: [n] in 0..1 (training); None: nothing is random.
        clips: K; more than 1 with `dense` alone.
    """
    count, frames = config.frames, len(times)
    if not config.random:
        draws = None
    if config.policy == "uniform":
        return uniform_frames(frames, count)
    if config.policy == "middles":
        return middle_frames(frames, count)
    if config.policy == "fps":
        return filled(frames_at_rate(times, config.fps)[:count], count)
    if config.policy == "segments":
        return choose_frames(frames, count, draws, place=config.place, short=config.short)
    start = None if draws is None else float(draws[0])
    if clips > 1 and config.clips_at == "interleaved":
        return interleaved_frames(frames, count, config.stride, clips)
    return dense_frames(frames, count, config.stride, clips, start)


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


def choose_frames(
    frames: int,
    count: int,
    draws: NDArray[np.float64] | None = None,
    *,
    place: str = "middle",
    short: str = "spread",
) -> Frames:
    """Return which frames are shown, [n] int64 ascending: one of each part of the video.

    Args:
        frames: V, at least 1.
        count: n, at least 1; of shorter videos frames are shown several times.
        draws: [n] in 0..1, where in its part each lies (training); None: at `place`.
        place: `middle` or `start` of the parts.
        short: of videos with fewer than n frames, `spread` shows some twice, `last` only the last one.
    """
    parts = segments(frames, count)
    if draws is None:
        chosen = [start if place == "start" else (start + end) // 2 for start, end in parts]
    else:
        given = draws[: len(parts)].tolist()
        chosen = [s + min(int(u * (e - s)), e - s - 1) for (s, e), u in zip(parts, given, strict=True)]
    if len(chosen) < count and short == "spread":
        last = len(chosen) - 1
        chosen = [chosen[int(last * i / (count - 1) + 0.5)] for i in range(count)]
    return filled(np.array(chosen, dtype=np.int64), count)


def uniform_frames(frames: int, count: int) -> Frames:
    """Return n frames at equal distances, rounded down: first and last are among them (Video-LLaVA)."""
    return np.linspace(0, frames - 1, count).astype(np.int64)


def middle_frames(frames: int, count: int) -> Frames:
    """Return the middles of n equal parts from the first to the last frame, as MVBench rounds them."""
    return middles_between(0, frames - 1, count)


def middles_between(first: int, last: int, count: int) -> Frames:
    """Return the middles of n equal parts of the way from frame `first` to frame `last` (MVBench)."""
    part = (last - first) / count
    return np.array([int(first + part / 2 + round(part * i)) for i in range(count)], dtype=np.int64)


def bounded_middles(
    frames: int, fps: float, count: int, start: float | None = None, end: float | None = None, first: int = 0
) -> Frames:
    """Return n frames of a part of a video as MVBench's code chooses them: its bounds are rounded to frames.

    Args:
        frames: number of the last frame.
        fps: frames a second.
        count: n.
        start: seconds; None: from the first frame on.
        end: seconds; None: up to the last frame.
        first: number of the first frame (1 where frames are files that count from 1).
    """
    begin = first if start is None else max(first, round(start * fps))
    stop = frames if end is None else min(round(end * fps), frames)
    return middles_between(begin, stop, count)


def frames_at_rate(times: Times, rate: float) -> Frames:
    """Return the frames nearest to `rate` moments a second, the first after half of the time between two.

    For videos of a constant frame rate these are VideoChat2's; of a shorter video (of which it takes none)
    it is the frame in the middle.
    """
    frames, step = len(times), 1 / rate
    if frames == 1:
        return np.zeros(1, dtype=np.int64)
    at = times - times[0]
    length = at[-1] * frames / (frames - 1)
    moments = np.arange(step / 2, length + step / 2, step)
    # Where the moments lie between the frames; behind the last one as if the video went on.
    places = np.interp(moments, at, np.arange(frames))
    behind = moments > at[-1]
    places[behind] = frames - 1 + (moments[behind] - at[-1]) * (frames - 1) / at[-1]
    found = np.rint(places.round(6)).astype(np.int64)
    found = found[found < frames]
    return found if len(found) else np.array([frames // 2], dtype=np.int64)


def dense_frames(frames: int, count: int, stride: int, clips: int = 1, draw: float | None = None) -> Frames:
    """Return K clips of n frames, every `stride`-th: [K * n] int64.

    Behind the end of the video its last frame is shown.

    Args:
        frames: V.
        count: n.
        stride: from frame to frame.
        clips: K, from the start to the end of the video; a single one lies in the middle.
        draw: in 0..1, where the clips start instead.
    """
    room = max(frames - 1 - (count - 1) * stride, 0)
    if draw is not None:
        starts = np.full(clips, min(int(draw * (room + 1)), room))
    elif clips == 1:
        starts = np.array([room // 2])
    else:
        starts = np.arange(clips) * room // (clips - 1)
    found = starts[:, None] + stride * np.arange(count)[None]
    return np.minimum(found, frames - 1).reshape(-1).astype(np.int64)


def interleaved_frames(frames: int, count: int, stride: int, clips: int) -> Frames:
    """Return K * n frames at `stride` / K from the middle of the video, dealt out to K clips in turn.

    Published for Uni-Perceiver's evaluation of videos: clip k has the k-th, (K + k)-th, ... of them.
    """
    total = dense_frames(frames, count * clips, max(stride // clips, 1))
    return total.reshape(count, clips).T.reshape(-1)


def filled(chosen: Frames, count: int) -> Frames:
    """Return [n] int64: `chosen` with its last frame repeated."""
    return np.concatenate([chosen, np.repeat(chosen[-1:], count - len(chosen))])


def first_shown(chosen: Frames, clips: int = 1) -> NDArray[np.bool_]:
    """Return [K * n] bool, False where a clip shows a frame again."""
    found = np.zeros(len(chosen), dtype=np.bool_)
    size = len(chosen) // clips
    for clip in range(clips):
        _, first = np.unique(chosen[clip * size : (clip + 1) * size], return_index=True)
        found[clip * size + first] = True
    return found

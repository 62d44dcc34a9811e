"""Painting the frames of a clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diptych.data.cards.emoji_clips_plan import Clip, State, Thing
from diptych.data.cards.scenes_draw import BACKGROUND
from diptych.data.cards.scenes_layout import COLORS, GRID

_EMOJI = 0.74
"""Side of an emoji, as a share of its cell."""
_KEPT = 20_000
"""Drawn tiles that are remembered."""

Pictures = list[tuple[float, Image.Image]]
"""Frames of an emoji with the seconds at which each ends; still ones have a single frame."""


def progress(frames: int, parts: int) -> list[list[float]]:
    """Return how far each part of a clip is at each frame, 0 to 1; played backwards it is the same.

    Of an even number of frames the two in the middle are alike, so that a clip and its mirror have the same
    frame there, whichever is taken for the middle.
    """
    middle = (frames - 1) // 2
    if parts == 1:
        steps = [t if t <= middle else t - 1 + frames % 2 for t in range(frames)]
        return [[step / steps[-1] for step in steps]]
    last = frames - 1 - middle
    first = [min(t / middle, 1.0) for t in range(frames)]
    return [first, [max((t - last) / middle, 0.0) for t in range(frames)]]


@dataclass(frozen=True)
class _Moment:
    """How a thing looks in one frame."""

    row: float
    column: float
    size: float
    opacity: float
    angle: float
    before: State
    after: State
    mix: float


class ClipPainter:
    """Paints clips at one resolution; keeps resized emoji and tiles.

    Args:
        resolution: side of the frames in pixels.
        frames: number of frames.
        fps: frames a second; matters to emoji that move by themselves.
        sprites: (hexcode, style) -> encoded picture with transparency, or several that are played.
    """

    def __init__(
        self, resolution: int, frames: int, fps: int, sprites: Mapping[tuple[str, str], bytes]
    ) -> None:
        self._resolution, self._frames, self._fps, self._sprites = resolution, frames, fps, sprites
        self._cell = resolution / GRID
        self._pictures: dict[tuple[str, str], Pictures] = {}
        self._tiles: dict[Any, Image.Image] = {}

    def paint(self, clip: Clip) -> list[NDArray[np.uint8]]:
        """Return the frames, each [resolution, resolution, 3]."""
        parts = progress(self._frames, clip.parts)
        return [self._frame(clip, [part[t] for part in parts], t / self._fps) for t in range(self._frames)]

    def _frame(self, clip: Clip, done: Sequence[float], seconds: float) -> NDArray[np.uint8]:
        frame = Image.new("RGB", (self._resolution, self._resolution), BACKGROUND)
        # What acts is first among the things, and painted last.
        for thing in reversed(clip.things):
            moment = _at(thing, done)
            if moment.opacity > 0:
                self._put(frame, thing, moment, clip.style, seconds)
        return np.asarray(frame)

    def _put(self, frame: Image.Image, thing: Thing, moment: _Moment, style: str, seconds: float) -> None:
        side = max(4, round(moment.size * self._cell))
        shown = self._shown(thing.color, moment.before, style, side, moment.angle, seconds)
        if moment.mix > 0:
            other = self._shown(thing.color, moment.after, style, side, moment.angle, seconds)
            shown = Image.blend(shown, other, moment.mix)
        mask = shown.getchannel("A")
        if moment.opacity < 1:
            mask = mask.point([round(value * moment.opacity) for value in range(256)])
        x = round((moment.column + 0.5) * self._cell - side / 2)
        y = round((moment.row + 0.5) * self._cell - side / 2)
        frame.paste(shown.convert("RGB"), (x, y), mask)

    def _shown(
        self, color: str, state: State, style: str, side: int, angle: float, seconds: float
    ) -> Image.Image:
        """A tile with an emoji on it, RGBA."""
        pictures = self._emoji(state.item.hexcode, style)
        number = _playing(pictures, seconds)
        turned = round(angle) % 360
        key = (color, state.item.hexcode, style, side, turned, number)
        if key not in self._tiles:
            if len(self._tiles) >= _KEPT:
                self._tiles.clear()
            inner = max(3, round(_EMOJI * side))
            emoji = pictures[number][1].rotate(-turned, Image.Resampling.BICUBIC)
            emoji = emoji.resize((inner, inner), Image.Resampling.LANCZOS)
            made = _tile(color, side)
            inset = (side - inner) // 2
            made.alpha_composite(emoji, (inset, inset))
            self._tiles[key] = made
        return self._tiles[key]

    def _emoji(self, hexcode: str, style: str) -> Pictures:
        """The frames of an emoji, at twice the side that it has at most."""
        if (hexcode, style) not in self._pictures:
            side = max(16, round(2 * _EMOJI * self._cell))
            found, ends = Pictures(), 0.0
            with Image.open(BytesIO(self._sprites[hexcode, style])) as opened:
                for number in range(getattr(opened, "n_frames", 1)):
                    opened.seek(number)
                    small = opened.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
                    # Known once the frame is decoded.
                    ends += max(opened.info.get("duration", 0), 1) / 1000
                    found.append((ends, small))
            self._pictures[hexcode, style] = found
        return self._pictures[hexcode, style]


def _playing(pictures: Pictures, seconds: float) -> int:
    """Return the number of the frame that is shown; after the last one it starts again."""
    if len(pictures) == 1:
        return 0
    time = seconds % pictures[-1][0]
    return next((number for number, (ends, _) in enumerate(pictures) if time < ends), 0)


def _tile(color: str, side: int) -> Image.Image:
    """A square with round corners, drawn four times too large for smooth edges."""
    large = 4 * side
    margin = large // 24
    mask = Image.new("L", (large, large))
    box = (margin, margin, large - 1 - margin, large - 1 - margin)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=large // 8, fill=255)
    made = Image.new("RGBA", (side, side), (*COLORS[color], 255))
    made.putalpha(mask.resize((side, side), Image.Resampling.BOX))
    return made


def _at(thing: Thing, done: Sequence[float]) -> _Moment:
    """Return how a thing looks when its parts have come so far."""
    part = max((number for number, share in enumerate(done) if share > 0), default=0)
    a, b, share = thing.states[part], thing.states[part + 1], done[part]

    def between(start: float, end: float) -> float:
        return start + (end - start) * share

    return _Moment(
        between(a.row, b.row),
        between(a.column, b.column),
        between(a.size, b.size),
        between(a.opacity, b.opacity),
        between(a.angle, b.angle),
        a,
        b,
        share if a.item != b.item else 0.0,
    )

"""Clips of a row: frames of its video, of its pictures or of its single picture, brought to their size.

Legend: V frames of a video, N frames that a row shows (of all its clips), C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.animated import decode_animated, is_animated
from diptych.data.cache import Originals, PictureTable
from diptych.data.config import DataConfig
from diptych.data.decode import Pixels
from diptych.data.frames import Frames, Times, first_shown, frames_between, frames_of_clip
from diptych.data.image import Picture, PictureError
from diptych.data.look import Look, PictureDecoder, own_cut, shrink_into
from diptych.data.members import is_picture, is_video
from diptych.data.raw.refs import MediumError
from diptych.data.sample import Sample
from diptych.data.video import open_frames

if TYPE_CHECKING:
    from diptych.data.selection import Selection

WHOLE = 64
"""Frames of a video that is decoded and remembered whole, at most; of longer ones what was shown."""

Choose = Callable[[Times], Frames]
"""Times of all frames -> numbers of those that are wanted."""
Use = Callable[[int, Picture], None]
"""Takes a wanted frame and its number."""
Footage = Callable[[Choose, Use], None]


@dataclass(frozen=True)
class _Part:
    """The frames of a sample that may be shown."""

    first: int
    """Number of the first of them."""
    times: Times


class ClipReader:
    """Fills rows with clips, and remembers frames of a selection where it may.

    Resized frames are shared by forked workers; where a cut is random, or every picture keeps its shape,
    whole ones are remembered by each process.
    """

    def __init__(
        self,
        config: DataConfig,
        lengths: NDArray[np.int64],
        frame: tuple[int, ...],
        decode: PictureDecoder,
        *,
        budget: int,
        training: bool,
    ) -> None:
        """Nothing is read yet.

        Args:
            config: the settings.
            lengths: frames of each sample as the index has them, 1 where it does not say.
            frame: shape of the memory for a frame, [H, W, C].
            decode: of pictures.
            budget: bytes for frames; 0 remembers none.
            training: whether rows are drawn at random.
        """
        self._config, self._decode, self._training = config, decode, training
        self._own_cut = own_cut(config.image)
        self._firsts, self._lengths = np.cumsum(lengths) - lengths, lengths
        self._remember = budget > 0
        self._parts: dict[int, _Part] = {}
        self._originals = Originals(budget if self._own_cut else 0)
        self._table = PictureTable(
            int(lengths.sum()),
            frame,
            0 if self._own_cut else budget,
            shared=config.loader.workers > 0,
        )

    def from_memory(self, number: int, out: Pixels, look: Look) -> bool:
        """Fill a row if all its frames are remembered, and say so; arguments as `read`."""
        part = self._parts.get(number)
        if part is None:
            return False
        row = self._row(part, out, look)
        for frame in np.unique(row.numbers).tolist():
            if not self._recall(number, frame, row):
                return False
        row.tell(look)
        return True

    def read(self, number: int, sample: Sample, out: Pixels, look: Look) -> None:
        """Fill a row.

        Args:
            number: of the sample in its selection.
            sample: with a video, pictures `0.jpg`, `1.jpg`, ... (its frames), or a picture.
            out: [N, H, W, C].
            look: what is random.

        Raises:
            PictureError: the sample cannot be used.
        """

        def footage(choose: Choose, use: Use) -> None:
            _decode_clip(sample, self._decode, choose, use)

        self.fill(number, footage, sample.meta, out, look)

    def fill(self, number: int, footage: Footage, meta: Mapping[str, Any], out: Pixels, look: Look) -> None:
        """Fill a row with frames from anywhere; arguments as `read`.

        Args:
            number: of the sample in its selection.
            footage: hands over the frames that are chosen.
            meta: of the sample (`data.video.part`).
            out: [N, H, W, C].
            look: what is random.
        """
        row: _Row | None = None

        def choose(times: Times) -> Frames:
            nonlocal row
            part = self._part(times, meta)
            if self._remember:
                self._parts[number] = part
            row = self._row(part, out, look)
            if self._remember and len(times) <= min(WHOLE, int(self._lengths[number])):
                return np.arange(len(times))
            return row.numbers

        def use(frame: int, picture: Picture) -> None:
            assert row is not None
            self._keep(number, frame, picture, row)

        footage(choose, use)
        assert row is not None
        row.tell(look)

    def _part(self, times: Times, meta: Mapping[str, Any]) -> _Part:
        if self._config.video.part == "all":
            return _Part(0, times)
        first, last = frames_between(times, _seconds(meta, "start"), _seconds(meta, "end"))
        return _Part(first, times[first:last])

    def _row(self, part: _Part, out: Pixels, look: Look) -> "_Row":
        video = self._config.video
        clips = 1 if self._training else video.clips
        crops = 1 if self._training else video.crops
        numbers = part.first + frames_of_clip(part.times, video, look.frames, clips)
        shown = first_shown(numbers, clips).reshape(clips, -1)
        by_clip = numbers.reshape(clips, -1)
        return _Row(
            out,
            np.repeat(by_clip, crops, axis=0).reshape(-1),
            np.repeat(shown, crops, axis=0).reshape(-1),
            np.tile(np.repeat(np.arange(crops), video.frames), clips),
            None if look.cuts is None else look.cuts[0],
            [(0, 0)] * len(out),
        )

    def _recall(self, number: int, frame: int, row: "_Row") -> bool:
        """Put a remembered frame wherever the row shows it; tell whether it is remembered."""
        place = self._place(number, frame)
        if self._own_cut:
            picture = self._originals.get(place)
            if picture is None:
                return False
            self._put(frame, picture, row)
            return True
        at = np.flatnonzero(row.numbers == frame)
        if not self._table.get(place, row.out[at[0]]):
            return False
        row.copy(at)
        return True

    def _keep(self, number: int, frame: int, picture: Picture, row: "_Row") -> None:
        """Put a decoded frame wherever the row shows it, and remember it."""
        place = self._place(number, frame)
        if self._remember and place >= 0 and self._own_cut:
            self._originals.put(place, picture)
        shown = self._put(frame, picture, row)
        if not self._remember or place < 0 or self._own_cut:
            return
        if shown is None:
            shown = np.empty(row.out.shape[1:], dtype=np.uint8)
            shrink_into(shown, picture, self._config.image, row.cut)
        self._table.put(place, shown)

    def _place(self, number: int, frame: int) -> int:
        """Return the number of a frame among all of the selection; -1 where the index knows of less."""
        return int(self._firsts[number]) + frame if frame < self._lengths[number] else -1

    def _put(self, frame: int, picture: Picture, row: "_Row") -> Pixels | None:
        """Write a frame to all its places in a row; return the first of them, if there is one."""
        first: Pixels | None = None
        here = row.numbers == frame
        for crop in np.unique(row.crops[here]).tolist():
            at = np.flatnonzero(here & (row.crops == crop))
            place = row.out[at[0]]
            several = not self._training and self._config.video.crops > 1
            row.sizes[at[0]] = shrink_into(
                place, picture, self._config.image, row.cut, crop if several else None
            )
            row.copy(at)
            first = place if first is None else first
        return first


@dataclass
class _Row:
    """A row that is being filled."""

    out: Pixels
    numbers: Frames
    """[N] which frame of the video goes to each place."""
    shown: NDArray[np.bool_]
    """[N] whether the clip shows it for the first time."""
    crops: NDArray[np.int64]
    """[N] which of several squares."""
    cut: NDArray[np.float64] | None
    """[CROP_DRAWS] in 0..1."""
    sizes: list[tuple[int, int]]

    def tell(self, look: Look) -> None:
        """Note what is in the row."""
        look.sizes[:] = self.sizes
        look.shown[:] = self.shown.tolist()

    def copy(self, at: NDArray[np.int64]) -> None:
        """Put what is at the first of some places to the others."""
        for other in at[1:].tolist():
            self.out[other] = self.out[at[0]]
            self.sizes[other] = self.sizes[at[0]]


def _decode_clip(sample: Sample, decode: PictureDecoder, choose: Choose, use: Use) -> None:
    """Hand over the frames that `choose` picks of what a sample has."""
    videos = sorted(name for name in sample.media if is_video(name))
    if videos:
        decode_video(sample.media[videos[0]], choose, use)
        return
    names = frame_names(sample.media)
    if not names:
        raise PictureError("no picture", f"it has {', '.join(sample.media) or 'no media'}")
    if len(names) == 1 and is_animated(sample.media[names[0]]):
        decode_animated(sample.media[names[0]], decode.background, choose, use)
        return
    rate = _seconds(sample.meta, "fps") or 1.0
    for number in np.unique(choose(np.arange(len(names)) / rate)).tolist():
        use(number, decode(sample.media[names[number]]))


def decode_video(data: bytes, choose: Choose, use: Use) -> None:
    """Hand over the frames that `choose` picks of a video.

    Raises:
        PictureError: it cannot be read.
    """
    try:
        with open_frames(data) as video:
            video.show(choose, use)
    except MediumError as error:
        raise PictureError(error.cause, error.detail) from error


def frame_names(media: Mapping[str, bytes]) -> list[str]:
    """Return the pictures that are the frames of a sample without a video, in their order.

    They are `0.jpg`, `1.jpg`, ..., by their numbers; else it is the first picture alone.
    """
    pictures = [name for name in media if is_picture(name)]
    numbered = [name for name in pictures if name.partition(".")[0].isdecimal()]
    if len(numbered) == len(pictures):
        return sorted(numbered, key=lambda name: (int(name.partition(".")[0]), name))
    return pictures[:1]


def lengths_of(selection: "Selection") -> NDArray[np.int64]:
    """Return how many frames each sample of a selection has as its index has it, 1 where it does not say."""
    samples = selection.samples
    if "frames" not in samples.columns:
        return np.ones(len(samples), dtype=np.int64)
    return np.array([int(frames or 1) for frames in samples.column("frames")], dtype=np.int64)


def _seconds(meta: Mapping[str, Any], name: str) -> float | None:
    value = meta.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

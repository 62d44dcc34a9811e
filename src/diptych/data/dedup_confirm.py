"""A second look at pictures whose hashes are near: do they also have the same colours in the same places?"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.data.members import is_picture, is_video
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

SIDE = 8
LEVELS = 20.0
"""Levels of 255 by which 8 x 8 colours may differ on average: other sizes and encodings change a few, a
little more light ten."""


class Colours:
    """The colours of samples, [P, 8, 8, 3] uint8 for P pictures; read as they are asked for.

    Args:
        selections: the samples, numbered one selection after the other.
        ends: the number behind the last sample of each selection.
    """

    def __init__(self, selections: "Sequence[Selection]", ends: NDArray[np.int64]) -> None:
        self._selections, self._ends = selections, ends
        self._known: dict[int, NDArray[np.uint8] | None] = {}

    def alike(self, ones: NDArray[np.int64], others: NDArray[np.int64], levels: float) -> NDArray[np.bool_]:
        """Tell which pairs of samples have colours that differ by at most so many levels on average.

        Of samples with several pictures the nearest two count. What cannot be decoded is like nothing.
        """
        return np.array(
            [self._distance(a, b) <= levels for a, b in zip(ones.tolist(), others.tolist(), strict=True)],
            dtype=bool,
        )

    def _distance(self, a: int, b: int) -> float:
        one, other = self._of(a), self._of(b)
        if one is None or other is None:
            return np.inf
        apart = np.abs(one[:, None].astype(np.int16) - other[None].astype(np.int16))
        return float(apart.mean(axis=(2, 3, 4)).min())

    def _of(self, number: int) -> NDArray[np.uint8] | None:
        if number not in self._known:
            at = int(np.searchsorted(self._ends, number, side="right"))
            selection = self._selections[at]
            self._known[number] = _colours(selection, number - int(self._ends[at]) + len(selection))
        return self._known[number]


def _colours(selection: "Selection", number: int) -> NDArray[np.uint8] | None:
    try:
        media = selection.read(number).media
    except DataError:
        return None
    found = []
    for name in sorted(media):
        try:
            if is_picture(name):
                found.append(_small(_opened(media[name])))
            elif is_video(name):
                from diptych.data.stills import middle_frame

                found.append(_small(middle_frame(media[name])))
        except Exception:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error, ...
            continue
    return np.stack(found) if found else None


def _opened(data: bytes) -> Image.Image:
    from diptych.data.acquire.pictures import as_srgb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.format == "JPEG":
            image.draft("RGB", (8 * SIDE, 8 * SIDE))
        return as_srgb(image)


def _small(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))

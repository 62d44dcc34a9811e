"""Animated pictures (GIF, WebP) as videos: their frames and when they are shown."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.frames import Frames, Times
from diptych.data.image import MAX_PIXELS, Picture, PictureError, lay_on

MAX_FRAMES = 20_000
"""Frames of an animated picture that are looked at."""
_STARTS = (b"GIF8", b"RIFF")
_SECONDS = 0.1
"""How long a frame is shown that does not say so, as browsers do."""


def is_animated(data: bytes) -> bool:
    """Tell whether a picture has several frames."""
    if not data.startswith(_STARTS):
        return False
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:  # damaged bytes raise almost anything; whoever decodes the picture says what is wrong
        return False


def decode_animated(
    data: bytes,
    background: str,
    choose: Callable[[Times], Frames],
    use: Callable[[int, Picture], None],
) -> None:
    """Hand over frames of an animated picture; those behind the first damaged one are not there.

    Args:
        data: encoded.
        background: behind transparent pixels.
        choose: times of all frames -> numbers of those that are wanted.
        use: takes a number and its frame, [H, W, 3].

    Raises:
        PictureError: nothing can be decoded, or it is too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture: Any = Image.open(io.BytesIO(data))
        except Exception as error:  # as above
            raise PictureError("unreadable picture", str(error)) from error
        if picture.width * picture.height > MAX_PIXELS:
            size = f"{picture.width} x {picture.height} pixels, at most {MAX_PIXELS} are read"
            raise PictureError("picture too large", size)
        wanted = set(choose(_times(picture)).tolist())
        for number in sorted(wanted):
            picture.seek(number)
            use(number, np.array(lay_on(picture.convert("RGBA"), background)))


def _times(picture: Any) -> Times:
    """Return when each frame that can be read is shown, [V] seconds."""
    starts, now = [], 0.0
    try:
        for number in range(min(picture.n_frames, MAX_FRAMES)):
            picture.seek(number)
            picture.load()
            starts.append(now)
            now += (picture.info.get("duration") or 0) / 1000 or _SECONDS
    except Exception as error:  # damaged bytes raise almost anything
        if not starts:
            raise PictureError("unreadable picture", str(error)) from error
    return np.array(starts, dtype=np.float64)

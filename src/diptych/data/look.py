"""What readers of pictures and of clips share: decoding, cutting to size, and what is random about a row.

Legend: N pictures or frames that a row shows, C channels.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.data.config import ImageConfig
from diptych.data.decode import JpegDecoder, Pixels
from diptych.data.image import (
    Picture,
    decode_fast,
    fit_into,
    lay_on,
    open_image,
    smallest_side,
    square_into,
)


@dataclass
class Look:
    """How a row shows its pictures, and what is learned about that on the way."""

    cuts: NDArray[np.float64] | None
    """[pictures, CROP_DRAWS] in 0..1, one row for all frames of a clip; None: nothing is random."""
    frames: NDArray[np.float64] | None = None
    """[frames of a clip] in 0..1; None: nothing is random, or there are no clips."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Gets height and width of each of the N, inside the memory for it."""
    grids: list[tuple[int, int, int]] = field(default_factory=list)
    """Gets, of pictures cut into tiles, rows, columns and views of each."""
    shown: list[bool] = field(default_factory=list)
    """Gets, of clips, whether each of the N frames is shown for the first time."""


class PictureDecoder:
    """Decodes pictures no larger than the settings need, with opacity only if it is asked for."""

    def __init__(self, config: ImageConfig, channels: int, decoder: JpegDecoder) -> None:
        self._config, self._opacity, self._decoder = config, channels == 4, decoder
        self._reduce_to = smallest_side(config)

    @property
    def background(self) -> str:
        """What transparent pixels show where opacity is not kept."""
        return self._config.background

    def __call__(self, data: bytes) -> Picture:
        """Return the picture; its pixels may lie in memory that the next one overwrites."""
        pixels = decode_fast(data, self._decoder, self._reduce_to)
        if pixels is not None:
            return pixels
        image = open_image(data, self._reduce_to)
        if not self._opacity:
            image = lay_on(image, self._config.background)
        return image if image.mode == "RGBA" else np.array(image)


def shrink_into(
    out: Pixels,
    picture: Picture,
    config: ImageConfig,
    draws: NDArray[np.float64] | None,
    crop: int | None = None,
) -> tuple[int, int]:
    """Write a picture as the settings want it into `out` [H, W, C]; return height and width there.

    Args:
        out: memory.
        picture: decoded.
        config: the settings.
        draws: [CROP_DRAWS] in 0..1; None: nothing is random.
        crop: which of three squares (`square_into`).
    """
    if config.resize == "fit":
        return fit_into(out, picture, config, None if draws is None else float(draws[0]))
    square_into(out, picture, config, draws, crop)
    return out.shape[0], out.shape[1]


def own_cut(config: ImageConfig) -> bool:
    """Tell whether a picture is cut or sized anew each time, so that only whole ones can be remembered."""
    return config.resize in ("random_crop", "zoom_crop", "fit")

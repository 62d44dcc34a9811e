"""Pictures of a row cut into tiles; and memory for them."""

import numpy as np
from PIL import Image

from diptych.data.cache import Originals
from diptych.data.config import DataConfig
from diptych.data.decode import Pixels
from diptych.data.image import Picture, PictureError
from diptych.data.look import Look, PictureDecoder
from diptych.data.members import is_picture
from diptych.data.sample import Sample
from diptych.data.tiling import tile_picture

CONVERSATIONS = "conversations"
"""Samples with this fact may be without a picture: texts alone."""


class TileReader:
    """Fills rows with the tiles of all pictures of a sample; remembers whole pictures."""

    def __init__(self, config: DataConfig, decode: PictureDecoder, *, budget: int, training: bool) -> None:
        """Nothing is read yet.

        Args:
            config: the settings.
            decode: of pictures.
            budget: bytes for decoded pictures.
            training: whether the limits of training count, and sizes may be random.
        """
        self._config, self._decode, self._training = config.image, decode, training
        self._originals = Originals(budget)
        self._counts: dict[int, int] = {}

    def from_memory(self, number: int, out: Pixels, look: Look) -> bool:
        """Fill a row if its pictures are remembered, and say so; arguments as `read`."""
        count = self._counts.get(number)
        if count is None:
            return False
        found: list[Picture] = []
        for i in range(count):
            picture = self._originals.get(self._config.pictures * number + i)
            if picture is None:
                return False
            found.append(picture)
        self._fill(found, out, look)
        return True

    def read(self, number: int, sample: Sample, out: Pixels, look: Look) -> None:
        """Fill a row.

        Args:
            number: of the sample in its selection.
            sample: what was read.
            out: [views, S, S, 3].
            look: what is random; gets rows, columns and views of each picture.

        Raises:
            PictureError: the sample cannot be used.
        """
        files = [content for name, content in sample.media.items() if is_picture(name)]
        most = self._config.pictures
        if not files and not sample.meta.get(CONVERSATIONS):
            raise PictureError("no picture", f"it has {', '.join(sample.media) or 'no media'}")
        if len(files) > most:
            raise PictureError("too many pictures", f"{len(files)}, but data.image.pictures = {most}")
        pictures: list[Picture] = []
        for i, content in enumerate(files):
            picture = self._decode(content)
            # The decoder's memory is used again for the next picture.
            kept = picture.copy() if len(files) > 1 and not isinstance(picture, Image.Image) else picture
            self._originals.put(most * number + i, kept)
            pictures.append(kept)
        self._counts[number] = len(pictures)
        self._fill(pictures, out, look)

    def _fill(self, pictures: list[Picture], out: Pixels, look: Look) -> None:
        look.grids.clear()
        at = 0
        for i, picture in enumerate(pictures):
            draw = None if look.cuts is None else float(look.cuts[i, 0])
            tiled = tile_picture(picture, self._config.tiling, draw, training=self._training)
            views = len(tiled.tiles)
            out[at : at + views] = np.moveaxis(tiled.tiles.numpy(), 1, -1)
            look.grids.append((tiled.rows, tiled.columns, views))
            at += views

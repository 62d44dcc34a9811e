"""Pictures of a row, one or two, brought to their size; and memory for them."""

import numpy as np

from diptych.data.cache import Originals, PictureTable
from diptych.data.config import DataConfig
from diptych.data.decode import Pixels
from diptych.data.image import PictureError
from diptych.data.look import Look, PictureDecoder, own_cut, shrink_into
from diptych.data.members import is_picture
from diptych.data.sample import Sample


class StillReader:
    """Fills rows with the pictures of a selection.

    Resized pictures are shared by forked workers; where a cut is random, or every picture keeps its shape,
    whole ones are remembered by each process.
    """

    def __init__(
        self,
        config: DataConfig,
        samples: int,
        shape: tuple[int, ...],
        decode: PictureDecoder,
        *,
        budget: int,
    ) -> None:
        """Nothing is read yet.

        Args:
            config: the settings.
            samples: of the selection.
            shape: of a row, [H, W, C] or [2, H, W, C].
            decode: of pictures.
            budget: bytes for decoded pictures.
        """
        self._config, self._decode = config, decode
        self._each = shape[0] if len(shape) == 4 else 1
        whole = own_cut(config.image)
        self._originals = Originals(budget if whole else 0)
        self._table = PictureTable(samples, shape, 0 if whole else budget, shared=config.loader.workers > 0)

    def from_memory(self, number: int, out: Pixels, look: Look) -> bool:
        """Fill a row if its pictures are remembered, and say so; arguments as `read`."""
        if self._table.get(number, out):
            return True
        look.sizes.clear()
        for i, place in enumerate(self._places(out)):
            original = self._originals.get(self._each * number + i)
            if original is None:
                return False
            look.sizes.append(shrink_into(place, original, self._config.image, _draws(look, i)))
        return True

    def read(self, number: int, sample: Sample, out: Pixels, look: Look) -> None:
        """Fill a row.

        Args:
            number: of the sample in its selection.
            sample: what was read.
            out: [H, W, C] or [2, H, W, C].
            look: what is random.

        Raises:
            PictureError: the sample cannot be used.
        """
        if self._table.get(number, out):
            return
        look.sizes.clear()
        files = [content for name, content in sample.media.items() if is_picture(name)]
        if len(files) < self._each:
            raise PictureError("no picture", f"it has {', '.join(sample.media) or 'no media'}")
        for i, place in enumerate(self._places(out)):
            picture = self._decode(files[i])
            self._originals.put(self._each * number + i, picture)
            look.sizes.append(shrink_into(place, picture, self._config.image, _draws(look, i)))
        self._table.put(number, out)

    def _places(self, out: Pixels) -> list[Pixels]:
        return [out] if self._each == 1 else list(out)


def _draws(look: Look, picture: int) -> np.ndarray | None:
    return None if look.cuts is None else look.cuts[picture]

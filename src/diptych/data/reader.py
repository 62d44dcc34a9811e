"""Samples of a selection, decoded, resized and tokenised; with a cache, not again in every epoch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.cache import Originals, PictureTable
from diptych.data.config import DataConfig
from diptych.data.image import (
    CROP_DRAWS,
    PictureError,
    Pixels,
    lay_on,
    make_square,
    open_image,
    smallest_side,
    to_channels_first,
)
from diptych.data.members import PICTURES
from diptych.data.order import uniforms
from diptych.data.sample import Sample
from diptych.data.text import Tokenizer, clean
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.index import Selection

_FLIP, _CAPTION, _CROP = 0, 1, 2
"""Columns of the draws of a sample; CROP_DRAWS columns from `_CROP` on."""


@dataclass(frozen=True)
class Bad:
    """A sample that cannot be used."""

    cause: str
    message: str


@dataclass(frozen=True)
class Texts:
    """What a batch shows of a sample besides its picture."""

    key: str
    match_id: int
    captions: tuple[str, ...]
    """Cleaned, none empty."""
    ids: dict[int, list[int]] = field(default_factory=dict)
    """Caption number -> token ids, filled as they are asked for."""


@dataclass(frozen=True)
class Item:
    """A sample ready to go into a batch; `pixels` is None if they are in the shared table."""

    row: int
    position: int
    texts: Texts
    draws: np.ndarray
    pixels: Pixels | None


def match_number(sample: Sample) -> int:
    """Return the 64-bit hash of `match_id`, or of the key where it is empty; the same in every process.

    A leading letter tells keys from match ids, so that a key never matches another sample's match id.
    """
    name = f"m{sample.match_id}" if sample.match_id else f"k{sample.key}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class SampleReader:
    """Reads samples of a selection by their number and puts them together to batches.

    In training, flips, crops and captions are drawn by (seed, position); otherwise nothing is random, all
    captions are there and pictures have three channels.
    """

    def __init__(
        self,
        selection: "Selection",
        config: DataConfig,
        tokenizer: Tokenizer | None,
        *,
        seed: int,
        training: bool = True,
    ) -> None:
        self._selection, self._config, self._tokenizer = selection, config, tokenizer
        self._seed, self._training = seed, training
        self._opacity = training and config.augment.keeps_opacity
        self._pictures = not PICTURES.isdisjoint(selection.dataset.extensions)
        self._crops = training and config.image.resize == "random_crop"
        self._bad: dict[int, Bad] = {}
        self._texts: dict[int, Texts] = {}
        budget = config.loader.cache_mb * 2**20 if training else 0
        self._remember = budget > 0
        self._originals = Originals(budget if self._crops else 0)
        shape = (4 if self._opacity else 3, config.image.size, config.image.size)
        table_budget = 0 if self._crops or not self._pictures else budget
        self._table = PictureTable(len(selection), shape, table_budget, shared=config.loader.workers > 0)

    def read(self, rows: np.ndarray, positions: np.ndarray) -> tuple[list[Item], list[Bad]]:
        """Return the samples `rows` [N] of the selection that can be used, and what is wrong with the others.

        Args:
            rows: [N] int64, sample numbers in the selection.
            positions: [N] int64, where they stand in the order; they seed what is random.
        """
        draws = uniforms(self._seed, positions, _CROP + (CROP_DRAWS if self._crops else 0))
        known = self._table.known(rows)
        items: list[Item] = []
        bad: list[Bad] = []
        new: set[int] = set()
        for i, row in enumerate(rows.tolist()):
            found = self._read_one(row, bool(known[i]) or row in new, draws[i])
            if isinstance(found, Bad):
                bad.append(found)
                continue
            texts, pixels = found
            if pixels is not None and self._table.put(row, pixels):
                new.add(row)
                pixels = None
            items.append(Item(row, int(positions[i]), texts, draws[i], pixels))
        self._table.mark(sorted(new))
        return items, bad

    def _read_one(self, row: int, known: bool, draws: np.ndarray) -> tuple[Texts, Pixels | None] | Bad:
        if row in self._bad:
            return self._bad[row]
        texts = self._texts.get(row)
        original = self._originals.get(row)
        wants_pixels = self._pictures and not known
        if texts is not None and (original is not None or not wants_pixels):
            return texts, self._pixels(original, draws) if original is not None else None
        try:
            sample = self._selection.read(row)
        except DataError as error:
            # Not remembered: a file system may recover.
            return Bad("unreadable sample", str(error))
        try:
            texts = texts or self._read_texts(sample)
            if self._remember:
                self._texts[row] = texts
            if not wants_pixels:
                return texts, None
            return texts, self._pixels(self._decode(row, sample), draws)
        except DataError as error:
            cause = error.cause if isinstance(error, PictureError) else "no caption"
            self._bad[row] = Bad(cause, f"{self._place(row)}: sample '{sample.key}': {error}")
            return self._bad[row]

    def _decode(self, row: int, sample: Sample) -> Image.Image:
        data = next((content for name, content in sample.media.items() if name in PICTURES), None)
        if data is None:
            raise PictureError("no picture", f"it has {', '.join(sample.media) or 'no media'}")
        image = open_image(data, smallest_side(self._config.image))
        if not self._opacity:
            image = lay_on(image, self._config.image.background)
        elif image.mode != "RGBA":
            image = image.convert("RGBA")
        self._originals.put(row, image)
        return image

    def _pixels(self, image: Image.Image, draws: np.ndarray) -> Pixels:
        return to_channels_first(
            make_square(image, self._config.image, draws[_CROP:] if self._crops else None)
        )

    def _read_texts(self, sample: Sample) -> Texts:
        rules = self._config.text
        captions = []
        problem: DataError | None = None
        for caption in sample.captions:
            try:
                captions.append(clean(caption, rules.clean, rules.max_words))
            except DataError as error:
                problem = error
        if not captions and self._tokenizer is not None:
            raise problem or DataError("it has no caption")
        return Texts(sample.key, match_number(sample), tuple(captions))

    def _place(self, row: int) -> str:
        one = type(self._selection)(self._selection.dataset, self._selection.rows[row : row + 1])
        return str(one.dataset.root / str(one.column("shard")[0]))

    def batch(self, items: Sequence[Item], skipped: dict[str, int]) -> Batch:
        """Put samples together; `skipped` counts those that are missing, by cause."""
        chosen = [self._choose(item) for item in items]
        ids = mask = None
        if self._tokenizer is not None:
            text = self._config.text
            sequences = [self._sequence(item.texts, c) for item, c in zip(items, chosen, strict=True)]
            longest = max(map(len, sequences), default=0)
            length = longest if text.padding == "longest" else text.max_tokens
            ids, mask = self._tokenizer.pad(sequences, length)
        captions = [item.texts.captions for item in items]
        return Batch(
            keys=[item.texts.key for item in items],
            positions=torch.tensor([item.position for item in items]),
            match_ids=torch.tensor([item.texts.match_id for item in items]),
            images=self._images(items) if self._pictures else None,
            texts=[found[c] if found else "" for found, c in zip(captions, chosen, strict=True)],
            text_ids=ids,
            text_mask=mask,
            captions=None if self._training else captions,
            skipped=skipped,
        )

    def _choose(self, item: Item) -> int:
        if not self._training or self._config.text.pick == "first":
            return 0
        return int(item.draws[_CAPTION] * len(item.texts.captions))

    def _sequence(self, texts: Texts, caption: int) -> list[int]:
        assert self._tokenizer is not None
        if caption not in texts.ids:
            found = self._tokenizer.sequence(texts.captions[caption], self._config.text.max_tokens)
            texts.ids[caption] = found
        return texts.ids[caption]

    def _images(self, items: Sequence[Item]) -> Tensor:
        """Return [B, 3 or 4, H, W] uint8."""
        stored = np.array([item.pixels is None for item in items])
        if stored.all():
            images = self._table.take([item.row for item in items])
        else:
            images = np.empty((len(items), *self._table.shape), dtype=np.uint8)
            images[stored] = self._table.take([item.row for item in items if item.pixels is None])
            for i, item in enumerate(items):
                if item.pixels is not None:
                    images[i] = item.pixels
        if self._training and self._config.image.flip:
            flips = np.array([item.draws[_FLIP] < self._config.image.flip for item in items])
            images[flips] = images[flips][..., ::-1]
        return torch.from_numpy(images)

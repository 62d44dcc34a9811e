"""Samples of the sources of a run, decoded, resized and tokenised; with a cache, not again in every epoch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from diptych.data.batch import Batch
from diptych.data.cache import Originals, PictureTable
from diptych.data.config import DataConfig
from diptych.data.decode import JpegDecoder, Pixels
from diptych.data.image import (
    CROP_DRAWS,
    Picture,
    PictureError,
    decode_fast,
    lay_on,
    mirror,
    open_image,
    smallest_side,
    square_into,
)
from diptych.data.members import PICTURES
from diptych.data.order import uniforms
from diptych.data.plan import Drawn
from diptych.data.sample import Sample
from diptych.data.text import Tokenizer, clean
from diptych.errors import DataError, RemoteError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

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


@dataclass
class Piece:
    """What was read of some samples besides their pictures; n of them can be used. Pickles small."""

    kept: list[int] = field(default_factory=list)
    """[n] their places among the samples that were asked for."""
    keys: list[str] = field(default_factory=list)
    match_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    """Token ids of each, without padding; empty without a tokenizer."""
    captions: list[tuple[str, ...]] = field(default_factory=list)
    """All captions of each (evaluation)."""
    bad: list[Bad] = field(default_factory=list)

    def add(self, other: "Piece", start: int) -> None:
        """Put a piece behind this one; its samples were asked for from place `start` on."""
        self.kept += [start + place for place in other.kept]
        self.keys += other.keys
        self.match_ids += other.match_ids
        self.texts += other.texts
        self.sequences += other.sequences
        self.captions += other.captions
        self.bad += other.bad


def match_number(sample: Sample) -> int:
    """Return the 64-bit hash of `match_id`, or of the key where it is empty; the same in every process.

    A leading letter tells keys from match ids, so that a key never matches another sample's match id.
    """
    name = f"m{sample.match_id}" if sample.match_id else f"k{sample.key}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class SampleReader:
    """Reads samples of several sources and puts them together to batches.

    In training, flips, crops and captions are drawn by (seed, position); otherwise nothing is random, all
    captions are there and pictures have three channels.

    Attributes:
        shape: of a picture in a batch, (height, width, channels); None if no source has pictures.
    """

    def __init__(
        self,
        sources: "Sequence[Selection]",
        config: DataConfig,
        tokenizer: Tokenizer | None,
        *,
        seed: int,
        labels: Sequence[str] = (),
        training: bool = True,
    ) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._seed, self._training, self._labels = seed, training, list(labels)
        self._crops = training and config.image.resize == "random_crop"
        size, channels = config.image.size, 4 if training and config.augment.keeps_opacity else 3
        total = sum(map(len, sources))
        budget = config.loader.cache_mb * 2**20 if training else 0
        decoder = JpegDecoder()
        self._sources = [
            _Source(
                selection,
                config,
                (size, size, channels),
                decoder,
                budget=budget * len(selection) // max(total, 1),
                crops=self._crops,
                needs_text=tokenizer is not None,
            )
            for selection in sources
        ]
        pictures = any(source.pictures for source in self._sources)
        self.shape = (size, size, channels) if pictures else None

    def room(self, count: int) -> Pixels | None:
        """Return fresh memory for the pictures of `count` samples."""
        return None if self.shape is None else np.empty((count, *self.shape), dtype=np.uint8)

    def read(self, drawn: Drawn, out: Pixels | None) -> Piece:
        """Read samples; the n that can be used put their pictures into the first n rows of `out`.

        Args:
            drawn: the samples.
            out: as many rows as samples of `shape`, or None where that is None. A sample of a source without
                pictures beside samples of others with pictures gets a black one.
        """
        columns = _CROP + (CROP_DRAWS if self._crops else 0)
        draws = uniforms(self._seed, drawn.positions, columns)
        flips = draws[:, _FLIP] < (self._config.image.flip if self._training else 0.0)
        piece = Piece()
        samples = zip(drawn.sources.tolist(), drawn.rows.tolist(), strict=True)
        for i, (source, row) in enumerate(samples):
            place = None if out is None else out[len(piece.kept)]
            found = self._sources[source].read(row, place, draws[i, _CROP:])
            if isinstance(found, Bad):
                piece.bad.append(found)
                continue
            if place is not None and flips[i]:
                mirror(place)
            piece.kept.append(i)
            self._tell(piece, found, float(draws[i, _CAPTION]))
        return piece

    def _tell(self, piece: Piece, texts: Texts, draw: float) -> None:
        random = self._training and self._config.text.pick == "random"
        caption = int(draw * len(texts.captions)) if random else 0
        piece.keys.append(texts.key)
        piece.match_ids.append(texts.match_id)
        piece.texts.append(texts.captions[caption] if texts.captions else "")
        if not self._training:
            piece.captions.append(texts.captions)
        if self._tokenizer is not None:
            if caption not in texts.ids:
                limit = self._config.text.max_tokens
                texts.ids[caption] = self._tokenizer.sequence(texts.captions[caption], limit)
            piece.sequences.append(texts.ids[caption])

    def batch(self, drawn: Drawn, piece: Piece, images: Pixels | None, skipped: dict[str, int]) -> Batch:
        """Make a batch of what was read.

        Args:
            drawn: the samples that were asked for.
            piece: what was read of them.
            images: [n, H, W, C], pictures of those that can be used; the batch shows this memory.
            skipped: how many are missing, by cause.
        """
        ids = mask = packed = None
        kept = np.asarray(piece.kept, dtype=np.int64)
        if self._tokenizer is not None:
            text = self._config.text
            longest = max(map(len, piece.sequences), default=0)
            length = longest if text.padding == "longest" else text.max_tokens
            ids, mask = self._tokenizer.pad(piece.sequences, length)
            if drawn.packs is not None:
                from diptych.data.packing import pack_texts

                pad = self._tokenizer.pad_id
                packed = pack_texts(piece.sequences, drawn.packs[kept], text.max_tokens, pad)
        sources = drawn.sources[kept]
        return Batch(
            keys=piece.keys,
            positions=torch.from_numpy(drawn.positions[kept]),
            match_ids=torch.tensor(piece.match_ids, dtype=torch.int64),
            images=None if images is None else torch.from_numpy(images).permute(0, 3, 1, 2),
            texts=piece.texts,
            text_ids=ids,
            text_mask=mask,
            packed=packed,
            sources=torch.from_numpy(sources) if len(self._sources) > 1 else None,
            labels=[self._labels[s] for s in sources.tolist()] if self._labels else None,
            captions=None if self._training else piece.captions,
            skipped=skipped,
        )


class _Source:
    """Samples of one selection, and what is remembered of them."""

    def __init__(
        self,
        selection: "Selection",
        config: DataConfig,
        shape: tuple[int, int, int],
        decoder: JpegDecoder,
        *,
        budget: int,
        crops: bool,
        needs_text: bool,
    ) -> None:
        self.selection, self._config, self._decoder = selection, config, decoder
        self.pictures = not PICTURES.isdisjoint(selection.dataset.extensions)
        self._opacity, self._crops, self._needs_text = shape[2] == 4, crops, needs_text
        self._reduce_to = smallest_side(config.image)
        self._remember = budget > 0
        self._bad: dict[int, Bad] = {}
        self._texts: dict[int, Texts] = {}
        self._originals = Originals(budget if crops else 0)
        table_budget = 0 if crops or not self.pictures else budget
        self._table = PictureTable(len(selection), shape, table_budget, shared=config.loader.workers > 0)

    def read(self, row: int, out: Pixels | None, draws: np.ndarray) -> Texts | Bad:
        """Read a sample and write its picture [H, W, C] into `out`; `draws` are for the crop."""
        if row in self._bad:
            return self._bad[row]
        if out is not None and not self.pictures:
            out[:] = 0
        out = out if self.pictures else None
        texts = self._texts.get(row)
        if texts is not None and self._from_memory(row, out, draws):
            return texts
        try:
            sample = self.selection.read(row)
        except RemoteError:
            # No fault of this sample: leaving it out would leave out whatever else lies there.
            raise
        except DataError as error:
            # Not remembered: a file system may recover.
            return Bad("unreadable sample", str(error))
        try:
            return self._from_sample(row, sample, texts, out, draws)
        except DataError as error:
            cause = error.cause if isinstance(error, PictureError) else "no caption"
            where = self.selection.address(row)
            self._bad[row] = Bad(cause, f"{where}: sample '{sample.key}': {error}")
            return self._bad[row]

    def _from_memory(self, row: int, out: Pixels | None, draws: np.ndarray) -> bool:
        if out is None or self._table.get(row, out):
            return True
        original = self._originals.get(row)
        if original is None:
            return False
        self._square(out, original, draws)
        return True

    def _from_sample(
        self, row: int, sample: Sample, texts: Texts | None, out: Pixels | None, draws: np.ndarray
    ) -> Texts:
        texts = texts or self._read_texts(sample)
        if self._remember:
            self._texts[row] = texts
        if out is not None and not self._table.get(row, out):
            picture = self._decode(sample)
            self._originals.put(row, picture)
            self._square(out, picture, draws)
            self._table.put(row, out)
        return texts

    def _decode(self, sample: Sample) -> Picture:
        data = next((content for name, content in sample.media.items() if name in PICTURES), None)
        if data is None:
            raise PictureError("no picture", f"it has {', '.join(sample.media) or 'no media'}")
        pixels = decode_fast(data, self._decoder, self._reduce_to)
        if pixels is not None:
            return pixels
        image = open_image(data, self._reduce_to)
        if not self._opacity:
            image = lay_on(image, self._config.image.background)
        return image if image.mode == "RGBA" else np.array(image)

    def _square(self, out: Pixels, picture: Picture, draws: np.ndarray) -> None:
        square_into(out, picture, self._config.image, draws if self._crops else None)

    def _read_texts(self, sample: Sample) -> Texts:
        rules = self._config.text
        captions = []
        problem: DataError | None = None
        for caption in sample.captions:
            try:
                captions.append(clean(caption, rules.clean, rules.max_words))
            except DataError as error:
                problem = error
        if not captions and self._needs_text:
            raise problem or DataError("it has no caption")
        return Texts(sample.key, match_number(sample), tuple(captions))

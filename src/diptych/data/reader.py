"""Samples of the sources of a run, decoded, resized and tokenised; with a cache, not again in every epoch."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.clips import ClipReader, lengths_of
from diptych.data.config import DataConfig
from diptych.data.decode import JpegDecoder, Pixels
from diptych.data.examples import OPTIONS
from diptych.data.fit import frame_side, padded
from diptych.data.image import CROP_DRAWS, PictureError, mirror
from diptych.data.look import Look, PictureDecoder
from diptych.data.members import COUNTED, is_picture, is_video
from diptych.data.order import uniforms
from diptych.data.plan import Drawn
from diptych.data.sample import Sample
from diptych.data.still_reader import StillReader
from diptych.data.text import Tokenizer, clean
from diptych.data.tile_reader import TileReader
from diptych.errors import ConfigError, DataError, RemoteError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

ALL_CAPTIONS = "captions"
"""Among the facts asked for: all captions of each sample, in training too."""
_CAPTION = 1
"""Column of the draws of a sample that chooses captions; the others: flip and crop of each picture."""
_FRAMES = 1
"""Stream of the draws that choose frames of clips."""


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
    entry: dict[str, Any] | None = None
    """The question, statement or choice that the row is."""
    facts: tuple[Any, ...] = ()
    """What the sample says of what the reader was asked to bring (`SampleReader.facts`)."""
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
    """Token ids of each caption shown, without padding; empty without a tokenizer."""
    captions: list[tuple[str, ...]] = field(default_factory=list)
    """All captions of each (evaluation, or where they are asked for)."""
    facts: list[tuple[Any, ...]] = field(default_factory=list)
    """Of each what was asked for, in that order."""
    entries: list[dict[str, Any] | None] = field(default_factory=list)
    """The question, statement or choice of each; None for samples."""
    sizes: list[list[tuple[int, int]]] = field(default_factory=list)
    """Height and width of the picture(s) of each in their frames; empty where all fill them."""
    grids: list[list[tuple[int, int, int]]] = field(default_factory=list)
    """Rows, columns and views of each picture of each; empty where pictures are not cut into tiles."""
    shown: list[list[bool]] = field(default_factory=list)
    """Of clips, which frames are shown for the first time; empty for pictures."""
    bad: list[Bad] = field(default_factory=list)

    def add(self, other: "Piece", start: int) -> None:
        """Put a piece behind this one; its samples were asked for from place `start` on."""
        self.kept += [start + place for place in other.kept]
        self.keys += other.keys
        self.match_ids += other.match_ids
        self.texts += other.texts
        self.sequences += other.sequences
        self.captions += other.captions
        self.facts += other.facts
        self.entries += other.entries
        self.sizes += other.sizes
        self.grids += other.grids
        self.shown += other.shown
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
        facts: names of facts of samples (`Sample.meta`) that batches bring in `extra`.
        shape: of what a sample shows in a batch: (height, width, channels), with a 2 in front where it has
            two pictures and with their number in front for the frames of clips; None if no source has
            pictures.
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
        facts: Sequence[str] = (),
        wordless: Collection[str] = (),
    ) -> None:
        self._all_captions = not training or ALL_CAPTIONS in facts
        self.facts = tuple(name for name in facts if name != ALL_CAPTIONS)
        self._config, self._tokenizer = config, tokenizer
        self._seed, self._training, self._labels = seed, training, list(labels)
        self._crops = training and config.image.resize in ("random_crop", "zoom_crop")
        self._fits = config.image.resize == "fit"
        size = frame_side(config.image) if self._fits else config.image.size
        channels = 4 if training and config.augment.keeps_opacity else 3
        pair = [selection.kind == "statements" for selection in sources]
        if any(pair) and not all(pair):
            raise ConfigError("data.sources: rows with one picture and rows with two do not mix in a run")
        offers = [selection.kind == "choices" for selection in sources]
        if any(offers) and not all(offers):
            raise ConfigError("data.sources: rows with one text and rows of choices do not mix in a run")
        self._offers = any(offers)
        self._told = OPTIONS if self._offers else config.text.per_picture if training else 1
        """Texts of a row in a batch."""
        self._pictures = 2 if any(pair) else 1
        """Pictures of a sample that are cut and turned by themselves."""
        self._frames = config.video.frames * config.video.views(training)
        self._tiles = config.image.resize == "tiles"
        several = self._frames or (2 if any(pair) else 0)
        if self._tiles:
            if size != config.image.tiling.tile:
                raise ConfigError(
                    f"data.image.size = {size}, but tiles have a side of {config.image.tiling.tile} pixels "
                    "(tiling.tile); make them equal"
                )
            self._pictures = config.image.pictures
            several = self._pictures * config.image.tiling.most_views(training)
        shape = (several, size, size, channels) if several else (size, size, channels)
        total = sum(map(len, sources))
        budget = config.loader.cache_mb * 2**20 if training else 0
        decoder = JpegDecoder()
        self._sources = [
            _Source(
                selection,
                config,
                shape,
                decoder,
                budget=budget * len(selection) // max(total, 1),
                training=training,
                needs_text=tokenizer is not None and not (labels and labels[i] in wordless),
                facts=self.facts,
            )
            for i, selection in enumerate(sources)
        ]
        pictures = any(source.pictures for source in self._sources)
        self.shape = shape if pictures else None

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
        sized = self._training and (self._fits or (self._tiles and self._config.image.tiling.random_size))
        own = 1 + (CROP_DRAWS if self._crops else 1 if sized else 0)
        draws = uniforms(self._seed, drawn.positions, 1 + self._pictures * own)
        pictures = np.delete(draws, _CAPTION, axis=1).reshape(-1, self._pictures, own)
        flips = pictures[..., 0] < (self._config.image.flip if self._training else 0.0)
        frames = self._frame_draws(drawn)
        piece = Piece()
        shown: list[tuple[Texts, list[int]]] = []
        samples = zip(drawn.sources.tolist(), drawn.rows.tolist(), strict=True)
        for i, (source, row) in enumerate(samples):
            place = None if out is None else out[len(piece.kept)]
            look = Look(pictures[i, :, 1:] if own > 1 else None, None if frames is None else frames[i])
            found = self._sources[source].read(row, place, look)
            if isinstance(found, Bad):
                piece.bad.append(found)
                continue
            piece.kept.append(i)
            if self._fits:
                piece.sizes.append(look.sizes)
            if self._tiles:
                piece.grids.append(look.grids)
            if self._frames:
                piece.shown.append(look.shown)
            shown.append((found, self._tell(piece, found, float(draws[i, _CAPTION]))))
            if place is not None and flips[i].any() and self._may_mirror(piece.texts[-1], found.entry):
                for picture in np.flatnonzero(flips[i]).tolist():
                    shows = place if self._pictures == 1 else place[picture]
                    height, width = look.sizes[picture] if self._fits else shows.shape[-3:-1]
                    mirror(shows[..., :height, :width, :])
        if self._tokenizer is not None:
            # Not between the pictures, which push the tokenizer's tables out of the processor's cache.
            piece.sequences = [
                self._sequence(self._tokenizer, texts, number) for texts, chosen in shown for number in chosen
            ]
        return piece

    def _frame_draws(self, drawn: Drawn) -> np.ndarray | None:
        """Return [n, frames] numbers that choose frames in training, None where nothing is drawn."""
        if not self._frames or not self._training:
            return None
        return uniforms(self._seed, drawn.positions, self._frames, stream=_FRAMES)

    def _may_mirror(self, text: str, entry: dict[str, Any] | None) -> bool:
        words = self._config.image.flip_unless
        if not words:
            return True
        told = " ".join([text, *_texts_of(entry)]).lower()
        return not any(word.lower() in told for word in words)

    def _tell(self, piece: Piece, texts: Texts, draw: float) -> list[int]:
        """Note what a sample shows besides its pictures; return the numbers of its captions."""
        chosen = self._choose(len(texts.captions), draw)
        caption = chosen[0]
        piece.keys.append(texts.key)
        piece.match_ids.append(texts.match_id)
        if self._offers and texts.entry is not None:
            piece.texts.append(str(texts.entry.get("question", "")))
        else:
            piece.texts.append(texts.captions[caption] if texts.captions else "")
        piece.entries.append(texts.entry)
        piece.facts.append(texts.facts)
        if self._all_captions:
            piece.captions.append(texts.captions)
        return chosen

    def _choose(self, count: int, draw: float) -> list[int]:
        """Return which captions a batch shows: one; in training `text.per_picture`; all of choices."""
        if self._offers:
            return list(range(count))
        random = self._training and self._config.text.pick == "random"
        wanted = self._config.text.per_picture if self._training else 1
        if wanted == 1 or not count:
            return [int(draw * count) if random else 0] * wanted
        if not random:
            return [i % count for i in range(wanted)]
        numbers = np.random.default_rng(int(draw * 2**53))
        chosen: list[int] = []
        while len(chosen) < wanted:
            chosen += numbers.permutation(count).tolist()
        return chosen[:wanted]

    def _sequence(self, tokenizer: Tokenizer, texts: Texts, caption: int) -> list[int]:
        if caption not in texts.ids:
            told = texts.captions[caption] if texts.captions else ""
            texts.ids[caption] = tokenizer.sequence(told, self._config.text.max_tokens)
        return texts.ids[caption]

    def batch(self, drawn: Drawn, piece: Piece, images: Pixels | None, skipped: dict[str, int]) -> Batch:
        """Make a batch of what was read.

        Args:
            drawn: the samples that were asked for.
            piece: what was read of them.
            images: [n, H, W, C] or [n, 2 or frames, H, W, C], pictures of those that can be used; the batch
                shows this memory.
            skipped: how many are missing, by cause.
        """
        ids = mask = packed = None
        kept = np.asarray(piece.kept, dtype=np.int64)
        if self._tokenizer is not None:
            text = self._config.text
            longest = max(map(len, piece.sequences), default=0)
            length = longest if text.padding == "longest" else text.max_tokens
            ids, mask = self._tokenizer.pad(piece.sequences, length)
            if self._told > 1:
                rows = (len(piece.keys), self._told, ids.shape[-1])
                ids, mask = ids.view(rows), mask.view(rows)
            if drawn.packs is not None:
                from diptych.data.packing import pack_texts

                pad = self._tokenizer.pad_id
                packed = pack_texts(piece.sequences, drawn.packs[kept], text.max_tokens, pad)
        sources = drawn.sources[kept]
        frames = sizes = None
        if images is not None:
            frames, sizes = self._framed(images, piece) if self._fits else (images, None)
            frames = _used(images, piece.grids) if self._tiles else frames
        return Batch(
            keys=piece.keys,
            positions=torch.from_numpy(drawn.positions[kept]),
            match_ids=torch.tensor(piece.match_ids, dtype=torch.int64),
            images=None if frames is None else torch.from_numpy(frames).movedim(-1, -3),
            image_sizes=sizes,
            frame_mask=None if images is None else _mask(piece.shown),
            texts=piece.texts,
            text_ids=ids,
            text_mask=mask,
            packed=packed,
            sources=torch.from_numpy(sources) if len(self._sources) > 1 else None,
            labels=[self._labels[s] for s in sources.tolist()] if self._labels else None,
            captions=piece.captions if self._all_captions else None,
            skipped=skipped,
            extra=self._extra(piece, sources.tolist()),
        )

    def _framed(self, images: Pixels, piece: Piece) -> tuple[Pixels, Tensor]:
        """Cut the frames of a batch to its largest picture; what is outside of a picture becomes black."""
        several = self._frames or self._pictures
        sizes = np.array(piece.sizes, dtype=np.int64).reshape(len(images), several, 2)
        multiple = self._config.image.multiple
        height, width = (padded(int(side), multiple) for side in sizes.max((0, 1), initial=1))
        cut = images[..., :height, :width, :]
        each = cut[:, None] if cut.ndim == 4 else cut
        for shows, own in zip(each, sizes.tolist(), strict=True):
            for frame, (h, w) in zip(shows, own, strict=True):
                frame[h:] = 0
                frame[:h, w:] = 0
        found = torch.from_numpy(sizes)
        return cut, found[:, 0] if cut.ndim == 4 else found

    def _extra(self, piece: Piece, sources: list[int]) -> dict[str, Any]:
        """Return facts by their names, and entries by their kind with None at rows of another kind."""
        kinds = [source.selection.kind for source in self._sources]
        grids = {"grids": piece.grids} if self._tiles else {}
        return (
            grids
            | {name: [found[i] for found in piece.facts] for i, name in enumerate(self.facts)}
            | {
                kind: [e if kinds[s] == kind else None for e, s in zip(piece.entries, sources, strict=True)]
                for kind in dict.fromkeys(kinds)
                if kind in COUNTED
            }
        )


class _Source:
    """Samples of one selection, and what is remembered of them."""

    def __init__(
        self,
        selection: "Selection",
        config: DataConfig,
        shape: tuple[int, ...],
        decoder: JpegDecoder,
        *,
        budget: int,
        training: bool,
        needs_text: bool,
        facts: tuple[str, ...] = (),
    ) -> None:
        self._facts = facts
        self.selection, self._config, self._needs_text = selection, config, needs_text
        self._remember = budget > 0
        self._bad: dict[int, Bad] = {}
        self._texts: dict[int, Texts] = {}
        clips = config.video.frames > 0
        self.pictures = any(
            is_picture(name) or (clips and is_video(name)) for name in selection.dataset.extensions
        )
        decode = PictureDecoder(config.image, shape[-1], decoder)
        budget = budget if self.pictures else 0
        self._pictures: StillReader | ClipReader | TileReader
        if config.image.resize == "tiles":
            self._pictures = TileReader(config, decode, budget=budget, training=training)
        elif clips:
            self._pictures = ClipReader(
                config, lengths_of(selection), shape[-3:], decode, budget=budget, training=training
            )
        else:
            self._pictures = StillReader(config, len(selection.samples), shape, decode, budget=budget)

    def read(self, row: int, out: Pixels | None, look: Look) -> Texts | Bad:
        """Read a sample and write its picture(s) into `out`, [H, W, C] or [2 or frames, H, W, C]."""
        if row in self._bad:
            return self._bad[row]
        if out is not None and not self.pictures:
            self._blacken(out, look)
        out = out if self.pictures else None
        texts = self._texts.get(row)
        first = texts is None
        # Rows about the same sample show the same pictures.
        number = self.selection.sample_of(row)
        if texts is not None and (out is None or self._pictures.from_memory(number, out, look)):
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
            texts = texts or self._read_texts(sample)
            if self._remember:
                self._texts[row] = texts
            # Another row about the same sample may have brought its pictures.
            if out is not None and not (first and self._pictures.from_memory(number, out, look)):
                self._pictures.read(number, sample, out, look)
            return texts
        except DataError as error:
            cause = error.cause if isinstance(error, PictureError) else "no caption"
            where = self.selection.address(row)
            self._bad[row] = Bad(cause, f"{where}: sample '{sample.key}': {error}")
            return self._bad[row]

    def _blacken(self, out: Pixels, look: Look) -> None:
        """Show nothing: a small black picture, or a black clip."""
        image = self._config.image
        if image.resize == "tiles":
            return
        frames = 1 if out.ndim == 3 else len(out)
        side = image.multiple if image.resize == "fit" else image.size
        out[..., :side, :side, :] = 0
        look.sizes += [(side, side)] * frames
        look.shown += [True] + [False] * (frames - 1)

    def _read_texts(self, sample: Sample) -> Texts:
        rules = self._config.text
        captions = []
        problem: DataError | None = None
        for caption in sample.captions:
            try:
                captions.append(clean(caption, rules.clean, rules.max_words))
            except DataError as error:
                problem = error
        kind = self.selection.kind
        if problem is not None and kind == "choices":
            raise problem  # an option less, and the place of the right one is another
        if not captions and self._needs_text:
            raise problem or DataError("it has no caption")
        entry = sample.meta[kind][0] if kind in COUNTED else None
        facts = tuple(sample.meta.get(name) for name in self._facts)
        return Texts(sample.key, match_number(sample), tuple(captions), entry, facts)


def _used(images: Pixels, grids: list[list[tuple[int, int, int]]]) -> Pixels:
    """Return [B, n, S, S, 3], n the most views of a sample (at least 1); those that one lacks are black."""
    counts = [sum(views for *_, views in own) for own in grids]
    cut = images[:, : max([1, *counts])]
    for shows, count in zip(cut, counts, strict=True):
        shows[count:] = 0
    return cut


def _mask(shown: list[list[bool]]) -> Tensor | None:
    """Return [B, frames] bool, or None where no clip shows a frame twice."""
    mask = torch.tensor(shown, dtype=torch.bool)
    return None if bool(mask.all()) else mask


def _texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_of(part)

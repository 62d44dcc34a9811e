"""Captions, questions, statements or choices about pictures, one row each, in place of samples.

A sample's JSON lists them under `captions`, `questions`, `statements` or `choices`; the index says how many
there are.
N samples, M rows.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.members import COUNTED, SIDECARS, is_picture, unpack
from diptych.data.places import Place
from diptych.data.sample import Sample
from diptych.data.selection import VERIFY, Selection
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.index import ShardDataset

_LOG = logging.getLogger(__name__)

TEXT = {"questions": "question", "statements": "statement", "choices": "question"}
"""Kind of rows -> the field of an entry that is the row's text; of choices it may be empty."""
OPTIONS = 5
"""Texts that a choice offers."""
PARTNER = "pair_other"
"""Fact (and column) of a sample: key of the sample whose picture its statements are about, too."""
SIDE = "pair_side"
"""Fact of a sample: `right` puts its picture behind that of its partner."""


def expand(samples: Selection, kind: str) -> Selection:
    """Return the rows that `data.examples = kind` makes of samples; `samples` leaves them as they are.

    Raises:
        DataError: there are samples, and none of them has such entries; or statements about pairs of
            pictures where the dataset names no second one.
    """
    if kind == "samples":
        return samples
    rows = Examples(samples, kind)
    if len(samples) and not len(rows):
        raise DataError(
            f"{samples.dataset.root}: data.examples = {kind}, but none of the {len(samples)} samples "
            f"lists any under `{kind}` in its JSON; set data.examples to samples, or select others"
        )
    return rows


class Examples(Selection):
    """The entries of selected samples, sample after sample. Memory: 8 bytes a sample.

    A row is read as its sample with the entry's text as the only caption, and the entry (a question,
    statement or choice) alone in `meta[kind]`. The captions of a choice are its options (`option_texts`).
    Rows of statements have two pictures, `0.<extension>` and `1.<extension>`: those of the sample in the
    order of their names, or its picture and that of its partner (`meta.pair_other`), which need not be
    selected.

    Attributes:
        kind: `captions`, `questions`, `statements` or `choices`.
    """

    def __init__(self, samples: Selection, kind: str) -> None:
        """Count the entries; from the samples themselves, once, where the index does not tell.

        Raises:
            DataError: the index or a sample cannot be read, or the dataset has no pairs of pictures.
        """
        super().__init__(samples.dataset, None)
        self._samples, self.kind = samples, kind
        counts = _counts(samples, kind)
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._partners = _partners(samples.dataset) if kind == "statements" else None
        pictures = sum(map(is_picture, samples.dataset.extensions))
        if kind == "statements" and len(self) and self._partners is None and pictures < 2:
            raise DataError(
                f"{samples.dataset.root}: data.examples = statements needs two pictures a statement: samples "
                f"with two of them (0.jpg and 1.jpg), or the fact `{PARTNER}` with the key of another sample"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def samples(self) -> Selection:
        """The samples that the rows are about."""
        return self._samples

    def sample_of(self, i: int) -> int:
        """Return the number in `samples` of the sample that the i-th row is about."""
        return self._find(i)[0]

    def rows_of(self, numbers: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows in the index of the samples that some of the rows 0..M-1 are about; int64."""
        if isinstance(numbers, slice):
            numbers = np.arange(*numbers.indices(len(self)), dtype=np.int64)
        return self.samples.rows_of(self._owners(numbers))

    def place(self, i: int) -> Place:
        """Return where the sample of the i-th row lies.

        Raises:
            IndexError: `i` is not in 0..M-1.
        """
        return self.samples.place(self._find(i)[0])

    def read(self, i: int) -> Sample:
        """Return the i-th row as a sample.

        Raises:
            IndexError: `i` is not in 0..M-1.
            DataError: the sample (or its partner) is damaged, or the entry is not of the kind.
            RemoteError: the place it comes from cannot be reached.
        """
        number, entry = self._find(i)
        sample = self.samples.read(number)
        if self.kind == "captions":
            return replace(sample, captions=(sample.captions[entry],))
        found = sample.meta[self.kind][entry]
        texts = _texts(found, self.kind)
        if not texts:
            wanted = f"no text '{TEXT[self.kind]}'"
            if self.kind == "choices":
                wanted = f"no {OPTIONS} texts in `options`, or no place of the right one (from 0) in `answer`"
            shown = json.dumps(found, ensure_ascii=False)[:100]
            where = f"{self.address(i)}: sample '{sample.key}': entry {entry} of `{self.kind}`"
            raise DataError(f"{where} has {wanted}: {shown}")
        media = self._two_pictures(sample, number) if self.kind == "statements" else sample.media
        meta = {name: value for name, value in sample.meta.items() if name not in COUNTED}
        return Sample(sample.key, media, texts, sample.match_id, sample.split, {**meta, self.kind: [found]})

    def _two_pictures(self, sample: Sample, number: int) -> dict[str, bytes]:
        own = _pictures(sample)
        if len(own) == 1 and self._partners is not None:
            row = int(self._partners[self.samples.rows_of(np.array([number]))[0]])
            if row >= 0:
                other = _pictures(self._everything.read(row))[:1]
                own = other + own if sample.meta.get(SIDE) == "right" else own + other
        if len(own) != 2:
            raise DataError(
                f"{self.samples.address(number)}: sample '{sample.key}': its statements need two pictures, "
                f"{len(own)} found; expected two among its members (0.jpg and 1.jpg), or one and `{PARTNER}` "
                f"with the key of a sample of this dataset (it is {sample.meta.get(PARTNER)!r})"
            )
        return {f"{i}.{name.rpartition('.')[2]}": data for i, (name, data) in enumerate(own)}

    @functools.cached_property
    def _everything(self) -> Selection:
        return Selection(self.dataset, None)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what the dataset says of each row (a question or statement), in order; no picture is read.

        Raises:
            DataError: a shard cannot be read.
        """
        for entries in all_entries(self.samples, self.kind):
            yield from (entry if isinstance(entry, dict) else {} for entry in entries)

    def will_need(self, numbers: NDArray[np.int64] | Sequence[int]) -> None:
        """Say which of the rows 0..M-1 are read next, in this order; a remote store fetches ahead."""
        rows = self.rows_of(np.asarray(numbers, dtype=np.int64))
        if self._partners is not None:
            rows = np.stack([rows, self._partners[rows]], axis=1).reshape(-1)
            rows = rows[rows >= 0]
        self._everything.will_need(rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns; what the index tells of the first caption's tokens does not hold here."""
        return [name for name in self.dataset.columns if name != "text_tokens"]

    def column(self, name: str) -> NDArray[Any] | list[Any]:
        """Return a column of the index for each row; `text_chars` are the letters of the rows' own texts.

        Raises:
            DataError: there is no such column; the message has the nearest name.
        """
        if name == "text_chars":
            self.prefetch()
            return self._letters()
        values = self.samples.column(name)
        owners = self._owners(np.arange(len(self), dtype=np.int64))
        return values[owners] if isinstance(values, np.ndarray) else [values[i] for i in owners.tolist()]

    def _letters(self) -> NDArray[np.int32]:
        """Return the letters of each row's text; read from the samples once, then mapped from a file."""

        def make(out: Path) -> None:
            rows = (entry for entries in all_entries(self.samples, self.kind) for entry in entries)
            letters = (sum(map(len, _texts(entry, self.kind))) for entry in rows)
            with out.open("wb") as file:
                np.save(file, np.fromiter(letters, dtype=np.int32, count=len(self)))

        path = self.dataset.derived(f"letters-{self.fingerprint[:24]}.npy", make)
        return np.asarray(np.load(path, mmap_mode="r"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex hash of the samples' fingerprint and the kind of rows."""
        return hashlib.sha256(f"{self.samples.fingerprint} {self.kind} {len(self)}\n".encode()).hexdigest()

    def _find(self, i: int) -> tuple[int, int]:
        """Return the number of the sample of a row, and that of the entry within the sample."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)} {self.kind}")
        number = int(np.searchsorted(self._ends, i, side="right"))
        return number, i - (int(self._ends[number - 1]) if number else 0)

    def _owners(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, numbers, side="right").astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"samples": self.samples, "kind": self.kind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["samples"], state["kind"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Examples({len(self)} {self.kind} of {self.samples!r})"


def _pictures(sample: Sample) -> list[tuple[str, bytes]]:
    return [(name, sample.media[name]) for name in sorted(sample.media) if is_picture(name)]


def option_texts(choice: Any) -> tuple[str, ...]:
    """Return the texts to choose from, each behind the question if there is one; empty: it is no choice.

    A choice is an object with `OPTIONS` texts in `options`, the place of the right one (from 0) in `answer`
    (it may be missing or null, where owners keep it back) and, perhaps, a `question`.
    """
    match choice:
        case {"options": [*options]} if len(options) == OPTIONS and all(isinstance(o, str) for o in options):
            question, answer = choice.get("question", ""), choice.get("answer")
            if not isinstance(question, str) or not (answer is None or answer in range(OPTIONS)):
                return ()
            return tuple(f"{question.strip()} {option}".strip() for option in options)
        case _:
            return ()


def _texts(entry: Any, kind: str) -> tuple[str, ...]:
    """Return the texts that a row shows; empty: the entry is of another kind."""
    if kind == "choices":
        return option_texts(entry)
    text = entry if kind == "captions" else entry.get(TEXT[kind]) if isinstance(entry, dict) else None
    return (text,) if isinstance(text, str) else ()


def _counts(samples: Selection, kind: str) -> NDArray[Any]:
    """Return how many entries each sample has, [N]."""
    import pyarrow as pa

    dataset = samples.dataset
    if kind in dataset.columns:
        rows = None if len(samples) == dataset.size else samples.rows
        known = dataset.take([kind], rows).column(0)
        if pa.types.is_integer(known.type):
            return np.asarray(known.fill_null(0).to_numpy())

    # Made under the same lock as what follows, if it has to be.
    everything = Selection(dataset, None).prefetch()

    def make(out: Path) -> None:
        counts = (len(entries) for entries in all_entries(everything, kind))
        with out.open("wb") as file:
            np.save(file, np.fromiter(counts, dtype=np.uint32, count=dataset.size))

    found = np.load(dataset.derived(f"{kind}-{_digest(dataset)}.npy", make), mmap_mode="r")
    return np.asarray(found[samples.rows])


def all_entries(samples: Selection, kind: str) -> Iterator[list[Any]]:
    """Yield the entries of each sample; only its texts are read. Rows (`Examples`) stand for their samples.

    Raises:
        DataError: a shard cannot be read.
    """
    samples = samples.samples if isinstance(samples, Examples) else samples
    dataset, unclear = samples.dataset, 0
    for i in range(len(samples)):
        place = samples.place(i)
        shard = dataset.shards[place.shard]
        spots = {name: place.members[name] for name in SIDECARS if name in place.members}
        try:
            texts = {
                name: dataset.read_bytes(shard, place.offset + start, size)
                for name, (start, size) in spots.items()
                if name == "json" or kind == "captions"
            }
            sample = unpack(place.key, texts)
            entries = list(sample.captions) if kind == "captions" else sample.meta.get(kind)
        except OSError as error:
            raise DataError(
                f"{dataset.store.place(shard)}: sample '{place.key}' cannot be read: "
                f"{error.strerror or error}; {VERIFY}"
            ) from error
        except ValueError:
            # Training would leave it out as well.
            entries, unclear = [], unclear + 1
        yield entries if isinstance(entries, list) else []
    if unclear:
        _LOG.warning("%s: the JSON of %d samples cannot be understood; %s", dataset.root, unclear, VERIFY)


def _partners(dataset: "ShardDataset") -> NDArray[Any] | None:
    """Return the row of each sample's partner, -1 without one; None where the index names no partners."""
    if PARTNER not in dataset.columns:
        return None

    def make(out: Path) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = dataset.take(["key", PARTNER])
        others = table.column(PARTNER).cast(pa.string())
        rows = pc.index_in(others, value_set=table.column("key")).fill_null(-1)
        with out.open("wb") as file:
            np.save(file, rows.to_numpy().astype(np.int32))

    found: NDArray[np.int32] = np.load(
        dataset.derived(f"partners-{_digest(dataset)}.npy", make), mmap_mode="r"
    )
    return found


def _digest(dataset: "ShardDataset") -> str:
    return str(dataset.info["index"]["sha256"])[:24]

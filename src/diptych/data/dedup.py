"""Duplicates within and across datasets: equal bytes, equal bytes with equal texts, pictures that look alike.

N samples: first those of the sets that are only compared with (A of them), then the others.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.data.dedup_confirm import LEVELS, Colours
from diptych.data.dedup_search import leaders, near_pairs
from diptych.data.index import ShardDataset
from diptych.data.members import COUNTED, SIDECARS, media_hash, unpack
from diptych.data.phash import Report, hashes_of, tells_much

if TYPE_CHECKING:
    from diptych.data.selection import Selection

Kind = Literal["sample", "media", "near"]
KINDS: tuple[Kind, ...] = ("sample", "media", "near")
"""Equal media and texts; equal media; pictures that look alike. Each looks for the ones before it, too."""
DISTANCE = 3
"""Differing bits of two pictures that look alike, where nothing else is said."""
MOST_LEVELS = 255
Numbers = NDArray[np.int64]

_SAMPLE, _MEDIA, _NEAR = range(3)
_NO_MEDIA = media_hash({})


@dataclass(frozen=True)
class NamedSet:
    """Samples that are compared."""

    name: str
    """Folder, and split after a colon."""
    selection: "Selection"

    @classmethod
    def open(cls, text: str) -> "NamedSet":
        """Open `DIR` or `DIR:SPLIT`.

        Raises:
            DataError: no such dataset or split.
        """
        path, colon, split = text.rpartition(":")
        if not colon or "//" in split or Path(text).exists():
            path, split = text, ""
        name = Path(path).resolve().name + (f":{split}" if split else "")
        return cls(name, ShardDataset.open(path).select(split or None))


@dataclass(frozen=True)
class Duplicates:
    """Samples that are like another one which stays."""

    table: pa.Table
    """One row each: group, kind, distance, set, key, split, kept_set, kept_key, kept_split (see `SCHEMA`)."""
    samples: int
    """Of the sets in which duplicates were looked for."""
    unhashed: int
    """Pictures and videos that cannot be decoded."""
    plain: int
    """Pictures that show too little for looking alike to mean something."""


SCHEMA = pa.schema(
    [
        pa.field("group", pa.int64()),  # the same for all that are like one sample
        pa.field("kind", pa.string()),
        pa.field("distance", pa.int16()),  # differing bits; 0 of equal media
        *(pa.field(name, pa.string()) for name in ("set", "key", "split")),
        *(pa.field(name, pa.string()) for name in ("kept_set", "kept_key", "kept_split")),
    ]
)


def find_duplicates(
    sets: Sequence[NamedSet],
    against: Sequence[NamedSet] = (),
    *,
    kind: Kind = "near",
    distance: int = DISTANCE,
    levels: float = LEVELS,
    workers: int | None = 1,
    progress: Report | None = None,
) -> Duplicates:
    """Find samples that are like another one.

    Without `against`, of samples that are alike the first one stays, in the order of the sets; whatever is
    found is alike to one that stays. With `against`, only samples that are like one of those sets are found
    (leakage), each with the nearest of them.

    Args:
        sets: where duplicates are looked for.
        against: sets of which nothing may be in `sets`.
        kind: what counts; pictures of samples with several pictures only count against other sets.
        distance: bits in which the hashes of pictures that look alike may differ, at most.
        levels: levels of 255 by which their colours may differ on average; 255: any.
        workers: shards that are hashed at a time.
        progress: told how many samples of a set are hashed.

    Raises:
        DataError: a set cannot be read.
        UsageError: a distance out of range.
    """
    given = [*against, *sets]
    ends = np.cumsum([len(one.selection) for one in given])
    count, border = int(ends[-1]), int(ends[len(against) - 1]) if against else 0
    found = _Found(count, border)
    codes = _media_codes(given)
    found.exact(_with_texts(given, codes), _SAMPLE)
    if kind != "sample":
        found.exact(codes, _MEDIA)
    unhashed = plain = 0
    if kind == "near":
        owners, hashes, unhashed = _hashes(given, len(against), workers, progress)
        useful = tells_much(hashes)
        plain = int((~useful & (owners >= border)).sum())
        found.confirm_by(Colours([one.selection for one in given], ends), levels)
        found.near(owners[useful], hashes[useful], distance)
    return Duplicates(found.table(given, ends), count - border, unhashed, plain)


class _Found:
    """Which sample each sample is like."""

    def __init__(self, count: int, border: int) -> None:
        self._border = border
        self._kept = np.arange(count)
        self._kind = np.full(count, -1, dtype=np.int8)
        self._bits = np.zeros(count, dtype=np.int16)
        self._colours: Colours | None = None
        self._levels = LEVELS

    def confirm_by(self, colours: Colours, levels: float) -> None:
        """Let samples that look alike be so only if their colours are, too."""
        self._colours, self._levels = colours, levels

    def exact(self, codes: Numbers, kind: int) -> None:
        """Note samples of equal codes; -1 is equal to nothing."""
        there = np.flatnonzero(codes >= 0)
        _, first, inverse = np.unique(codes[there], return_index=True, return_inverse=True)
        leader = there[first[inverse]]
        self._note(there, leader, kind, np.zeros(len(there), dtype=np.int16))

    def _note(self, samples: Numbers, leader: Numbers, kind: int, bits: NDArray[np.int16]) -> None:
        new = (self._kind[samples] < 0) & (leader != samples)
        if self._border:
            new &= (samples >= self._border) & (leader < self._border)
        if kind == _NEAR and self._colours is not None and self._levels < MOST_LEVELS:
            new[new] = self._colours.alike(samples[new], leader[new], self._levels)
        self._kept[samples[new]] = leader[new]
        self._kind[samples[new]] = kind
        self._bits[samples[new]] = bits[new]
        # What was like one that goes, is now like the one that stays; that is how alike it is said to be.
        moved = np.flatnonzero(self._kept[self._kept] != self._kept)
        through = self._kept[moved]
        self._kind[moved] = np.maximum(self._kind[moved], self._kind[through])
        self._bits[moved] = np.maximum(self._bits[moved], self._bits[through])
        self._kept[moved] = self._kept[through]

    def near(self, owners: Numbers, hashes: NDArray[np.uint64], distance: int) -> None:
        """Note samples whose pictures look alike."""
        if self._border:
            self._near_border(owners, hashes, distance)
            return
        single = np.bincount(owners, minlength=len(self._kept))[owners] == 1
        owners, hashes = owners[single], hashes[single]
        different, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        # In the order in which they first come, so that the first one stays.
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        leader, bits = leaders(near_pairs(different[order], distance), len(order))
        mine = leader[place[inverse]]
        self._note(owners, owners[first[order]][mine], _NEAR, bits[place[inverse]].astype(np.int16))

    def _near_border(self, owners: Numbers, hashes: NDArray[np.uint64], distance: int) -> None:
        split = int(np.searchsorted(owners, self._border))
        theirs, first = np.unique(hashes[:split], return_index=True)
        ours, inverse = np.unique(hashes[split:], return_inverse=True)
        pairs = near_pairs(np.concatenate([theirs, ours]), distance, border=len(theirs))
        bits = np.full(len(ours), 255, dtype=np.int16)
        nearest = np.zeros(len(ours), dtype=np.int64)
        # The nearest last: it overwrites the others.
        order = np.lexsort((-pairs.first, -pairs.distance.astype(np.int16)))
        bits[pairs.second[order] - len(theirs)] = pairs.distance[order]
        nearest[pairs.second[order] - len(theirs)] = owners[:split][first[pairs.first[order]]]
        close = bits[inverse] < 255
        samples, leader, bits = owners[split:][close], nearest[inverse][close], bits[inverse][close]
        order = np.lexsort((bits, samples))
        _, best = np.unique(samples[order], return_index=True)
        chosen = order[best]
        self._note(samples[chosen], leader[chosen], _NEAR, bits[chosen])

    def table(self, sets: Sequence[NamedSet], ends: Numbers) -> pa.Table:
        """Return what was found, group after group."""
        rows = np.flatnonzero(self._kind >= 0)
        rows = rows[np.lexsort((rows, self._kept[rows]))]
        kept = self._kept[rows]
        columns: dict[str, Any] = {
            "group": np.unique(kept, return_inverse=True)[1],
            "kind": np.array(KINDS)[self._kind[rows]] if len(rows) else [],
            "distance": self._bits[rows],
        }
        for prefix, numbers in (("", rows), ("kept_", kept)):
            for name, values in _names(sets, ends, numbers).items():
                columns[prefix + name] = values
        return pa.table(columns).select(SCHEMA.names).cast(SCHEMA)


def _names(sets: Sequence[NamedSet], ends: Numbers, numbers: Numbers) -> dict[str, NDArray[np.object_]]:
    """Return set, key and split of samples."""
    found = {name: np.empty(len(numbers), dtype=object) for name in ("set", "key", "split")}
    owner = np.searchsorted(ends, numbers, side="right")
    for i, one in enumerate(sets):
        mine = np.flatnonzero(owner == i)
        if not len(mine):
            continue
        inside = numbers[mine] - (ends[i] - len(one.selection))
        wanted, inverse = np.unique(inside, return_inverse=True)
        table = one.selection.dataset.take(["key", "split"], one.selection.rows_of(wanted))
        found["set"][mine] = one.name
        for name in ("key", "split"):
            found[name][mine] = table.column(name).cast(pa.string()).to_numpy(zero_copy_only=False)[inverse]
    return found


def _media_codes(sets: Sequence[NamedSet]) -> Numbers:
    """Return numbers, [N], equal where the media are; -1 without media."""
    chunks: list[pa.Array] = []
    for one in sets:
        rows = None if len(one.selection) == one.selection.dataset.size else one.selection.rows
        chunks += one.selection.dataset.take(["sha256"], rows).column(0).cast(pa.string()).chunks
    table = pa.table({"code": pa.chunked_array(chunks, pa.string()).dictionary_encode()}).unify_dictionaries()
    pieces = table.column(0).chunks
    codes = np.concatenate(
        [np.empty(0, dtype=np.int64), *(piece.indices.to_numpy().astype(np.int64) for piece in pieces)]
    )
    names = pieces[0].dictionary.to_pylist() if pieces else []
    if _NO_MEDIA in names:
        codes[codes == names.index(_NO_MEDIA)] = -1
    return codes


def _with_texts(sets: Sequence[NamedSet], codes: Numbers) -> Numbers:
    """Return numbers, [N], equal where media and texts are; -1 where nothing can be equal.

    Only the texts of samples with equal media are read, and of those without any.
    """
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    wanted = (counts[inverse] > 1) | (codes < 0)
    found = np.full(len(codes), -1, dtype=np.int64)
    known: dict[bytes, int] = {}
    start = 0
    for one in sets:
        end = start + len(one.selection)
        for number in np.flatnonzero(wanted[start:end]).tolist():
            texts = _texts(one.selection, number)
            if texts is not None:
                digest = hashlib.blake2b(texts, digest_size=16, salt=codes[start + number].tobytes()).digest()
                found[start + number] = known.setdefault(digest, len(known))
        start = end
    return found


def _texts(selection: "Selection", number: int) -> bytes | None:
    """Return captions, questions and statements of a sample as JSON; None if they cannot be read."""
    place = selection.place(number)
    shard = selection.dataset.shards[place.shard]
    try:
        members = {
            name: selection.dataset.read_bytes(shard, place.offset + offset, size)
            for name, (offset, size) in place.members.items()
            if name in SIDECARS
        }
        sample = unpack(place.key, members)
    except (OSError, ValueError):
        return None
    said = [sample.captions, *(sample.meta.get(name) for name in COUNTED)]
    return json.dumps(said, sort_keys=True).encode()


def _hashes(
    sets: Sequence[NamedSet], against: int, workers: int | None, progress: Report | None
) -> tuple[Numbers, NDArray[np.uint64], int]:
    """Return the samples that have hashes, the hashes, and how many pictures of the later sets have none."""
    owners, hashes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)]
    start = unreadable = 0
    for i, one in enumerate(sets):
        made = hashes_of(one.selection, workers=workers, progress=progress)
        owners.append(made.owners + start)
        hashes.append(made.hashes)
        unreadable += made.unreadable if i >= against else 0
        start += len(one.selection)
    return np.concatenate(owners), np.concatenate(hashes), unreadable

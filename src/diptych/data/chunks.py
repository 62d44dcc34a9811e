"""What a card yields, cut into chunks: a chunk becomes one shard, wherever and whenever it is written."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import diptych
from diptych.data.cards.base import LeftOut, Unread
from diptych.data.members import MAX_KEY, clean_key, is_key
from diptych.data.sample import Sample
from diptych.data.shards import GIB, KeySet

EXAMPLES = 5
"""Samples named for each kind of problem."""
MAX_HELD = 256 * 2**20
"""Bytes of texts and media of a chunk that are in memory, and not in raw files, at most."""


@dataclass
class Tally:
    """Problems by cause, each with its first few examples."""

    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, cause: str, key: str, detail: str) -> None:
        """Count a problem of a sample."""
        self.add({cause: 1}, {cause: [f"{key}: {detail}" if key else detail]})

    def add(self, problems: Mapping[str, int], examples: Mapping[str, list[str]]) -> None:
        """Count what another tally has."""
        self.problems.update(problems)
        for cause, more in examples.items():
            named = self.examples.setdefault(cause, [])
            named += more[: EXAMPLES - len(named)]


@dataclass(frozen=True)
class Chunk:
    """Samples that make one shard."""

    number: int
    """Of the shard, from 0."""
    items: tuple[Sample | Unread, ...]
    """What is to be stored; the keys are good and occur once in the dataset."""
    drawn: int
    """How many the card yielded for it, with those that were left out at once."""
    tally: Tally
    """Of those."""
    fingerprint: str
    """Hex hash of all that goes into the shard and its tally; of media in raw files, the places and sizes."""


def cut(
    drawn: Iterable[Sample | Unread | LeftOut], shard_size: int, max_bytes: int = GIB, home: str = ""
) -> Iterator[Chunk]:
    """Yield what a card yields as chunks, which depend on nothing else.

    What can be told without reading media is settled here: bad and repeated keys, empty samples, and what the
    card leaves out. A chunk ends before the sample that would make it too large, so there may be left-out
    things behind its last sample, or nothing else in it.

    Args:
        drawn: what the card yields.
        shard_size: samples in a chunk, at most.
        max_bytes: bytes of their media, as far as known, at most (a single larger sample gets its own chunk).
        home: start of paths that fingerprints leave out, so that raw files may be moved.
    """
    keys, open_chunk = KeySet(), _Open(0, home)
    for item in drawn:
        settled = _settle(item, keys)
        if not isinstance(settled, LeftOut) and open_chunk.is_full(settled, shard_size, max_bytes):
            yield open_chunk.close()
            open_chunk = _Open(open_chunk.number + 1, home)
        open_chunk.append(settled)
    if open_chunk.drawn:
        yield open_chunk.close()


def _settle(item: Sample | Unread | LeftOut, keys: KeySet) -> Sample | Unread | LeftOut:
    """Return the item, or what is left out in its place; remember its key."""
    if isinstance(item, LeftOut):
        return item
    sample = sample_of(item)
    key, stored = sample.key, stored_key(sample.key)
    if not is_key(stored):
        return LeftOut("bad key", key, f"a key has 1 to {MAX_KEY} letters, digits, '_' and '-'")
    if stored in keys:
        return LeftOut("repeated key", key, "the key is already in the dataset")
    if not sample.media and item is sample and not any(text.strip() for text in sample.captions):
        return LeftOut("empty sample", key, "neither media nor captions")
    keys.add(stored)
    return item


def sample_of(item: Sample | Unread) -> Sample:
    """Return the sample, whose media may still be in raw files."""
    return item.sample if isinstance(item, Unread) else item


def stored_key(key: str) -> str:
    """Return the key as it is stored."""
    return key if is_key(key) else clean_key(key)


class _Open:
    """The chunk that samples are put into."""

    def __init__(self, number: int, home: str) -> None:
        self.number, self.drawn, self._home = number, 0, home
        self._items: list[Sample | Unread] = []
        self._bytes = self._held = 0
        self._tally = Tally()
        # Another version may write other bytes for the same samples.
        self._digest = hashlib.blake2b(diptych.__version__.encode(), digest_size=16)

    def is_full(self, item: Sample | Unread, shard_size: int, max_bytes: int) -> bool:
        held, size = _sizes(item)
        return bool(self._items) and (
            len(self._items) >= shard_size
            or self._bytes + size > max_bytes
            or self._held + held > min(MAX_HELD, max_bytes)
        )

    def append(self, item: Sample | Unread | LeftOut) -> None:
        self.drawn += 1
        self._digest.update(_identify(item, self._home))
        if isinstance(item, LeftOut):
            self._tally.count(item.cause, item.key, item.detail)
            return
        held, size = _sizes(item)
        self._held, self._bytes = self._held + held, self._bytes + size
        self._items.append(item)

    def close(self) -> Chunk:
        return Chunk(self.number, tuple(self._items), self.drawn, self._tally, self._digest.hexdigest())


def _sizes(item: Sample | Unread) -> tuple[int, int]:
    """Return the bytes (about) that are in memory, and all, as far as they are known."""
    sample = sample_of(item)
    held = sum(map(len, sample.media.values())) + sum(map(len, sample.captions))
    if isinstance(item, Unread):
        return held, held + sum(ref.size or 0 for ref in item.refs.values())
    return held, held


def _identify(item: Sample | Unread | LeftOut, home: str) -> bytes:
    """Return bytes that differ for items that make different samples."""
    if isinstance(item, LeftOut):
        return _as_bytes(["left out", item.cause, item.key, item.detail])
    sample = sample_of(item)
    media = {name: hashlib.sha256(data).hexdigest() for name, data in sample.media.items()}
    refs = {}
    if isinstance(item, Unread):
        refs = {name: repr(ref) for name, ref in item.refs.items()}
        if home:
            refs = {name: text.replace(home, "") for name, text in refs.items()}
    said = [sample.key, list(sample.captions), sample.match_id, sample.split, dict(sample.meta)]
    return _as_bytes([*said, media, refs])


def _as_bytes(value: Any) -> bytes:
    try:
        return json.dumps(value, default=repr).encode() + b"\n"
    except (TypeError, ValueError):  # a defect of the card, which the writer names
        return repr(value).encode(errors="surrogatepass")

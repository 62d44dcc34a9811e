"""One sample as a dataset card yields it and as a shard stores it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A picture (or clip) with its texts and facts, before decoding.

    A shard stores it as `key.<media extension>` (bytes as they are), `key.txt` (the first caption) and
    `key.json` (`captions`, `match_id` and `meta`).
    """

    key: str
    """Unique within the dataset; letters, digits, `_` and `-` (WebDataset splits at the first dot)."""
    media: Mapping[str, bytes]
    """Extension without dot (`jpg`, `png`, `webp`, `mp4`, ...) to encoded bytes."""
    captions: tuple[str, ...] = ()
    """Texts that describe the sample, the principal one first."""
    match_id: str = ""
    """Samples with equal ids match each other's texts (a picture listed twice, a concept in several styles).
    Empty means that only the sample itself matches: its key is used."""
    split: str = "train"
    """The split the dataset's owners (or the card) put it in."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further facts, JSON types only. Numbers, texts and booleans at the top level become index columns."""

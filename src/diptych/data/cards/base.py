"""Dataset cards: what a dataset is, where it comes from, and how it becomes samples."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from diptych.data.sample import Sample


@dataclass(frozen=True)
class Source:
    """A file or folder as the dataset's owners distribute it."""

    path: str
    """Where it lies under the raw folder."""
    origin: str
    """Where the user gets it."""
    required: bool = True


@dataclass(frozen=True)
class Split:
    """A named selection of a prepared dataset."""

    where: str
    """SQL condition over the index, for example `split = 'train'` or `style = 'twemoji'`."""
    expected: int | None = None
    """Number of samples when everything is there; preparation warns if it differs."""
    note: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Something of the raw files that is in no sample, in place of one; preparation counts it by cause."""

    cause: str
    key: str
    """Names it, for example the key that the sample would have."""
    detail: str


class Convert(Protocol):
    """Turns raw files into samples, in an order that does not change between calls.

    `raw` is None when the card can do without (data that ships with the package); `options` are the card's
    own.
    """

    def __call__(self, raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
        """Yield the samples, and what is left out."""
        ...


@dataclass(frozen=True)
class Card:
    """A dataset as data plus one function; renders its own documentation."""

    name: str
    title: str
    description: str
    licence: str
    convert: Convert
    splits: Mapping[str, Split]
    sources: tuple[Source, ...] = ()
    version: str = "1"
    """Raised when `convert` yields different samples from the same raw files."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Option name -> description with its default, for `diptych data prepare CARD -o name=value`."""
    citation: str = ""
    homepage: str = ""
    needs_raw: bool = True
    annotations: tuple[str, ...] = ()
    """Options that name further raw files, with commas."""
    facts: Callable[[Path | None, Mapping[str, str]], Mapping[str, Any]] | None = None
    """Returns what else is known of the whole dataset (JSON types), for `facts` in `dataset.json`; gets what
    `convert` gets."""

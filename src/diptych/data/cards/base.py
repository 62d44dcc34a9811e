"""Dataset cards: what a dataset is, where it comes from, and how it becomes samples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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


class Convert(Protocol):
    """Turns raw files into samples, in an order that does not change between calls.

    `raw` is None when the card can do without (data that ships with the package); `options` are the card's
    own.
    """

    def __call__(self, raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        """Yield the samples."""
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

"""Dataset cards: what a dataset is, where it comes from, and how it becomes samples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from diptych.data.raw.refs import Ref
from diptych.data.sample import Sample


@dataclass(frozen=True)
class Source:
    """A file or folder as the dataset's owners distribute it."""

    path: str
    """Where it lies under the raw folder; `*` stands for any letters (several files)."""
    origin: str
    """Where the user gets it."""
    required: bool = True
    alternatives: tuple[str, ...] = ()
    """Other places that do as well, for example the folder that an archive unpacks to."""


@dataclass(frozen=True)
class Split:
    """A named selection of a prepared dataset."""

    where: str
    """SQL condition over the index, for example `split = 'train'` or `style = 'twemoji'`."""
    expected: int | None = None
    """Number of samples when everything is there; preparation warns if it differs."""
    note: str = ""
    texts: int | None = None
    """Number of captions, questions and statements when everything is there; the same."""
    about: bool = False
    """The numbers are known roughly: only a difference of more than 5 % is worth a warning."""


@dataclass(frozen=True)
class LeftOut:
    """Something of the raw files that is in no sample, in place of one; preparation counts it by cause."""

    cause: str
    key: str
    """Names it, for example the key that the sample would have."""
    detail: str


@dataclass(frozen=True)
class Unread:
    """A sample whose media are still in the raw files: a worker reads them when its shard is written."""

    sample: Sample
    """All but the media."""
    refs: Mapping[str, Ref]
    """Extension (see `Sample.media`) -> where the medium lies."""


class Convert(Protocol):
    """Turns raw files into samples, in an order that does not change between calls.

    `raw` is None when the card can do without (data that ships with the package); `options` are the card's
    own. Reading annotations is the card's work, reading media that of the workers: yield `Unread`.
    """

    def __call__(self, raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
        """Yield the samples, and what is left out."""
        ...


class Facts(Protocol):
    """Returns what else is known of the whole dataset (JSON types); gets what `Convert` gets."""

    def __call__(self, raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
        """Return the entries of `facts` in `dataset.json`."""
        ...


@dataclass(frozen=True)
class Layout:
    """Another form of the raw files that a card reads, for `diptych data prepare --layout NAME`."""

    description: str
    """Whose layout it is, and what `--raw` is."""
    convert: Convert
    sources: tuple[Source, ...]
    facts: Facts | None = None


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
    example: Mapping[str, str] = field(default_factory=dict)
    """Options of the command that documentation shows, for cards that do nothing without; the miniature
    has these files."""
    citation: str = ""
    homepage: str = ""
    needs_raw: bool = True
    annotations: tuple[str, ...] = ()
    """Options that name further raw files, with commas."""
    facts: Facts | None = None
    """What else is known of the whole dataset, for `facts` in `dataset.json`."""
    media: Literal["image", "video", "text"] = "image"
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """Other forms of the raw files by name."""
    target_set: str = ""
    """Name of the target set for `diptych targets build`, where tasks on the dataset have one. A set that
    does not ship with Diptych is made of the prepared dataset: the card tells `facts`."""
    prepared: str = ""
    """What a prepared sample holds: key, media, captions, columns, entries of the JSON (Markdown)."""
    oddities: str = ""
    """What is strange in the raw files, and what becomes of it (Markdown)."""
    miniature: str = ""
    """"module:function" of the generator of a tiny raw folder in the true format, oddities included:
    `make(raw: Path, layout: str = "") -> None`."""
    shard_size: int = 5000
    """Samples in a shard where the user does not say (fewer for videos)."""

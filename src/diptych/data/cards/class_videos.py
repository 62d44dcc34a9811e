"""What the cards of videos in classes share: folders of classes, `annotation.json`, the samples of both."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.class_sets import (
    MISSING_VIDEO,
    REPEATED_ENTRY,
    Classes,
    MediaKeys,
    bad_entry,
    draw_order,
    ending,
    stem,
)
from diptych.data.cards.imagenet_labels import UNDRAWN
from diptych.data.cards.video_lists import read_object, shown
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import lines
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample
from diptych.data.shards import KeySet
from diptych.errors import DataError

SPLITS = {"training": "train", "validation": "val", "testing": "test"}
"""Names of folders and subsets -> split."""
EXCLUDED = "exclude_list.txt"
"""List of files to leave out, one a line."""

_TIMED = re.compile(r"(.{11})_(\d{6})_(\d{6})", re.DOTALL)
_ID = 11
"""Letters of a YouTube id."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video of a list or folder."""

    name: str
    """As it is looked for."""
    split: str
    label: str
    """Name of the class; empty where it is not told."""
    meta: Mapping[str, Any] = field(default_factory=dict)


Find = Callable[[Video], Mapping[str, Ref] | None]
"""Returns extension -> where a video lies, or None."""


def samples(
    videos: Sequence[Video | LeftOut], classes: Classes, find: Find, where: str, seed: int | None = None
) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each video.

    Args:
        videos: in their order.
        classes: of the dataset.
        find: where a video lies.
        where: names the list or folder in messages.
        seed: of the entries `draw` and `drawn_of`, see `draw_order`; None: without.

    Raises:
        DataError: there are labels that are no class.
    """
    classes.check((video.label for video in videos if isinstance(video, Video) and video.label), where)
    drawn = {} if seed is None else _drawn(videos, classes, find, seed)
    keys, seen = MediaKeys(), KeySet()
    for video in videos:
        if isinstance(video, LeftOut):
            yield video
            continue
        entry = f"{video.split}/{video.label}/{video.name}"
        if entry in seen:
            yield LeftOut(REPEATED_ENTRY, stem_of(video.name), entry)
            continue
        seen.add(entry)
        key, refs = keys.make(stem_of(video.name), f"{video.split}/{video.label}"), find(video)
        if not refs:
            yield LeftOut(MISSING_VIDEO, key, video.name)
            continue
        meta = {**video.meta, **(classes.meta(video.label) if video.label else {})}
        if seed is not None:
            meta |= drawn[classes.find(video.label)](video.name) if video.split == "train" else UNDRAWN
        yield Unread(Sample(key, {}, (), "", video.split, meta), refs)


def _drawn(
    videos: Sequence[Video | LeftOut], classes: Classes, find: Find, seed: int
) -> dict[int | None, Callable[[str], dict[str, int]]]:
    """Return the orders of the training videos of each class that are there."""
    names: dict[int | None, set[str]] = {}
    for video in videos:
        if isinstance(video, Video) and video.split == "train" and find(video):
            names.setdefault(classes.find(video.label), set()).add(video.name)
    return {
        label: draw_order(list(found), "" if label is None else classes.names[label], seed)
        for label, found in names.items()
    }


def stem_of(name: str) -> str:
    """Return the name of a video without folders, and without ending if it has one."""
    return stem(name) if ending(name) in VIDEOS else name.rpartition("/")[2]


def clip_meta(name: str) -> dict[str, Any]:
    """Return what the name of a clip of YouTube says: `youtube_id`, and `start`, `end` in seconds."""
    timed = _TIMED.fullmatch(name)
    if timed:
        return {"youtube_id": timed[1], "start": int(timed[2]), "end": int(timed[3])}
    return {"youtube_id": name} if len(name) == _ID else {}


def in_folders(
    folder: RawFolder, places: Mapping[str, Sequence[str]], about: Callable[[str], Mapping[str, Any]]
) -> Iterator[Video | LeftOut]:
    """Yield the videos `class/name` below the places of each split, by name.

    Args:
        folder: of the raw files.
        places: split -> where to look.
        about: name without ending -> entries of meta.

    Yields:
        Videos; files that lie in no folder of a class, or are no videos, as left out.
    """
    for split, where in places.items():
        for name in folder.media(*where).names():
            label, slash, rest = name.partition("/")
            if not slash or ending(name) not in VIDEOS:
                yield bad_entry(f"{split}/{name}", "a video in the folder of its class", name)
            else:
                yield Video(name, split, label, about(stem_of(rest)))


def in_annotation(
    folder: RawFolder, place: str, about: Callable[[str], Mapping[str, Any]]
) -> Iterator[Video | LeftOut]:
    """Yield the videos of an `annotation.json`: `{"database": {file: {subset, annotations: {label}}}}`.

    Raises:
        DataError: it is of another form.
    """
    database = read_object(folder, place).get("database")
    if not isinstance(database, dict):
        raise DataError(f"{shown(folder, place)}: expected an object `database`")
    for name, entry in database.items():
        match entry:
            case {"subset": str() as subset, "annotations": {"label": str() as label}} if subset in SPLITS:
                yield Video(f"{label}/{name}", SPLITS[subset], label, about(stem_of(name)))
            case _:
                expected = f"`subset` ({', '.join(SPLITS)}) and `annotations.label`"
                yield bad_entry(f"{place}: {name}", expected, entry)


def without_excluded(
    folder: RawFolder, places: Sequence[str], videos: Iterator[Video | LeftOut]
) -> list[Video | LeftOut]:
    """Return the videos; those that the list of files to leave out names are left out."""
    excluded: set[str] = set()
    if folder.find(*places):
        with folder.text(*places) as stream:
            excluded = {line.strip().rpartition("/")[2] for _, line in lines(stream)} - {""}
    return [
        LeftOut("excluded", stem_of(video.name), f"{EXCLUDED} names it")
        if isinstance(video, Video) and video.name.rpartition("/")[2] in excluded
        else video
        for video in videos
    ]


def finder(folder: RawFolder, places: Mapping[str, Sequence[str]]) -> Find:
    """Return a function that finds videos by their names below the places of their split."""
    media = {split: folder.media(*where) for split, where in places.items()}

    def find(video: Video) -> Mapping[str, Ref] | None:
        ref = media[video.split].get(video.name) if video.split in media else None
        return None if ref is None else {ending(video.name): ref}

    return find

"""The `imagenet-21k` card: all of ImageNet, one folder or tar for each synset."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import (
    MISSING_PICTURE,
    Classes,
    MediaKeys,
    bad_entry,
    ending,
    needed,
    stem,
)
from diptych.data.cards.imagenet import HOMEPAGE, LICENCE
from diptych.data.cards.imagenet_labels import class_places, is_wnid
from diptych.data.members import PICTURES
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample
from diptych.data.targets.names import class_ids, class_names
from diptych.errors import DataError

NAME = "imagenet-21k"
ROOTS = ("", "fall11_whole.tar", "winter21_whole.tar", "imagenet22k", "imagenet21k")
"""Where folders and tars of synsets lie."""
LIST = "imagenet_22k_filelist_short.txt"
_TREE = "imagenet22k"
_FIRST = 1000
"""Classes that are those of ImageNet-1k."""


@cache
def _classes() -> Classes:
    return Classes(NAME, class_ids(NAME))


def _about(wnid: str) -> dict[str, Any]:
    label = _classes().find(wnid)
    assert label is not None, wnid  # checked before
    return {"label": label, "class_name": _names()[label], "wnid": wnid}


@cache
def _names() -> tuple[str, ...]:
    return class_names(NAME)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the pictures, synset by synset in the order of their ids.

    Raises:
        DataError: there are none, or folders called like synsets that are none.
    """
    folder, keys = RawFolder(needed(NAME, raw)), MediaKeys()
    places = {name: where for name, where in class_places(folder, ROOTS).items() if is_wnid(name)}
    if not places:
        raise DataError(f"{folder.root}: expected folders or tars of synsets, n00004475.tar and so on")
    _classes().check(places, folder.root)
    for wnid in sorted(places):
        media, about = folder.media(*places[wnid]), _about(wnid)
        for name in media.names():
            ref = media.get(name) if ending(name) in PICTURES else None
            if ref is not None:
                key = keys.make(stem(name), wnid)
                yield Unread(Sample(key, {}, (), "", "train", about), {ending(name): ref})


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the pictures of Uni-Perceiver's list, in its order.

    Raises:
        DataError: the list is not there.
    """
    folder, keys = RawFolder(needed(NAME, raw)), MediaKeys()
    media = folder.media(_TREE)
    with folder.text(LIST, f"{_TREE}/{LIST}") as stream:
        for position, line in lines(stream):
            fields = line.split()
            match fields:
                case [wnid, number, label] if (
                    number.isdecimal() and label.isdecimal() and _classes().find(wnid) is not None
                ):
                    key, name = keys.make(f"{wnid}_{number}"), f"{wnid}/{wnid}_{number}.JPEG"
                    ref = media.get(name)
                    if ref is None:
                        yield LeftOut(MISSING_PICTURE, key, name)
                        continue
                    meta = {**_about(wnid), "listed_label": int(label)}
                    yield Unread(Sample(key, {}, (), "", "train", meta), {"jpg": ref})
                case []:
                    pass
                case _:
                    yield bad_entry(f"{LIST}:{position + 1}", "`wnid number class` with a known wnid", line)


CARD = Card(
    name=NAME,
    title="ImageNet-21k: classes of pictures",
    description=(
        "All of ImageNet as of fall 2011 (also called 22k): about 14.2 million pictures of 21,841 synsets. "
        "The first thousand classes are those of ImageNet-1k in their order, the others follow by WordNet "
        "id. A picture is labelled with its own synset only, though it belongs to all synsets above, too."
    ),
    licence=LICENCE,
    citation="J. Deng et al. ImageNet: A Large-Scale Hierarchical Image Database. CVPR 2009.",
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        Source(
            "n*",
            "a tar for each synset (`n00004475.tar`), or a folder; or all tars inside `fall11_whole.tar` or "
            "`winter21_whole.tar`",
            alternatives=ROOTS[1:],
        ),
    ),
    splits={
        "train": Split("split = 'train'", 14_197_122, about=True),
        "classes_of_1k": Split(f"label < {_FIRST}", note="pictures of the classes of ImageNet-1k"),
    },
    target_set=NAME,
    prepared=(
        "A sample is a picture. Key: its name, as in `n00004475_26`; media: `jpg` as published. Columns: "
        "`label`, `class_name` (the synset's first name), `wnid`; with Uni-Perceiver's list `listed_label`, "
        "the list's own number. No captions."
    ),
    oddities=(
        "Some files are cut off, others are web pages: both are counted as `unreadable picture` when shards "
        "are written. Some synsets have one picture. Later releases lack synsets; labels always come from "
        "the full list. Where the numbers of Uni-Perceiver's list differ from `label`, target sets imported "
        "from its pickles go by `listed_label`."
    ),
    miniature="diptych.data.miniatures.imagenet:make_imagenet_21k",
    layouts={
        "uniperceiver": Layout(
            "Uni-Perceiver's: `--raw` is its DATA_PATH. The pictures are those of its list.",
            convert_tree,
            (
                Source(LIST, "Uni-Perceiver's list of files", alternatives=(f"{_TREE}/{LIST}",)),
                Source(_TREE, HOMEPAGE),
            ),
        ),
    },
)

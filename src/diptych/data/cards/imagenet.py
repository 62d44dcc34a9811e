"""The `imagenet-1k` card: ILSVRC 2012, a thousand classes."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import (
    MISSING_PICTURE,
    Classes,
    MediaKeys,
    bad_entry,
    draw_order,
    ending,
    few_shot,
    needed,
    stem,
)
from diptych.data.cards.imagenet_labels import LABELS, UNDRAWN, class_places, read_labels
from diptych.data.cards.options import Options
from diptych.data.members import PICTURES
from diptych.data.raw.folder import INSIDE, Media, RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample
from diptych.data.targets.names import class_ids, class_names
from diptych.errors import DataError

NAME = "imagenet-1k"
TRAIN = ("train", "ILSVRC2012_img_train", "ILSVRC2012_img_train.tar")
VAL = ("val", "ILSVRC2012_img_val", "ILSVRC2012_img_val.tar")
TEST = (
    "test",
    "ILSVRC2012_img_test",
    "ILSVRC2012_img_test_v10102019.tar@/test",
    "ILSVRC2012_img_test.tar",
)
OPTIONS = {"draw_seed": "whole number that fixes the column `draw` (default 0)"}
LICENCE = (
    "as far as we recall for non-commercial research and education after accepting the owners' terms, "
    "pictures may not be passed on: have a person confirm it on the homepage"
)
HOMEPAGE = "https://www.image-net.org/"
_TREE = "imagenet"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the pictures for training class by class, then those for validation and testing by name.

    Raises:
        DataError: there are none, folders that are no class, or pictures for validation without labels.
    """
    folder, keys = RawFolder(needed(NAME, raw)), MediaKeys()
    seed = Options(NAME, options, OPTIONS).integer("draw_seed", 0, 0, 2**31)
    classes = wnid_classes()
    places = class_places(folder, TRAIN)
    classes.check(places, f"{folder.root}/train")
    flat = {split: folder.media(*where) for split, where in (("val", VAL), ("test", TEST))}
    names = {split: sorted(filter(_is_picture, media.names())) for split, media in flat.items()}
    if not places and not any(names.values()):
        raise DataError(
            f"{folder.root}: neither train nor val nor test is there; `diptych data show {NAME}` says what "
            "is expected"
        )
    for wnid in sorted(places):
        yield from _train(folder.media(*places[wnid]), wnid, classes, keys, seed)
    if names["val"]:
        yield from _val(folder, flat["val"], names["val"], classes, keys)
    for name in names["test"]:
        yield _sample(keys.make(stem(name)), name, flat["test"].get(name), "test", UNDRAWN)


def wnid_classes() -> Classes:
    """Return the thousand classes by WordNet id; `names` are the ids."""
    return Classes(NAME, class_ids(NAME))


def about(classes: Classes, wnid: str) -> dict[str, Any]:
    """Return the entries `label`, `class_name` and `wnid` of a class of ImageNet-1k."""
    label = classes.find(wnid)
    assert label is not None, wnid  # checked before
    return {"label": label, "class_name": class_names(NAME)[label], "wnid": wnid}


def _is_picture(name: str) -> bool:
    return ending(name) in PICTURES


def _sample(key: str, name: str, ref: Ref | None, split: str, meta: Mapping[str, Any]) -> Unread | LeftOut:
    if ref is None:
        return LeftOut(MISSING_PICTURE, key, name)
    return Unread(Sample(key, {}, (), "", split, meta), {ending(name): ref})


def _train(
    media: Media, wnid: str, classes: Classes, keys: MediaKeys, seed: int
) -> Iterator[Unread | LeftOut]:
    names = sorted(filter(_is_picture, media.names()))
    drawn, entry = draw_order(names, wnid, seed), about(classes, wnid)
    for name in names:
        yield _sample(keys.make(stem(name), wnid), name, media.get(name), "train", {**entry, **drawn(name)})


def _val(
    folder: RawFolder, media: Media, names: list[str], classes: Classes, keys: MediaKeys
) -> Iterator[Unread | LeftOut]:
    """Yield the pictures for validation: labels by folder where they have folders, else from a file."""
    in_folders = {name: name.rpartition("/")[0].rpartition("/")[2] for name in names if "/" in name}
    if in_folders:
        classes.check(in_folders.values(), f"{folder.root}/val")
        labels = {stem(name): classes.meta(wnid)["label"] for name, wnid in in_folders.items()}
    else:
        labels, wrong = read_labels(folder, classes)
        yield from wrong
    by_stem = {stem(name): name for name in names}
    for image in sorted(labels.keys() | by_stem.keys()):
        if image not in labels:
            yield LeftOut("no label", keys.make(image), f"{by_stem[image]}: no list names it")
            continue
        name, wnid = by_stem.get(image, ""), classes.names[labels[image]]
        ref = media.get(name) if name else None
        yield _sample(
            keys.make(image), name or f"{image}.JPEG", ref, "val", {**about(classes, wnid), **UNDRAWN}
        )


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the pictures that Uni-Perceiver's lists (`meta/*.txt`) name, in their order.

    Raises:
        DataError: a list is not there, or its labels are not the places of the sorted WordNet ids.
    """
    folder, keys = RawFolder(needed(NAME, raw)), MediaKeys()
    seed = Options(NAME, options, OPTIONS).integer("draw_seed", 0, 0, 2**31)
    classes = wnid_classes()
    for split in ("train", "val", "test"):
        listed = f"{_TREE}/meta/{split}.txt"
        if split == "test" and folder.find(listed) is None:
            continue
        media = folder.media(f"{_TREE}/{split}", f"{_TREE}/{split}.zip")
        wrong, rows = _listed(folder, listed, classes, split == "train")
        yield from wrong
        drawn = _drawn(rows, media, classes, seed) if split == "train" else {}
        for name, label in rows:
            meta: dict[str, Any] = {} if split == "test" else about(classes, classes.names[label])
            ref = media.get(name)
            meta |= UNDRAWN if ref is None or not drawn else drawn[label](name)
            yield _sample(keys.make(stem(name), split), name, ref, split, meta)


def _drawn(
    rows: list[tuple[str, int]], media: Media, classes: Classes, seed: int
) -> dict[int, Callable[[str], dict[str, int]]]:
    """Return the orders of the pictures of each class that are there."""
    by_label: dict[int, list[str]] = {}
    for name, label in rows:
        if media.get(name) is not None:
            by_label.setdefault(label, []).append(name)
    return {label: draw_order(names, classes.names[label], seed) for label, names in by_label.items()}


def _listed(
    folder: RawFolder, place: str, classes: Classes, by_class: bool
) -> tuple[list[LeftOut], list[tuple[str, int]]]:
    """Return what is wrong with a list, and its names and labels.

    Raises:
        DataError: a label is not that of the folder.
    """
    wrong: list[LeftOut] = []
    rows: dict[str, int] = {}
    with folder.text(place) as stream:
        for number, line in lines(stream):
            where = f"{place}:{number + 1}"
            name, _, text = line.rpartition(" ")
            label = int(text) if text.isascii() and text.isdigit() else -1
            if not line.strip():
                continue
            if not name or not 0 <= label < len(classes.names):
                wrong.append(bad_entry(where, "`path label` with a label from 0 to 999", line))
            elif name in rows:
                wrong.append(LeftOut("repeated entry", where, line))
            elif by_class and classes.find(name.partition("/")[0]) != label:
                wnid = name.partition("/")[0]
                raise DataError(
                    f"{folder.root}/{where}: '{name}' has label {label}; expected {classes.find(wnid)}, the "
                    "place of its folder among the sorted WordNet ids of all thousand classes"
                )
            else:
                rows[name] = label
    return wrong, list(rows.items())


CARD = Card(
    name=NAME,
    title="ImageNet-1k (ILSVRC 2012): classes of pictures",
    description=(
        "A thousand classes; 1,281,167 pictures to train on, 50,000 for validation and 100,000 for testing "
        "without labels. `train_1pct` and `train_10pct` are few-shot selections as Uni-Perceiver's: of each "
        "class `int(size * fraction) + 1` pictures, drawn at random; the column `draw` makes others."
    ),
    licence=LICENCE,
    citation=(
        "O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. International Journal of "
        "Computer Vision 115, 2015."
    ),
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        Source(
            TRAIN[2],
            "`ILSVRC2012_img_train.tar`, as it came, its inner tars in the folder `train`, or unpacked to "
            "`train/<wnid>/`",
            required=False,
            alternatives=TRAIN[:2],
        ),
        Source(VAL[2], "`ILSVRC2012_img_val.tar`, or unpacked", required=False, alternatives=VAL[:2]),
        Source(
            TEST[2].partition(INSIDE)[0],
            "the archive for testing, or unpacked",
            required=False,
            alternatives=(TEST[3], *TEST[:2]),
        ),
        Source(
            LABELS[0],
            "the labels for validation: the development kit (`ILSVRC2012_devkit_t12.tar.gz`), "
            "`LOC_val_solution.csv`, or a list `name label` with labels from 0 in the order of the WordNet "
            "ids; not needed where the pictures lie in a folder for each class",
            required=False,
            alternatives=LABELS[1:],
        ),
    ),
    splits={
        "train": Split("split = 'train'", 1_281_167, about=True),
        "val": Split("split = 'val'", 50_000, about=True),
        "test": Split("split = 'test'", 100_000, "no labels", about=True),
        "train_1pct": Split(few_shot(1), note="few-shot"),
        "train_10pct": Split(few_shot(10), note="few-shot"),
    },
    options=OPTIONS,
    target_set=NAME,
    prepared=(
        "A sample is a picture. Key: its name, as in `n01440764_10026`; media: `jpg` as published. Columns: "
        "`label` (0 to 999, the place among the sorted WordNet ids), `class_name`, `wnid`; `draw` (place in "
        "a random order of its class, from 0; -1 outside of `train`) and `drawn_of`. No captions."
    ),
    oddities=(
        "Inner tars are read where they are. Two pairs of classes have one name (missile, sunglasses), so "
        "use `label`. Files end in `.JPEG`; one is a PNG, some are CMYK or have damaged EXIF: they are kept "
        "as they are. Labels always come from the full list of classes; folders that are no class end the "
        "preparation with a list of them. Pictures without a label are counted as `no label`, listed ones "
        "that are not there as `missing picture`."
    ),
    miniature="diptych.data.miniatures.imagenet:make_imagenet_1k",
    layouts={
        "uniperceiver": Layout(
            "Uni-Perceiver's: `--raw` is its DATA_PATH. The pictures are those that `meta/*.txt` list.",
            convert_tree,
            (
                *(
                    Source(f"{_TREE}/meta/{split}.txt", "Uni-Perceiver's `meta`", required=split != "test")
                    for split in ("train", "val", "test")
                ),
                *(
                    Source(f"{_TREE}/{split}", HOMEPAGE, required=split != "test")
                    for split in ("train", "val", "test")
                ),
            ),
        ),
    },
)

"""The `coco-2017` card: COCO as its owners split it in 2017, with captions and the boxes of objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.coco_files import (
    HOMEPAGE,
    KARPATHY,
    CocoStyle,
    bad,
    coco_picture,
    coco_style,
    is_number,
    karpathy_of,
    opened,
    read_ids,
    stem,
    with_picture,
)
from diptych.data.cards.coco_objects import Objects, read_objects
from diptych.data.cards.options import Options, names_of
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import json_fields
from diptych.data.sample import Sample
from diptych.errors import DataError

NAME = "coco-2017"
ZIP = "annotations_trainval2017.zip@/"
OPTIONS = {
    "objects": "`boxes` (default): the objects of each picture with their boxes; `segmentation`: with their "
    "outlines, too; `no`: captions only (the files of instances are not needed)",
    "exclude": "files under --raw with COCO ids (numbers with white space, commas or as a JSON list) that "
    "are left out, with commas",
}
_TEST = (
    "annotations/image_info_test2017.json",
    "image_info_test2017.zip@/annotations/image_info_test2017.json",
)


@dataclass(frozen=True)
class _Known:
    """What is known of pictures beside their captions."""

    karpathy: Mapping[int, str] | None
    exclude: frozenset[int]


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture: train, val, and test where its list is there, in the files' order.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    given = Options(NAME, options, OPTIONS)
    kind = given.choice("objects", "boxes", ("boxes", "segmentation", "no"))
    folder = opened(NAME, raw)
    known = _Known(karpathy_of(folder, *KARPATHY), read_ids(folder, names_of(given.text("exclude"))))
    for split in ("train", "val"):
        name = f"annotations/captions_{split}2017.json"
        file = coco_style(folder, name, f"{ZIP}{name}")
        yield from file.wrong
        objects = _objects(folder, split, kind, file)
        yield from objects.wrong if objects else ()
        yield from _samples(folder, split, file, objects, known)
    if folder.find(*_TEST):
        file = coco_style(folder, *_TEST)
        yield from file.wrong
        yield from _samples(folder, "test", file, None, known)


def _objects(folder: RawFolder, split: str, kind: str, file: CocoStyle) -> Objects | None:
    if kind == "no":
        return None
    name = f"annotations/instances_{split}2017.json"
    if folder.find(name, f"{ZIP}{name}") is None:
        raise DataError(
            f"{folder.root}: expected {name}, in {ZIP.rstrip('@/')} or beside it; "
            "do without the objects with -o objects=no"
        )
    return read_objects(folder, (name, f"{ZIP}{name}"), file.images, outlines=kind == "segmentation")


def _samples(
    folder: RawFolder, split: str, file: CocoStyle, objects: Objects | None, known: _Known
) -> Iterator[Unread | LeftOut]:
    for number, entry in file.images.items():
        name = entry.get("file_name")
        if not isinstance(name, str) or not is_number(number):
            yield bad(f"{split}, image {number}", "a text in 'file_name' and a number in 'id'", entry)
        elif number in known.exclude:
            yield LeftOut("excluded", stem(name), f"COCO id {number} is in the list of -o exclude=")
        else:
            more = {} if objects is None else objects.of(number)
            sample = _sample(split, number, entry, file, known, more)
            place = f"{split}2017/{name}"
            yield with_picture(sample, place, coco_picture(folder, "", place))


def _sample(
    split: str,
    number: int,
    entry: Mapping[str, Any],
    file: CocoStyle,
    known: _Known,
    objects: Mapping[str, Any],
) -> Sample:
    meta: dict[str, Any] = {
        "coco_id": number,
        "file": f"{split}2017/{entry['file_name']}",
        "karpathy": "unknown" if known.karpathy is None else known.karpathy.get(number, "none"),
        "caption_ids": list(file.numbers(number)),
    }
    for field, kept in (("license", "licence_id"), ("flickr_url", "flickr_url")):
        value = entry.get(field)
        if is_number(value) if kept == "licence_id" else isinstance(value, str):
            meta[kept] = value
    key = stem(entry["file_name"])
    return Sample(key, {}, file.texts(number), f"coco_{number}", split, {**meta, **objects})


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the licences by their ids, and the categories of objects.

    Raises:
        DataError: an annotation file is not there, or of another form.
    """
    folder = opened(NAME, raw)
    kinds = ("captions",) if options.get("objects") == "no" else ("instances", "captions")
    places = [f"annotations/{kind}_val2017.json" for kind in kinds]
    found: dict[str, list[Any]] = {"licenses": [], "categories": []}
    with folder.text(*(place for name in places for place in (name, f"{ZIP}{name}"))) as stream:
        for field, entry in json_fields(stream, places[0], tuple(found)):
            found[field].append(entry)
    made: dict[str, Any] = {"licences": found["licenses"]}
    if found["categories"]:
        categories = sorted(found["categories"], key=lambda category: int(category["id"]))
        made |= {"categories": categories, "classes": [category["name"] for category in categories]}
    return made


CARD = Card(
    name=NAME,
    title="COCO 2017: captions and objects",
    description=(
        "The photographs of COCO in the split of 2017, with about five captions each and the boxes of "
        "objects of 80 categories. `labels` names the categories in a picture, for classification with "
        "several labels. Captions are usually reported on another split, see `coco-caption`: most of `val` "
        "here is in its training split. The column `karpathy` says where a picture is there, and "
        "`clean_train` leaves out what is evaluated on there; it needs `dataset_coco.json`."
    ),
    licence=(
        "Annotations: CC BY 4.0, as far as we recall the owners' terms. The photographs belong to their "
        "authors; the licence that each was published under is in `licence_id` (`facts.licences` in "
        "dataset.json). Check the homepage before you publish."
    ),
    citation=(
        "Lin et al., Microsoft COCO: Common Objects in Context, 2014; Chen et al., Microsoft COCO Captions: "
        "Data Collection and Evaluation Server, 2015"
    ),
    homepage=HOMEPAGE,
    convert=convert,
    facts=facts,
    sources=(
        Source(
            "annotations_trainval2017.zip",
            "COCO's download page: 2017 Train/Val annotations",
            alternatives=("annotations",),
        ),
        Source("train2017.zip", "COCO's download page: 2017 Train images", alternatives=("train2017",)),
        Source("val2017.zip", "COCO's download page: 2017 Val images", alternatives=("val2017",)),
        Source("image_info_test2017.zip", "COCO's download page: 2017 Testing Image info", required=False),
        Source(
            "test2017.zip",
            "COCO's download page: 2017 Test images",
            required=False,
            alternatives=("test2017",),
        ),
        Source(
            "caption_datasets.zip",
            "Karpathy's splits (`dataset_coco.json`, in the zip or beside it), for the column `karpathy`",
            required=False,
            alternatives=("dataset_coco.json",),
        ),
    ),
    splits={
        "train": Split("split = 'train'", 118_287, texts=591_753, about=True),
        "val": Split("split = 'val'", 5_000, texts=25_014, about=True),
        "test": Split("split = 'test'", note="about 40,670, no annotations, if the list of them is there"),
        "clean_train": Split(
            "split = 'train' AND karpathy IN ('train', 'restval', 'none')",
            note="train without the pictures that `coco-caption` evaluates on",
        ),
        "clean_val": Split(
            "split = 'val' AND karpathy IN ('val', 'test', 'none')",
            note="what of val is not in the training split of `coco-caption`",
        ),
    },
    options=OPTIONS,
    annotations=("exclude",),
    target_set="coco-2017",
    prepared=(
        "- key: the name without its ending, 12 digits: the COCO id\n"
        "- medium: `jpg`, the file as it is; its width and height are columns\n"
        "- captions: in the order of their ids (test has none)\n"
        "- match id: `coco_<id>`, the same in all cards with pictures of COCO\n"
        "- columns: `coco_id`, `file`, `licence_id`, `flickr_url`, `object_count`, `karpathy` (train, "
        "restval, val, test; `none`: not in that list; `unknown`: it was not there)\n"
        "- in the JSON: `objects`: `{id, category, category_id, bbox: [x, y, width, height], area, iscrowd}` "
        "in pixels, with `segmentation` if asked for; `labels`: the names of their categories, in the order "
        "of the category ids; `caption_ids`\n"
        "- `facts` in dataset.json: `categories`, `classes` (their names), `licences`"
    ),
    oddities=(
        "- Category ids have gaps: 80 between 1 and 90.\n"
        "- Some pictures have no object. Boxes may be of width or height zero, or reach over the edge by a "
        "fraction of a pixel; they are kept as they are.\n"
        "- Annotations are in no order. `segmentation` is a list of polygons, or for crowds run lengths by "
        "column.\n"
        "- An object of an unknown picture or category, or without a box, counts as `bad entry`."
    ),
    miniature="diptych.data.miniatures.coco:make_2017",
)

"""The `coco-caption` card: COCO 2014 with the captions and the split that captioning and retrieval use."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.coco_files import (
    HOMEPAGE,
    KARPATHY,
    Captioned,
    bad,
    coco_picture,
    coco_style,
    karpathy,
    opened,
    stem,
    with_picture,
)
from diptych.data.cards.options import Options
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample

NAME = "coco-caption"
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Karpathy's splits -> ours."""

_TREES = (
    ("mscoco_dataset/new_annotations/", "mscoco_dataset/coco_origin/"),
    # The small example set of the same documentation.
    ("mscoco_caption/annotations/", "mscoco_caption/coco_origin/"),
)
_LISTS = {
    "train": ("captions_train113k.json", "captions_train.json"),
    "val": ("captions_val5k.json", "captions_val.json"),
    "test": ("captions_test5k.json", "captions_test.json"),
}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture, in the order of `dataset_coco.json`.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: the annotations are not there, or of another form.
    """
    Options(NAME, options, {})
    folder = opened(NAME, raw)
    for entry in karpathy(folder, *KARPATHY):
        yield entry if isinstance(entry, LeftOut) else _made(folder, "", entry)


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture of the three caption files, train first.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    Options(NAME, options, {})
    folder = opened(NAME, raw)
    for split, names in _LISTS.items():
        annotations = [f"{tree}{name}" for name in names for tree, _ in _TREES]
        file = coco_style(folder, *annotations)
        yield from file.wrong
        for number, entry in file.images.items():
            name = entry.get("file_name")
            if not isinstance(name, str):
                yield bad(f"image {number}", "a text in 'file_name'", entry)
                continue
            place = entry.get("file_path")
            place = place if isinstance(place, str) else _folder_of(name)
            # Their training list has lost which pictures were taken from the validation set.
            owner = "restval" if split == "train" and place == "val2014" else split
            found = Captioned(
                f"{place}/{name}", owner, file.texts(number), file.numbers(number), _number_of(name)
            )
            yield _made(folder, _root(folder), found)


def _folder_of(name: str) -> str:
    """Return `val2014` of `COCO_val2014_000000000042.jpg`."""
    parts = name.split("_")
    return parts[1] if len(parts) > 1 else ""


def _number_of(name: str) -> int | None:
    """Return the number at the end of a name: the id of the picture."""
    end = stem(name).rpartition("_")[2]
    return int(end) if end.isdecimal() else None


def _root(folder: RawFolder) -> str:
    return next((root for _, root in _TREES if (folder.root / root).is_dir()), _TREES[0][1])


def _made(folder: RawFolder, root: str, entry: Captioned) -> Unread | LeftOut:
    key = stem(entry.name)
    number = _number_of(entry.name) if entry.coco_id is None else entry.coco_id
    meta = {
        "file": entry.name,
        "owner_split": entry.split,
        **({} if number is None else {"coco_id": number}),
        "caption_ids": list(entry.sentence_ids),
    }
    match_id = "" if number is None else f"coco_{number}"
    sample = Sample(key, {}, entry.captions, match_id, SPLITS[entry.split], meta)
    ref = coco_picture(folder, root, entry.name)
    return with_picture(sample, entry.name, ref, f"{len(entry.captions)} captions")


_PHOTOGRAPHS = {
    "train2014": "COCO's download page: 2014 Train images",
    "val2014": "COCO's download page: 2014 Val images",
}


def _sources() -> Iterator[Source]:
    for names in _LISTS.values():
        first, *others = (f"{tree}{name}" for tree, _ in _TREES for name in names)
        yield Source(first, "Uni-Perceiver's converter", alternatives=tuple(others))
    for name, origin in _PHOTOGRAPHS.items():
        first, *others = (f"{root}{name}{end}" for _, root in _TREES for end in ("", ".zip"))
        yield Source(first, origin, alternatives=tuple(others))


CARD = Card(
    name=NAME,
    title="COCO captions, Karpathy split",
    description=(
        "Photographs of everyday scenes (COCO 2014) with about five sentences each, split as captioning and "
        "retrieval are evaluated: `train` holds all of train2014 and those of val2014 that are in neither "
        "`val` nor `test`. Uni-Perceiver trains on `trainval` and reports `test`. EVE pre-trains on "
        "`trainval`, too (all pictures but those of the retrieval test), and is fine-tuned on `train`."
    ),
    licence=(
        "Annotations: CC BY 4.0, as far as we recall the owners' terms. The photographs belong to their "
        "authors under Flickr's terms and are not ours to give away. Check the homepage before you publish."
    ),
    citation=(
        "Lin et al., Microsoft COCO: Common Objects in Context, 2014; Chen et al., Microsoft COCO Captions: "
        "Data Collection and Evaluation Server, 2015; split: Karpathy and Fei-Fei, Deep Visual-Semantic "
        "Alignments for Generating Image Descriptions, 2015"
    ),
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        Source(
            "caption_datasets.zip",
            "Karpathy's splits of COCO and Flickr; `dataset_coco.json` is read, in the zip or beside it",
            alternatives=("dataset_coco.json",),
        ),
        *(Source(f"{name}.zip", origin, alternatives=(name,)) for name, origin in _PHOTOGRAPHS.items()),
    ),
    splits={
        "train": Split("split = 'train'", 113_287, "train and restval; about 566,700 captions"),
        "val": Split("split = 'val'", 5_000, "about 25,010 captions"),
        "test": Split("split = 'test'", 5_000, "about 25,010 captions"),
        "trainval": Split("split <> 'test'", 118_287, "what Uni-Perceiver and EVE's pre-training use"),
        "train_2014": Split("owner_split = 'train'", 82_783, "train without restval"),
    },
    layouts={
        "uniperceiver": Layout(
            "The tree of Uni-Perceiver's data page, or of its small example set; --raw is its DATA_PATH. "
            "The folders of pictures may be zips.",
            convert_uniperceiver,
            tuple(_sources()),
        )
    },
    target_set="vocabulary",
    prepared=(
        "- key: name of the file without its ending, `COCO_val2014_000000000042`\n"
        "- medium: `jpg`, the file as it is\n"
        "- captions: the sentences as they were written, each on one line, in the order of their ids\n"
        "- match id: `coco_<id>`, the same in all cards with pictures of COCO\n"
        "- columns: `coco_id`, `file`, `owner_split` (train, restval, val, test)\n"
        "- in the JSON: `caption_ids`"
    ),
    oddities=(
        "- `restval` is train; only the folder of the picture differs.\n"
        "- A few pictures have six or seven sentences. Sentences come with blanks and line ends around them, "
        "with and without a period.\n"
        "- Uni-Perceiver's training list does not tell train from restval; the folder does.\n"
        "- COCO ids are the same in 2014 and 2017: most of val2017 is in `train` here (see `coco-2017`), and "
        "half of Visual Genome is COCO (see `visual-genome`)."
    ),
    miniature="diptych.data.miniatures.coco:make_caption",
)

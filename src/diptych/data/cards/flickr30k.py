"""The `flickr30k` card: photographs with five captions each, in the forms that their captions come in."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.coco_files import (
    Captioned,
    bad,
    coco_style,
    is_id,
    karpathy,
    opened,
    squeeze,
    stem,
    with_picture,
)
from diptych.data.cards.options import Options
from diptych.data.raw.folder import Media, RawFolder
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample

NAME = "flickr30k"
KARPATHY = ("dataset_flickr30k.json", "caption_datasets.zip@/dataset_flickr30k.json")
TOKEN = "results_20130124.token"
JSONLINES = {
    "train": "all_data_final_train_2014.jsonline",
    "val": "all_data_final_val_set0_2014.jsonline",
    "test": "all_data_final_test_set0_2014.jsonline",
}
OPTIONS = {
    "annotations": "`karpathy` (default): `dataset_flickr30k.json`; `jsonline`: the three files of the "
    "ViLBERT release, `all_data_final_*_2014.jsonline`, where val has 1,000 pictures; `token`: all 31,783 "
    "pictures of "
    f"`{TOKEN}`, which knows no splits (they are in `everything` only)",
}
UNSPLIT = "all"
"""Split of the pictures of the token file."""

_FOLDERS = ("flickr30k-images", "flickr30k_images")
_PLACES = (
    *_FOLDERS,
    *(f"{folder}/{folder}" for folder in _FOLDERS),
    *(f"flickr30k-images.{end}@/flickr30k-images" for end in ("tar.gz", "tar", "zip")),
)
_TREE = "flickr30k/"
_NESTED = "flickr30k_images"
_TOKEN_LINE = re.compile(r"([^\t#]+)#(\d+)\t(.*)", re.DOTALL)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture, in the order of the annotations.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: the annotations are not there, or of another form.
    """
    form = Options(NAME, options, OPTIONS).choice(
        "annotations", "karpathy", ("karpathy", "jsonline", "token")
    )
    folder = opened(NAME, raw)
    media = folder.media(*_PLACES)
    if form == "karpathy":
        entries = karpathy(folder, *KARPATHY)
    elif form == "token":
        entries = _token(folder)
    else:
        entries = (e for split, name in JSONLINES.items() for e in _jsonline(folder, split, name))
    for entry in entries:
        yield entry if isinstance(entry, LeftOut) else _made(media, entry)


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture of the three caption files, or of the files that they were made of.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    Options(NAME, options, {})
    folder = opened(NAME, raw)
    media = folder.media(*(f"{_TREE}{'/'.join([_NESTED] * depth)}" for depth in (3, 2, 1)))
    for split, lines_of in JSONLINES.items():
        name = f"{_TREE}captions_{split}.json"
        entries = (
            _coco_style(folder, split, name)
            if folder.find(name)
            else _jsonline(folder, split, f"{_TREE}{lines_of}", f"{_TREE}annotations/{lines_of}")
        )
        for entry in entries:
            yield entry if isinstance(entry, LeftOut) else _made(media, entry)


def _token(folder: RawFolder) -> Iterator[Captioned | LeftOut]:
    """Yield the pictures of the token file; the lines of one need not stand together."""
    captions: dict[str, list[tuple[int, str]]] = {}
    with folder.text(TOKEN) as stream:
        for number, line in lines(stream):
            found = _TOKEN_LINE.fullmatch(line)
            if found:
                captions.setdefault(found[1], []).append((int(found[2]), squeeze(found[3])))
            elif line.strip():
                yield bad(f"{TOKEN}, line {number + 1}", "NAME#NUMBER<TAB>CAPTION", line)
    for name, texts in captions.items():
        yield Captioned(name, UNSPLIT, tuple(text for _, text in sorted(texts, key=lambda pair: pair[0])))


def _jsonline(folder: RawFolder, split: str, *places: str) -> Iterator[Captioned | LeftOut]:
    with folder.text(*places) as stream:
        for number, line in lines(stream):
            if line.strip():
                yield _entry(line, split, f"{places[0].rpartition('/')[2]}, line {number + 1}")


def _entry(line: str, split: str, where: str) -> Captioned | LeftOut:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return bad(where, "JSON", line)
    name = entry.get("img_path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not is_id(entry.get("id")):
        return bad(where, "an object with 'id' and 'img_path'", entry)
    texts = entry.get("sentences")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return bad(name, "a list of texts in 'sentences'", texts)
    return Captioned(name, split, tuple(map(squeeze, texts)))


def _coco_style(folder: RawFolder, split: str, name: str) -> Iterator[Captioned | LeftOut]:
    file = coco_style(folder, name)
    yield from file.wrong
    for number, entry in file.images.items():
        # Their converter writes `filename` where everything else has `file_name`.
        image = entry.get("filename", entry.get("file_name"))
        if isinstance(image, str):
            yield Captioned(image, split, file.texts(number))
        else:
            yield bad(f"{split}, image {number}", "a text in 'filename'", entry)


def _made(media: Media, entry: Captioned) -> Unread | LeftOut:
    key = stem(entry.name)
    sample = Sample(key, {}, entry.captions, f"{NAME}_{key}", entry.split, {"file": entry.name})
    return with_picture(sample, entry.name, media.get(entry.name), f"{len(entry.captions)} captions")


CARD = Card(
    name=NAME,
    title="Flickr30k",
    description=(
        "Photographs of people and animals doing things, each with five sentences by different writers. "
        "`dataset_flickr30k.json` (Karpathy's split) is what most papers evaluate retrieval on; the ViLBERT "
        "release has the same test pictures in another form, which Uni-Perceiver reads. Uni-Perceiver trains "
        "on `trainval`. There is no published list of answers or classes: the target set is the vocabulary."
    ),
    licence=(
        "Photographs: their authors', under Flickr's terms. As far as we recall, the owners give the files "
        "out on request for non-commercial research and education, and not to be passed on. Check the "
        "homepage before you publish."
    ),
    citation=(
        "Young et al., From image descriptions to visual denotations, 2014; split: Karpathy and Fei-Fei, "
        "Deep Visual-Semantic Alignments for Generating Image Descriptions, 2015"
    ),
    homepage="https://shannon.cs.illinois.edu/DenotationGraph/",
    convert=convert,
    sources=(
        Source(
            "flickr30k-images.tar.gz",
            "the owners' request form",
            alternatives=(
                "flickr30k-images",
                "flickr30k_images",
                "flickr30k-images.tar",
                "flickr30k-images.zip",
            ),
        ),
        Source(
            "caption_datasets.zip",
            "Karpathy's splits of COCO and Flickr; `dataset_flickr30k.json` is read, in the zip or beside it",
            required=False,
            alternatives=("dataset_flickr30k.json",),
        ),
        *(
            Source(name, "the ViLBERT release, for `-o annotations=jsonline`", required=False)
            for name in JSONLINES.values()
        ),
        Source(TOKEN, "the owners' archive, for `-o annotations=token`", required=False),
    ),
    splits={
        "train": Split("split = 'train'", 29_000, texts=145_000, about=True),
        "val": Split("split = 'val'", 1_014, "1,000 in the ViLBERT release", texts=5_070, about=True),
        "test": Split("split = 'test'", 1_000, texts=5_000, about=True),
        "trainval": Split("split IN ('train', 'val')", 30_014, "what Uni-Perceiver trains on", about=True),
        "everything": Split("true", note="31,014 with splits, 31,783 in the token file"),
    },
    options=OPTIONS,
    layouts={
        "uniperceiver": Layout(
            "The tree of Uni-Perceiver's data page; --raw is its DATA_PATH. Either the caption files of its "
            "converter or the jsonline files that its training really reads.",
            convert_uniperceiver,
            (
                *(
                    Source(
                        f"{_TREE}captions_{split}.json",
                        "Uni-Perceiver's converter",
                        alternatives=(f"{_TREE}{name}", f"{_TREE}annotations/{name}"),
                    )
                    for split, name in JSONLINES.items()
                ),
                Source(f"{_TREE}{_NESTED}", "the owners' request form; up to three folders of this name"),
            ),
        )
    },
    target_set="vocabulary",
    prepared=(
        "- key: name of the file without its ending\n"
        "- medium: `jpg`, the file as it is\n"
        "- captions: each on one line, in the order of the file\n"
        "- match id: `flickr30k_<key>`\n"
        "- columns: `file`"
    ),
    oddities=(
        "- The token file has blanks before punctuation, the others the sentences as they were written.\n"
        "- Karpathy's file leaves out 769 pictures of the token file.\n"
        "- Caption ids of Uni-Perceiver's files begin with 0 in each split; its images have `filename`, not "
        "`file_name`, and its pictures lie three folders deep.\n"
        "- `id` in the jsonline files is a number or a text; the file name is what counts here."
    ),
    miniature="diptych.data.miniatures.flickr30k:make",
)

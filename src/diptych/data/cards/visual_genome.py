"""The `visual-genome` card: pictures with phrases about their regions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.coco_files import KARPATHY, karpathy_of, opened, read_ids, with_picture
from diptych.data.cards.options import Options, names_of
from diptych.data.cards.visual_genome_files import (
    Described,
    Questions,
    coco_ids,
    described,
    filtered,
    karpathy_name,
    places_of,
    vg_picture,
)
from diptych.data.sample import Sample

NAME = "visual-genome"
MIN_AREA = 128 * 128
OPTIONS = {
    "min_area": f"a region counts from this area on, in pixels (default {MIN_AREA} = 128 x 128, as for "
    "Uni-Perceiver; 0 takes all regions, as for EVE)",
    "regions": "`yes`: keep the regions with their boxes in the JSON (default `no`)",
    "questions": "`yes`: keep the questions of `question_answers.json`, too (default `no`)",
    "exclude": "files under --raw with COCO ids (numbers with white space, commas or as a JSON list) whose "
    "pictures are left out, with commas; needs `image_data.json`",
}
TREE = "visual_genome/"
FILTERED = f"{TREE}annotations/vg_captions_128filter.json"

_REGIONS, _IMAGES, _QUESTIONS = "region_descriptions.json", "image_data.json", "question_answers.json"
_COCO_TREE = "mscoco_dataset/new_annotations/"


class _Work:
    """The options and what is known beside the phrases.

    Args:
        raw: the raw folder.
        options: of the card.
        root: folder of the annotations.
        images: folder of the folders of pictures.
    """

    def __init__(self, raw: Path | None, options: Mapping[str, str], root: str, images: str) -> None:
        given = Options(NAME, options, OPTIONS)
        self.min_area = given.integer("min_area", MIN_AREA, 0, 10**9)
        self.boxes = given.choice("regions", "no", ("no", "yes")) == "yes"
        asked = given.choice("questions", "no", ("no", "yes")) == "yes"
        self.folder = opened(NAME, raw)
        self.images = images
        excluded = names_of(given.text("exclude"))
        self.exclude = read_ids(self.folder, excluded)
        places = places_of(_IMAGES, root)
        if excluded:
            self.folder.need(*places)
        self.coco = coco_ids(self.folder, *places)
        self.karpathy = karpathy_of(self.folder, *KARPATHY, f"{_COCO_TREE}dataset_coco.json")
        self.questions = Questions(self.folder, *places_of(_QUESTIONS, root)) if asked else None

    def samples(self, entries: Iterator[Described | LeftOut]) -> Iterator[Unread | LeftOut]:
        if self.questions is not None:
            yield from self.questions.wrong
        for entry in entries:
            if isinstance(entry, LeftOut):
                yield entry
                continue
            yield from entry.wrong
            yield self._sample(entry)

    def _sample(self, entry: Described) -> Unread | LeftOut:
        key = str(entry.number)
        coco = karpathy_name(entry.number, self.coco, self.karpathy)
        questions = [] if self.questions is None else self.questions.of(entry.number)
        if coco.get("coco_id") in self.exclude:
            return LeftOut("excluded", key, f"COCO id {coco['coco_id']} is in the list of -o exclude=")
        if not entry.captions and not questions:
            detail = f"none of {entry.total} regions has {self.min_area} pixels and a phrase"
            return LeftOut("no region left", key, detail)
        name, ref = vg_picture(self.folder, self.images, entry.number, entry.file)
        meta: dict[str, Any] = {"file": name, **coco}
        if self.boxes:
            meta["regions"] = entry.regions
        if self.questions is not None:
            meta["questions"] = questions
        sample = Sample(key, {}, tuple(entry.captions), f"vg_{entry.number}", "train", meta)
        return with_picture(sample, name, ref, f"{len(entry.captions)} captions")


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture with a phrase, in the order of `region_descriptions.json`.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    work = _Work(raw, options, "", "")
    return work.samples(described(work.folder, places_of(_REGIONS), work.min_area))


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture of `vg_captions_128filter.json`, or of what it is made of.

    The filtered file has phrases only: another area and boxes need `region_descriptions.json`.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    work = _Work(raw, options, f"{TREE}annotations/", f"{TREE}images/")
    if work.min_area == MIN_AREA and not work.boxes and work.folder.find(FILTERED):
        return work.samples(filtered(work.folder, FILTERED))
    places = places_of(_REGIONS, f"{TREE}annotations/")
    return work.samples(described(work.folder, places, work.min_area))


CARD = Card(
    name=NAME,
    title="Visual Genome regions",
    description=(
        "Photographs with dozens of short phrases each, every phrase about a region of the picture. A "
        'picture becomes one sample whose captions are its different phrases. The published "128filter" is '
        "not about the length of phrases: it drops regions of less than 128 x 128 pixels area. About half of "
        "the pictures are COCO's: `clean_train` leaves out those that `coco-caption` evaluates on, and "
        "`without_coco` all of them. Training that follows Uni-Perceiver draws one phrase at a time."
    ),
    licence=(
        "Annotations: CC BY 4.0, as far as we recall the owners' terms. The photographs belong to their "
        "authors under Flickr's terms. Check the homepage before you publish."
    ),
    citation=(
        "Krishna et al., Visual Genome: Connecting Language and Vision Using Crowdsourced Dense Image "
        "Annotations, 2017"
    ),
    homepage="https://homes.cs.washington.edu/~ranjay/visualgenome/",
    convert=convert,
    sources=(
        Source("images.zip", "the homepage, part 1 of the images", alternatives=("VG_100K",)),
        Source(
            "images2.zip",
            "the homepage, part 2 of the images (not needed where both are merged in one zip)",
            required=False,
            alternatives=("VG_100K_2",),
        ),
        Source(_REGIONS, "the homepage, region descriptions", alternatives=(f"{_REGIONS}.zip",)),
        Source(
            _IMAGES,
            "the homepage, image meta data: says which pictures are COCO's",
            required=False,
            alternatives=(f"{_IMAGES}.zip",),
        ),
        Source(
            _QUESTIONS,
            "the homepage, question answers, for `-o questions=yes`",
            required=False,
            alternatives=(f"{_QUESTIONS}.zip",),
        ),
        Source(
            "dataset_coco.json",
            "Karpathy's split of COCO, for the column `karpathy`",
            required=False,
            alternatives=("caption_datasets.zip",),
        ),
    ),
    splits={
        "train": Split(
            "true", 107_823, "with the default area; 108,077 pictures with any", texts=1_645_544, about=True
        ),
        "clean_train": Split(
            "coco = 'no' OR karpathy IN ('train', 'restval')",
            note="what is no picture of COCO, or one of the training split of `coco-caption`",
        ),
        "without_coco": Split("coco = 'no'", note="pictures that are not COCO's"),
    },
    options=OPTIONS,
    annotations=("exclude",),
    layouts={
        "uniperceiver": Layout(
            "The tree of Uni-Perceiver's data page; --raw is its DATA_PATH. Reads the filtered captions, or "
            "the region descriptions where they are not there or options ask for more.",
            convert_uniperceiver,
            (
                Source(
                    FILTERED,
                    "Uni-Perceiver's converter",
                    alternatives=tuple(places_of(_REGIONS, f"{TREE}annotations/"))[:1],
                ),
                Source(f"{TREE}images", "the homepage: the folders VG_100K and VG_100K_2, or their zips"),
            ),
        )
    },
    target_set="vocabulary",
    prepared=(
        "- key: the picture's number, which is its file's name\n"
        "- medium: `jpg`, the file as it is\n"
        "- captions: the different phrases, on one line each, in the order of the file\n"
        "- match id: `vg_<number>`\n"
        "- columns: `file`, `coco` (yes, no; `unknown` without `image_data.json`), `coco_id`, `karpathy` "
        "(train, restval, val, test; `none`: not in that list; `unknown`: it was not there)\n"
        "- in the JSON, if asked for: `regions`: `{region_id, phrase, x, y, width, height}` in pixels, "
        "repeated phrases included; `questions`: `{question, question_id, dataset: vg, answer}`"
    ),
    oddities=(
        "- Boxes have negative corners and zero sizes; they are kept as they are.\n"
        "- Phrases have blanks and line ends, misspellings and letters of all alphabets. An empty one counts "
        "as `empty caption`.\n"
        "- A picture without a region that is large enough counts as `no region left`.\n"
        "- 172 pictures have no annotation and are not stored.\n"
        "- Answers end with a period."
    ),
    miniature="diptych.data.miniatures.visual_genome:make",
)

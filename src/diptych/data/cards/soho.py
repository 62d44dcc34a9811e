"""The `soho-pretrain` and `soho-vqa` cards."""

from collections.abc import Mapping

from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.soho_json import (
    LISTS,
    OF,
    PRETRAIN,
    PRETRAIN_OPTIONS,
    QUESTIONS,
    VQA,
    VQA_OPTIONS,
    convert_pretrain,
    convert_vqa,
    facts_vqa,
)

_COCO = "COCO's download page"
_CITATION = (
    "Huang et al., Seeing Out of tHe bOx: End-to-End Pre-training for Vision-Language Representation "
    "Learning, 2021"
)
_LICENCE = (
    "that of the pictures and annotations: see the cards {cards}. The JSON files are SOHO's; check its "
    "homepage before you publish."
)


def _sources(files: Mapping[str, str]) -> tuple[Source, ...]:
    """Return annotation files and archives; which of them are needed depends on `-o lists=`."""
    origin = "SOHO's download, list `{}`"
    listed = [Source(f"{name}.json", origin.format(key), required=False) for key, name in files.items()]
    archives = {OF[key]: key for key in files}
    for name, key in archives.items():
        owner = "Visual Genome's images and images2, zipped as one" if name == "images" else _COCO
        others = ("images2.zip", "images") if name == "images" else (name,)
        listed.append(Source(f"{name}.zip", f"{owner} (list `{key}`)", required=False, alternatives=others))
    return tuple(listed)


CARD_PRETRAIN = Card(
    name=PRETRAIN,
    title="Captions of COCO and Visual Genome as SOHO is pre-trained on",
    description=(
        "The three files of published SOHO, `[{file_name, image_id, height, width, captions, labels}, ...]`, "
        "and the zips of pictures, read in place. The captions of a picture are cut into groups of "
        "`-o sentence_group=4`; each group is a sample, as published. SOHO trains on all of them; hold out "
        "`coco_val` to watch a run. Pre-train with `data.text.per_picture=4`."
    ),
    licence=_LICENCE.format(cards="`coco-caption` and `visual-genome`"),
    citation=_CITATION,
    convert=convert_pretrain,
    sources=_sources(LISTS),
    splits={
        "train": Split("split = 'train'", note="all three lists"),
        **{key: Split(f"list = '{name}'", note=f"`{name}.json`") for key, name in LISTS.items()},
    },
    options=PRETRAIN_OPTIONS,
    prepared=(
        "- key: `<coco or vg>_<image_id>_<number of the group>`\n"
        "- medium: the file as it is, once for each group\n"
        "- captions: `sentence_group` of them; match id: `coco_<image_id>` or `vg_<image_id>`\n"
        "- columns: `file`, `list` (name of the file), `group`"
    ),
    oddities=(
        "- The last group of a picture is filled up with its other captions: the first of a shuffle, or, "
        "where it has too few, single draws. A caption may so be twice in a group. The published draws hang "
        "on the state of the whole process; here they are drawn from `-o seed=0` and the picture alone.\n"
        "- Pictures with a side below 32 pixels count as `picture too small`, and what names a picture again "
        "as `repeated picture`.\n"
        "- `labels` (classes of a detector) are dropped: published training builds a target of them and "
        "never uses it.\n"
        "- Numbers of COCO and Visual Genome overlap, so keys and match ids say whose they are.\n"
        "- Pictures of Visual Genome lie at the top level of `images.zip`; the owners' two zips as they come "
        "do as well."
    ),
    miniature="diptych.data.miniatures.soho_json:make_pretrain",
)

CARD_VQA = Card(
    name=VQA,
    title="VQA v2 as SOHO is fine-tuned on",
    description=(
        "The three files of published SOHO, `{data, ans2label, label2ans}`, and COCO's zips, read in place. "
        "All questions about a picture become one sample. Train and val come with soft targets as published: "
        "`scores`, answer to score, for `data.examples: questions`; the test has none. SOHO trains on "
        "`trainval`."
    ),
    licence=_LICENCE.format(cards="`vqa-v2`"),
    citation=_CITATION,
    convert=convert_vqa,
    facts=facts_vqa,
    sources=_sources(QUESTIONS),
    splits={
        "train": Split("split = 'train'"),
        "val": Split("split = 'val'"),
        "trainval": Split("split != 'test'", note="what SOHO trains on"),
        "test": Split("split = 'test'", note="no answers"),
    },
    options=VQA_OPTIONS,
    prepared=(
        "- key: `<split>_<name of the picture>` without its ending\n"
        "- medium: the file as it is\n"
        "- match id: `coco_<image_id>`\n"
        "- columns: `file`, `questions` (how many)\n"
        "- in the JSON: `questions`: `{question, question_id, dataset, scores}`\n"
        "- `facts` in dataset.json: `answers`, the list `label2ans`"
    ),
    oddities=(
        "- Entries of train and val are pictures with a list of questions, those of the test single "
        "questions.\n"
        "- `labels` and `scores` may be empty: such a question has a target of zeros.\n"
        "- Pictures with a side below 32 pixels count as `picture too small`, but not in the test.\n"
        "- A question id that comes again in a file counts as `repeated question`."
    ),
    target_set=VQA,
    miniature="diptych.data.miniatures.soho_json:make_vqa",
)

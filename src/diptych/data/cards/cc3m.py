"""The `cc3m` card: Conceptual Captions, 3.3 million pictures by address."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from diptych.data.cards.arrow_sets import arrow_layout
from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.conceptual import fetched_pairs, lines_of_tree, listed_pairs
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    IMAGE_COLUMNS,
    SPLITS_OPTION,
)
from diptych.data.raw.list_cc import OTHER_3M, TRAIN_3M, VAL_3M

OPTIONS = {**SPLITS_OPTION, **COLUMNS_OPTION}
TREE = {
    "train": ("train_spacy.json", "train.json"),
    "val": ("val_spacy.json", "val.json"),
}
"""Split -> names of its list in Uni-Perceiver's data folder."""


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each row of the lists whose picture is there."""
    return listed_pairs("cc3m", raw, options, OPTIONS)


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards."""
    return fetched_pairs("cc3m", raw, options, OPTIONS)


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's lists."""
    return lines_of_tree("cc3m", raw, options, OPTIONS, "cc3m", TREE)


CARD = Card(
    name="cc3m",
    title="Conceptual Captions 3M",
    description=(
        "3.3 million pictures of the web with their alt texts, cleaned and with names replaced by what "
        "they are "
        "('person', 'actor'). Its owners distribute addresses; pictures are fetched by everybody for "
        "themselves, and 20 to 30 % of the addresses are dead today."
    ),
    licence=(
        "the list: its owners allow use for any purpose, with attribution, as far as known; the pictures "
        "belong "
        "to their publishers. Check the homepage."
    ),
    convert=convert,
    splits={
        "train": Split(
            "split = 'train'", 3_318_333, "rows of the list; dead addresses are missing", about=True
        ),
        "val": Split("split = 'val'", 15_840, "the owners' validation part", about=True),
        "sized": Split(
            "least(width, height) >= 10 AND greatest(width, height) <= 10000",
            note="both sides between 10 and 10,000 pixels, as Uni-Perceiver keeps them",
        ),
    },
    sources=(
        Source(TRAIN_3M, "the homepage (`caption TAB address`, no header)", alternatives=OTHER_3M["train"]),
        Source(VAL_3M, "the homepage", required=False, alternatives=OTHER_3M["val"]),
        Source(
            "train_image",
            "what was fetched: `train_image/00000012.jpg`, the number of the line counted from 0 with 8 "
            "digits",
            alternatives=("train_image.zip", "train_image.tar"),
        ),
        Source(
            "val_image",
            "what was fetched, in the same way",
            required=False,
            alternatives=("val_image.zip", "val_image.tar"),
        ),
    ),
    options=OPTIONS,
    citation=(
        "Sharma, Ding, Goodman, Soricut: Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text "
        "Dataset For "
        "Automatic Image Captioning. ACL 2018."
    ),
    homepage="https://ai.google.com/research/ConceptualCaptions",
    layouts={
        "fetched": Layout(
            f"{FETCHED_TEXT} The copy `pixparse/cc3m-wds` on the Hugging Face hub has this form "
            "(2,905,954 and 13,443 samples).",
            convert_fetched,
            (FETCHED,),
        ),
        "arrow": arrow_layout("cc3m", OPTIONS),
        "uniperceiver": Layout(
            "The data folder of Uni-Perceiver: `cc3m/train_spacy.json` (JSON lines) and "
            "`cc3m/train_image/` or "
            "`cc3m/train_image.zip`, the same for `val`. `--raw` is DATA_PATH.",
            convert_tree,
            (
                Source("cc3m/train_spacy.json", "Uni-Perceiver", alternatives=("cc3m/train.json",)),
                Source("cc3m/val_spacy.json", "Uni-Perceiver", False, ("cc3m/val.json",)),
                Source("cc3m/train_image", "what was fetched", alternatives=("cc3m/train_image.zip",)),
                Source("cc3m/val_image", "what was fetched", False, ("cc3m/val_image.zip",)),
            ),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: split and line number, `train_00000012` (layout `fetched`: split and the tool's key, or "
        "the column "
        "`id`). The picture as it was fetched and its caption. "
        f"Columns: {IMAGE_COLUMNS}."
    ),
    oddities=(
        "- Captions are lower-case with blanks before punctuation; they stay as published. Quotes are "
        "part of "
        "them.\n"
        "- Which column is the address is seen from the content. A header line `caption TAB url` is not "
        "counted.\n"
        "- Addresses that come twice are two samples; `url` finds them.\n"
        "- Pictures that are HTML, SVG or ICO under `.jpg` are left out as `unreadable picture`.\n"
        "- Uni-Perceiver's lists hold captions as words; they become a text with blanks. Its `.zip@` names a "
        "picture inside an archive; the unpacked folder does as well."
    ),
    miniature="diptych.data.miniatures.url_sets:make_cc3m",
)

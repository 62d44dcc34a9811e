"""The `cc12m` card: Conceptual 12M, 12 million pictures by address."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from diptych.data.cards.arrow_sets import arrow_layout
from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.conceptual import fetched_pairs, lines_of_tree, listed_pairs
from diptych.data.cards.url_sets import COLUMNS_OPTION, FETCHED, FETCHED_TEXT, IMAGE_COLUMNS
from diptych.data.raw.list_cc import LIST_12M

OPTIONS = {**COLUMNS_OPTION}
TREE = {"train": ("train_available.json", "train.json")}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each row of the list whose picture is there."""
    return listed_pairs("cc12m", raw, options, OPTIONS)


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards."""
    return fetched_pairs("cc12m", raw, options, OPTIONS)


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's list."""
    return lines_of_tree("cc12m", raw, options, OPTIONS, "c12m", TREE)


CARD = Card(
    name="cc12m",
    title="Conceptual 12M",
    description=(
        "12 million pictures of the web with their alt texts, less strictly chosen than those of CC3M. "
        "Its owners "
        "distribute addresses."
    ),
    licence=(
        "the list: its owners allow use for any purpose, with attribution, as far as known; the pictures "
        "belong "
        "to their publishers. Check the homepage."
    ),
    convert=convert,
    splits={
        "train": Split(
            "split = 'train'", 12_423_374, "rows of the list; dead addresses are missing", about=True
        ),
        "sized": Split(
            "least(width, height) >= 10 AND greatest(width, height) <= 10000",
            note="both sides between 10 and 10,000 pixels, as Uni-Perceiver keeps them",
        ),
    },
    sources=(
        Source(LIST_12M, "the homepage (`address TAB caption`, no header)", alternatives=(f"{LIST_12M}.gz",)),
        Source(
            "train_image",
            "what was fetched: `train_image/00000012.jpg`, the number of the line counted from 0 with 8 "
            "digits",
            alternatives=("train_image.zip", "train_image.tar"),
        ),
    ),
    options=OPTIONS,
    citation=(
        "Changpinyo, Sharma, Ding, Soricut: Conceptual 12M: Pushing Web-Scale Image-Text Pre-Training To "
        "Recognize Long-Tail Visual Concepts. CVPR 2021."
    ),
    homepage="https://github.com/google-research-datasets/conceptual-12m",
    layouts={
        "fetched": Layout(FETCHED_TEXT, convert_fetched, (FETCHED,)),
        "arrow": arrow_layout("cc12m", OPTIONS),
        "uniperceiver": Layout(
            "The data folder of Uni-Perceiver: `c12m/train_available.json` (JSON lines; the folder has "
            "no second "
            "c) and `c12m/train_image/` or `c12m/train_image.zip`. `--raw` is DATA_PATH.",
            convert_tree,
            (
                Source("c12m/train_available.json", "Uni-Perceiver", alternatives=("c12m/train.json",)),
                Source("c12m/train_image", "what was fetched", alternatives=("c12m/train_image.zip",)),
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
        "- The columns have the opposite order of CC3M's. Which one is the address is seen from the "
        "content, so "
        "a list that was turned around does as well.\n"
        "- Names of people are `<PERSON>`; captions stay as published (`data.text` makes `person` of it with "
        "`clean: caption`).\n"
        "- About 63,000 addresses are in CC3M, too: compare `url`, or use `diptych data dedup`.\n"
        "- There is no validation part."
    ),
    miniature="diptych.data.miniatures.url_sets:make_cc12m",
)

"""The layout `arrow`: pre-training data as EVE keeps it, Arrow files of 100,000 rows with the pictures "
"inside."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Convert, Layout, LeftOut, Source, Unread
from diptych.data.cards.fetched import SPLITS
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import needed
from diptych.data.members import clean_key
from diptych.data.raw.arrow import arrow_rows
from diptych.data.raw.listed import is_address, squeeze
from diptych.data.sample import Sample
from diptych.errors import DataError

COLUMNS = ("caption", "image_id")


def arrow_layout(card: str, known: Mapping[str, str]) -> Layout:
    """Return the layout of a card.

    Args:
        card: name of the card, which is how its files begin.
        known: options of the card.
    """
    return Layout(
        f"EVE's pre-training files: `{card}_0.arrow`, `{card}_1.arrow`, ... with the columns `image` "
        "(bytes), "
        "`caption` and `image_id`. `--raw` is their folder. EVE's own writer loses the rows behind the last "
        "100,000; they cannot be had from its files.",
        _converter(card, known),
        (Source(f"{card}_*.arrow", "EVE's converter"),),
    )


def _converter(card: str, known: Mapping[str, str]) -> Convert:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
        """Yield a sample for each row, file by file in the order of their numbers."""
        folder = needed(raw, card)
        Options(card, options, known)
        files = sorted(folder.glob(f"{card}_*.arrow"), key=_number)
        if not files:
            raise DataError(f"{folder}: expected {card}_0.arrow and further ones, but there is none")
        for path in files:
            words = re.split(r"[^a-z]+", path.stem.lower())
            split = next((SPLITS[word] for word in words if word in SPLITS), "train")
            yield from _rows(path, split)

    return convert


def _number(path: Path) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?)(\d*)", path.stem)
    return (found[1], int(found[2] or 0)) if found else (path.stem, 0)


def _rows(path: Path, split: str) -> Iterator[Unread | LeftOut]:
    for number, ref, about in arrow_rows(path, "image", COLUMNS):
        key = clean_key(f"{split}_{path.stem}_{number:06d}")
        captions = _captions(about.get("caption"))
        if ref is None:
            yield LeftOut("missing picture", key, f"{path.name}, row {number}")
        elif captions is None:
            yield LeftOut("bad entry", key, f"{path.name}, row {number}: no text in 'caption'")
        else:
            url = about.get("image_id")
            meta: dict[str, Any] = {"url": url if isinstance(url, str) and is_address(url) else ""}
            yield Unread(Sample(key, {}, captions, "", split, meta), {"jpg": ref})


def _captions(value: object) -> tuple[str, ...] | None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return tuple(squeeze(text) for text in texts)

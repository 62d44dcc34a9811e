"""What CC3M and CC12M share: rows named by line numbers, one caption a picture."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    as_sample,
    check_media,
    chosen_splits,
    from_fetched,
    image_lines,
    needed,
    placed,
)
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.listed import first_of, need
from diptych.data.raw.url_lists import listed

_ID = re.compile(r"(train|val)_\d{8,}")
"""Ids of the rows of the published lists: those that `diptych data fetch` leaves in the column `id`."""


def listed_pairs(
    card: str, raw: Path | None, options: Mapping[str, str], known: Mapping[str, str]
) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each row of the published lists whose picture is in `<split>_image`.

    Raises:
        UsageError: a wrong option.
        DataError: a list, or all the pictures of a split, are missing.
    """
    folder = needed(raw, card)
    files, split = RawFolder(folder), ""
    for row in chosen_splits(Options(card, options, known), listed(card, folder)):
        if row.split != split:
            split = row.split
            images = f"{split}_image"
            check_media(folder, card, split, images, f"{images}.zip", f"{images}.tar")
        name = row.file.removeprefix(f"{images}/")
        places = (row.file, f"{images}.zip{INSIDE}{name}", f"{images}.tar{INSIDE}{name}")
        yield placed(row, files.find(*places), "picture")


def fetched_pairs(
    card: str, raw: Path | None, options: Mapping[str, str], known: Mapping[str, str]
) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards; the column `id` is the key where a list had one.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    for found in from_fetched(card, raw, options, known, "picture"):
        if isinstance(found, LeftOut):
            yield found
        else:
            sample, meta = found
            # Other tools keep our ids in a column, if the list had it.
            known_id = sample.text("id")
            yield as_sample(sample, known_id if _ID.fullmatch(known_id) else sample.key, meta)


def lines_of_tree(
    card: str,
    raw: Path | None,
    options: Mapping[str, str],
    known: Mapping[str, str],
    folder: str,
    lists: Mapping[str, Sequence[str]],
) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's lists.

    Args:
        card: name of the card.
        raw: the data folder.
        options: what the user gave.
        known: options of the card.
        folder: that of the dataset below `raw`.
        lists: split -> names of its list; the first split has to be there.

    Raises:
        UsageError: a wrong option.
        DataError: the list of the first split is missing.
    """
    root = needed(raw, card)
    wanted = Options(card, options, known).text("splits")
    for number, (split, names) in enumerate(lists.items()):
        if wanted and split not in wanted.split(","):
            continue
        places = [f"{folder}/{name}" for name in names]
        path = first_of(root, *places) if number else need(root, card, *places)
        if path is not None:
            yield from image_lines(root, folder, path, split)

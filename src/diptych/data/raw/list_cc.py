"""The lists of Conceptual Captions: CC3M (caption TAB address) and CC12M (address TAB caption)."""

from collections.abc import Iterator
from pathlib import Path

from diptych.data.raw.listed import Listed, first_of, is_address, need, open_text, squeeze
from diptych.data.raw.tables import lines

TRAIN_3M = "Train_GCC-training.tsv"
VAL_3M = "Validation_GCC-1.1.0-Validation.tsv"
LIST_12M = "cc12m.tsv"
OTHER_3M = {
    "train": ("Train-GCC-training.tsv", "cc3m.tsv"),
    "val": ("Validation-GCC-1.1.0-Validation.tsv",),
}
"""Names that copies of the lists go by."""
_HEADER = {"caption", "url"}


def cc3m(raw: Path) -> Iterator[Listed]:
    """Yield the rows of CC3M, train then val.

    Raises:
        DataError: there is no list.
    """
    val = first_of(raw, VAL_3M, *OTHER_3M["val"])
    train = first_of(raw, TRAIN_3M, *OTHER_3M["train"])
    if train is None and val is None:
        need(raw, "cc3m", TRAIN_3M)
    for path, split in ((train, "train"), (val, "val")):
        if path is not None:
            yield from _rows(path, split, caption_first=True)


def cc12m(raw: Path) -> Iterator[Listed]:
    """Yield the rows of CC12M.

    Raises:
        DataError: there is no list.
    """
    yield from _rows(need(raw, "cc12m", LIST_12M, f"{LIST_12M}.gz"), "train", caption_first=False)


def _rows(path: Path, split: str, *, caption_first: bool) -> Iterator[Listed]:
    """Yield the rows of a list of two columns; which is which is seen from what they hold.

    A row's name is its line number, counted from 0 over every line but a header.
    """
    header = 0
    with open_text(path) as stream:
        for number, line in lines(stream):
            if number == 0 and {field.strip().lower() for field in line.split("\t")} == _HEADER:
                # The line that img2dataset wants in front.
                header = 1
                continue
            if not line.strip():
                continue
            name = f"{number - header:08d}"
            caption, url = _columns(line.split("\t"), caption_first=caption_first)
            yield Listed(
                f"{split}_{name}",
                url,
                caption,
                split,
                f"{split}_image/{name}.jpg",
                problem="" if url else f"{path.name}, line {number + 1}: no address in {line[:80]!r}",
            )


def _columns(fields: list[str], *, caption_first: bool) -> tuple[str, str]:
    """Return caption and address; the address is empty where there is none.

    A caption may hold tabs, and may itself begin like an address: then the published order decides.
    """
    if len(fields) < 2:
        return squeeze(fields[0]), ""
    order = (-1, 0) if caption_first else (0, -1)
    place = next((i for i in order if is_address(fields[i])), None)
    if place is None:
        return squeeze(" ".join(fields)), ""
    url = fields.pop(place).strip().strip('"')
    return squeeze(" ".join(fields)), url

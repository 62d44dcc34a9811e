"""Where the cards of ImageNet find classes: folders, inner tars, and the labels for validation."""

import csv
import re
from collections.abc import Sequence

from diptych.data.cards.base import LeftOut
from diptych.data.cards.class_sets import Classes, bad_entry, stem
from diptych.data.cards.imagenet_devkit import wnids_of_devkit
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.tables import lines
from diptych.errors import DataError

LISTS = ("meta/val.txt", "val.txt")
SOLUTION = "LOC_val_solution.csv"
DEVKIT = ("ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12.tar.gz")
LABELS = (*DEVKIT, SOLUTION, *LISTS)
"""Files and folders that tell the labels for validation."""
UNDRAWN = {"draw": -1, "drawn_of": 0}
"""Entries of samples that no few-shot selection holds."""

_WNID = re.compile(r"n\d{8}")
_DATA = "ILSVRC2012_devkit_t12/data/"


def is_wnid(name: str) -> bool:
    """Tell whether a name is written like the WordNet id of a noun."""
    return _WNID.fullmatch(name) is not None


def class_places(folder: RawFolder, roots: Sequence[str]) -> dict[str, list[str]]:
    """Return for each class where its pictures lie: folders and tars that are called as the class.

    Args:
        folder: of the raw files.
        roots: folders and tars to look in.

    Raises:
        DataError: an archive is damaged.
    """
    found: dict[str, list[str]] = {}
    for root in roots:
        for place in _inner(folder, root):
            name = place.rpartition("/")[2]
            name = stem(name) if name.endswith(".tar") else name
            found.setdefault(name, []).append(place)
    return found


def _inner(folder: RawFolder, root: str) -> list[str]:
    """Return the folders and tars in a folder or tar."""
    if root.endswith(".tar"):
        members = folder.members(root)
        tars = [f"{root}{INSIDE}{name}" for name in members if name.endswith(".tar")]
        folders = {name.rpartition("/")[0] for name in members if "/" in name and not name.endswith(".tar")}
        return tars + [f"{root}{INSIDE}{name}" for name in sorted(folders)]
    pattern = f"{root}/*" if root else "*"
    return [
        name
        for name in folder.glob(pattern)
        if (name.endswith(".tar") and is_wnid(stem(name))) or (folder.root / name).is_dir()
    ]


def read_labels(folder: RawFolder, classes: Classes) -> tuple[dict[str, int], list[LeftOut]]:
    """Return the labels of the pictures for validation by their names without ending, and what is wrong.

    Raises:
        DataError: no file tells them, or it is of another form.
    """
    if folder.find(*LISTS):
        return _from_list(folder, classes)
    if folder.find(SOLUTION):
        return _from_solution(folder, classes)
    for kit in (f"{DEVKIT[0]}/data/", f"{DEVKIT[1]}@/{_DATA}"):
        if folder.find(f"{kit}meta.mat"):
            return _from_devkit(folder, kit, classes)
    raise DataError(
        f"{folder.root}: nothing tells the labels of the pictures for validation; expected one of "
        f"{', '.join(LABELS)}, or folders called as the classes (val/n01440764/...)"
    )


def _from_list(folder: RawFolder, classes: Classes) -> tuple[dict[str, int], list[LeftOut]]:
    labels: dict[str, int] = {}
    wrong = []
    with folder.text(*LISTS) as stream:
        for number, line in lines(stream):
            fields = line.split()
            label = int(fields[1]) if len(fields) == 2 and fields[1].isdecimal() else -1
            if 0 <= label < len(classes.names):
                labels[stem(fields[0])] = label
            elif fields:
                wrong.append(
                    bad_entry(f"val.txt:{number + 1}", "`name label` with a label from 0 to 999", line)
                )
    return labels, wrong


def _from_solution(folder: RawFolder, classes: Classes) -> tuple[dict[str, int], list[LeftOut]]:
    """Read `ImageId,PredictionString`; the text begins with the WordNet id, boxes follow."""
    labels: dict[str, int] = {}
    wrong = []
    with folder.text(SOLUTION) as stream:
        for number, row in enumerate(csv.reader(stream)):
            fields = row[1].split() if len(row) > 1 else []
            label = classes.find(fields[0]) if fields else None
            if label is not None:
                labels[row[0]] = label
            elif number:
                wrong.append(
                    bad_entry(f"{SOLUTION}:{number + 1}", "`ImageId,PredictionString` with a class", row)
                )
    return labels, wrong


def _from_devkit(folder: RawFolder, kit: str, classes: Classes) -> tuple[dict[str, int], list[LeftOut]]:
    wnids = wnids_of_devkit(folder.need(f"{kit}meta.mat"))
    labels: dict[str, int] = {}
    wrong = []
    name = "ILSVRC2012_validation_ground_truth.txt"
    with folder.text(f"{kit}{name}") as stream:
        for number, line in lines(stream):
            label = classes.find(wnids.get(int(line), "")) if line.strip().isdecimal() else None
            if label is not None:
                labels[f"ILSVRC2012_val_{number + 1:08d}"] = label
            elif line.strip():
                wrong.append(bad_entry(f"{name}:{number + 1}", "the number of a class of meta.mat", line))
    return labels, wrong

"""The objects of COCO's pictures: hundreds of thousands of boxes, held small until their picture comes."""

import json
import math
from collections.abc import Container
from typing import Any

from diptych.data.cards.base import LeftOut
from diptych.data.cards.coco_files import bad, is_number
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import json_fields

_BOX = 4


class Objects:
    """Objects by picture.

    Attributes:
        wrong: entries that are damaged, or of no known picture or category.
    """

    def __init__(self, found: dict[int, list[bytes]], names: dict[int, str], wrong: list[LeftOut]) -> None:
        self._found, self._names, self.wrong = found, names, wrong

    def of(self, image: int) -> dict[str, Any]:
        """Return what the facts of a picture say of its objects."""
        objects = [json.loads(entry) for entry in self._found.get(image, ())]
        numbers = sorted({entry["category_id"] for entry in objects})
        named = [{"id": e["id"], "category": self._names[e["category_id"]], **e} for e in objects]
        return {
            "objects": named,
            "labels": [self._names[number] for number in numbers],
            "object_count": len(named),
        }


def read_objects(
    raw: RawFolder, places: tuple[str, ...], images: Container[int | str], *, outlines: bool
) -> Objects:
    """Read a file of instances.

    Args:
        raw: the raw files.
        places: of the file.
        images: ids of the pictures that there are.
        outlines: keep `segmentation`.

    Raises:
        DataError: the file is not there, or of another form.
    """
    found: dict[int, list[bytes]] = {}
    names: dict[int, str] = {}
    wrong: list[LeftOut] = []
    with raw.text(*places) as stream:
        for part, entry in json_fields(stream, places[0], ("annotations", "categories")):
            problem = _category(names, entry) if part == "categories" else _problem(entry, images)
            if problem:
                wrong.append(bad(f"{places[0].rpartition('/')[2]}, {part}", problem, entry))
            elif part == "annotations":
                found.setdefault(entry["image_id"], []).append(_kept(entry, outlines=outlines))
    _drop_unknown(found, names, wrong)
    return Objects(found, names, wrong)


def _category(names: dict[int, str], entry: Any) -> str:
    if (
        not isinstance(entry, dict)
        or not is_number(entry.get("id"))
        or not isinstance(entry.get("name"), str)
    ):
        return "an object with 'id' and 'name'"
    names[entry["id"]] = entry["name"]
    return ""


def _problem(entry: Any, images: Container[int | str]) -> str:
    if not isinstance(entry, dict) or not all(
        is_number(entry.get(n)) for n in ("id", "image_id", "category_id")
    ):
        return "an object with numbers in 'id', 'image_id' and 'category_id'"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != _BOX or not all(_is_finite(value) for value in box):
        return "four numbers in 'bbox'"
    return "" if entry["image_id"] in images else "'image_id' among the images"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kept(entry: dict[str, Any], *, outlines: bool) -> bytes:
    """Return an object as JSON: a tenth of the memory of the parsed one."""
    kept = {
        "id": entry["id"],
        "category_id": entry["category_id"],
        "bbox": entry["bbox"],
        "area": entry["area"] if _is_finite(entry.get("area")) else entry["bbox"][2] * entry["bbox"][3],
        "iscrowd": bool(entry.get("iscrowd", 0)),
    }
    if outlines:
        kept["segmentation"] = entry.get("segmentation", [])
    return json.dumps(kept, separators=(",", ":")).encode()


def _drop_unknown(found: dict[int, list[bytes]], names: dict[int, str], wrong: list[LeftOut]) -> None:
    """Take out the objects whose category the file does not tell; the categories come last in it."""
    for image, entries in found.items():
        numbers = [json.loads(entry)["category_id"] for entry in entries]
        if all(number in names for number in numbers):
            continue
        pairs = list(zip(entries, numbers, strict=True))
        wrong += [
            bad(f"image {image}", "a known 'category_id'", json.loads(entry))
            for entry, number in pairs
            if number not in names
        ]
        found[image] = [entry for entry, number in pairs if number in names]

"""The annotation files of Visual Genome: phrases about regions, facts of pictures, questions and answers."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from diptych.data.cards.base import LeftOut
from diptych.data.cards.coco_files import bad, is_number, squeeze
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import json_items
from diptych.errors import DataError

_FOLDERS = {"VG_100K": "images.zip", "VG_100K_2": "images2.zip"}
_BOX = ("x", "y", "width", "height")
Question = dict[str, Any]


def places_of(name: str, folder: str = "") -> tuple[str, str]:
    """Return where one of the owners' files may be: unpacked, or in its zip."""
    return f"{folder}{name}", f"{folder}{name}.zip@/{name}"


@dataclass
class Described:
    """A picture and the phrases about its regions."""

    number: int
    captions: dict[str, None] = field(default_factory=dict)
    """Different phrases, in the order of the file."""
    regions: list[dict[str, Any]] = field(default_factory=list)
    """The regions that are large enough, repeated phrases included."""
    total: int = 0
    """All regions, small ones included."""
    wrong: list[LeftOut] = field(default_factory=list)
    file: str = ""
    """Folder and name of the picture, where the annotations tell it."""


def described(raw: RawFolder, places: tuple[str, ...], min_area: int) -> Iterator[Described | LeftOut]:
    """Yield the pictures of `region_descriptions.json`, with the phrases of regions of this area or more.

    Raises:
        DataError: the file is not there, or of another form.
    """
    name = PurePosixPath(places[0]).name
    with raw.text(*places) as stream:
        for position, entry in enumerate(json_items(stream, places[0])):
            regions = entry.get("regions") if isinstance(entry, dict) else None
            if not isinstance(regions, list) or not is_number(entry.get("id")):
                yield bad(f"{name}, picture {position}", "an object with 'id' and a list 'regions'", entry)
                continue
            found = Described(entry["id"], total=len(regions))
            for region in regions:
                _add(found, region, min_area)
            yield found


def _add(found: Described, region: Any, min_area: int) -> None:
    if not isinstance(region, dict) or not all(is_number(region.get(side)) for side in _BOX):
        found.wrong.append(bad(found.number, f"a region with whole numbers {', '.join(_BOX)}", region))
    elif not isinstance(region.get("phrase"), str):
        found.wrong.append(bad(found.number, "a text in 'phrase'", region))
    # The area alone counts: a region 1000 pixels wide and 17 high passes.
    elif region["width"] * region["height"] >= min_area:
        phrase = squeeze(region["phrase"])
        if not phrase:
            detail = f"region {region.get('region_id')} has an empty phrase"
            found.wrong.append(LeftOut("empty caption", str(found.number), detail))
            return
        found.captions.setdefault(phrase)
        box = {side: region[side] for side in _BOX}
        found.regions.append({"region_id": region.get("region_id"), "phrase": phrase, **box})


def filtered(raw: RawFolder, place: str) -> Iterator[Described]:
    """Yield the pictures of `vg_captions_128filter.json`, which Uni-Perceiver's converter writes.

    Raises:
        DataError: the file is not there, or of another form.
    """
    with raw.text(place) as stream:
        try:
            content = json.load(stream)
        except ValueError as error:
            raise DataError(f"{raw.root / place} is no JSON: {error}") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("phrase", "subset")]
    phrases, files = parts
    if not isinstance(phrases, dict) or not isinstance(files, dict):
        raise DataError(f"{raw.root / place}: expected an object with the objects 'phrase' and 'subset'")
    for number, texts in phrases.items():
        if not number.isdecimal() or not isinstance(texts, list):
            raise DataError(
                f"{raw.root / place}: 'phrase' has {number}: {texts!r:.90}; "
                "expected numbers and lists of texts"
            )
        found = Described(int(number), total=len(texts), file=str(files.get(number, "")))
        for text in texts:
            if not isinstance(text, str):
                found.wrong.append(bad(number, "a text", text))
            elif squeeze(text):
                found.captions.setdefault(squeeze(text))
            else:
                found.wrong.append(LeftOut("empty caption", number, "an empty phrase"))
        yield found


def coco_ids(raw: RawFolder, *places: str) -> dict[int, int | None] | None:
    """Return picture -> its COCO id or None, of `image_data.json`; None if the file is not there.

    Raises:
        DataError: it is of another form.
    """
    if raw.find(*places) is None:
        return None
    found: dict[int, int | None] = {}
    with raw.text(*places) as stream:
        for entry in json_items(stream, places[0]):
            number = entry.get("image_id") if isinstance(entry, dict) else None
            if not is_number(number):
                raise DataError(f"{places[0]}: expected objects with a number 'image_id', got {entry!r:.100}")
            coco = entry.get("coco_id")
            found[number] = coco if is_number(coco) else None
    return found


class Questions:
    """Questions and answers by picture, of `question_answers.json`: over a million, so kept as JSON.

    Attributes:
        wrong: entries that are damaged.

    Raises:
        DataError: the file is not there, or of another form.
    """

    def __init__(self, raw: RawFolder, *places: str) -> None:
        self._found: dict[int, bytes] = {}
        self.wrong: list[LeftOut] = []
        with raw.text(*places) as stream:
            for entry in json_items(stream, places[0]):
                pairs = entry.get("qas") if isinstance(entry, dict) else None
                if not isinstance(pairs, list) or not is_number(entry.get("id")):
                    self.wrong.append(bad(places[0], "an object with 'id' and a list 'qas'", entry))
                    continue
                asked = [made for pair in pairs if (made := self._question(entry["id"], pair))]
                if asked:
                    self._found[entry["id"]] = json.dumps(asked, ensure_ascii=False).encode()

    def _question(self, number: int, pair: Any) -> Question | None:
        if (
            not isinstance(pair, dict)
            or not is_number(pair.get("qa_id"))
            or not all(isinstance(pair.get(n), str) and pair[n].strip() for n in ("question", "answer"))
        ):
            self.wrong.append(bad(number, "an object with 'qa_id', 'question' and 'answer'", pair))
            return None
        return {
            "question": squeeze(pair["question"]),
            "question_id": pair["qa_id"],
            "dataset": "vg",
            "answer": squeeze(pair["answer"]),
        }

    def numbers(self) -> Iterator[int]:
        """Yield the pictures that have questions, in the order of the file."""
        yield from self._found

    def of(self, number: int) -> list[Question]:
        """Return the questions about a picture as entries of `meta.questions`."""
        found: list[Question] = json.loads(self._found.get(number, b"[]"))
        return found


def karpathy_name(
    number: int, coco: Mapping[int, int | None] | None, splits: Mapping[int, str] | None
) -> dict[str, Any]:
    """Return the facts that tell whether a picture is COCO's, and where Karpathy's split has it."""
    if coco is None:
        return {"coco": "unknown", "karpathy": "unknown"}
    coco_id = coco.get(number)
    if coco_id is None:
        return {"coco": "no", "karpathy": "none"}
    split = "unknown" if splits is None else splits.get(coco_id, "none")
    return {"coco": "yes", "coco_id": coco_id, "karpathy": split}


def vg_picture(raw: RawFolder, root: str, number: int, file: str = "") -> tuple[str, Ref | None]:
    """Return folder and name of a picture of Visual Genome, and where it is.

    It may lie in one of the two folders, in their zips, or in a flat zip of both.

    Args:
        raw: the raw files.
        root: folder of the folders of pictures, empty or with `/` at its end.
        number: of the picture.
        file: its folder and name, where they are known.
    """
    names = [file] if file else [f"{folder}/{number}.jpg" for folder in _FOLDERS]
    for name in names:
        folder, _, last = name.rpartition("/")
        archives = dict.fromkeys((_FOLDERS.get(folder, "images.zip"), f"{folder}.zip", "images.zip"))
        inside = [f"{root}{archive}@/{member}" for archive in archives for member in (name, last)]
        ref = raw.find(f"{root}{name}", *inside)
        if ref is not None:
            return name, ref
    return names[0], None

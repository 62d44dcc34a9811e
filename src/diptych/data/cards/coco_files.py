"""What the cards around COCO share: annotations in its JSON and in Karpathy's, pictures, lists of ids."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.members import PICTURES, clean_key
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import json_fields, json_items
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

MISSING = "missing picture"
BAD = "bad entry"
KARPATHY = ("dataset_coco.json", "caption_datasets.zip@/dataset_coco.json")
"""Places of Karpathy's split of COCO."""
KARPATHY_SPLITS = ("train", "restval", "val", "test")
HOMEPAGE = "https://cocodataset.org"


def squeeze(text: str) -> str:
    """Return a text on one line: white space around it goes, runs of it inside become one blank.

    Halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD.
    """
    text = " ".join(text.split())
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def opened(card: str, raw: Path | None) -> RawFolder:
    """Return the raw folder of a card.

    Raises:
        UsageError: there is none.
    """
    if raw is None:
        raise UsageError(f"card '{card}' needs its raw files: give their folder with --raw")
    return RawFolder(raw)


def bad(key: object, expected: str, got: object) -> LeftOut:
    """Return what is counted for a damaged entry of an annotation file."""
    try:
        shown = json.dumps(got, ensure_ascii=True)
    except (TypeError, ValueError):
        shown = repr(got)
    return LeftOut(BAD, str(key), f"expected {expected}, got {shown[:100]}")


def extension(name: str) -> str:
    """Return the extension that a picture is stored under; what it really is, its content says."""
    ending = PurePosixPath(name).suffix[1:].lower()
    return ending if ending in PICTURES else "jpg"


def stem(name: str) -> str:
    """Return the key that the name of a file gives: no folder, no extension."""
    return clean_key(PurePosixPath(name).stem)


def coco_picture(raw: RawFolder, root: str, name: str) -> Ref | None:
    """Return a picture such as `val2014/COCO_val2014_000000000042.jpg`, unpacked or in a zip of the folder.

    Args:
        raw: the raw files.
        root: folder of the folders of pictures, empty or with `/` at its end.
        name: folder and file. The members of `val2014.zip` may have the folder in front or not.
    """
    folder, _, file = name.rpartition("/")
    archive = f"{root}{folder}.zip@/"
    return raw.find(f"{root}{name}", f"{archive}{name}", f"{archive}{file}")


def with_picture(sample: Sample, name: str, ref: Ref | None, detail: str = "") -> Unread | LeftOut:
    """Return the sample with its picture, or what is counted if that is not there."""
    if ref is None:
        return LeftOut(MISSING, sample.key, name + (f" ({detail})" if detail else ""))
    return Unread(sample, {extension(name): ref})


@dataclass(frozen=True)
class Captioned:
    """A picture and its sentences as an annotation file gives them."""

    name: str
    """Of the file, with its folder where the annotations tell it."""
    split: str
    """As the annotations call it; empty where they do not."""
    captions: tuple[str, ...]
    sentence_ids: tuple[int, ...] = ()
    coco_id: int | None = None


def karpathy(raw: RawFolder, *places: str) -> Iterator[Captioned | LeftOut]:
    """Yield the pictures of a file of Karpathy's splits (`dataset_coco.json`, `dataset_flickr30k.json`).

    Raises:
        DataError: it is not there, or is no such file.
    """
    with raw.text(*places) as stream:
        for number, entry in enumerate(json_items(stream, places[0], "images")):
            yield _karpathy_entry(entry, f"{PurePosixPath(places[0]).name}, image {number}")


def _karpathy_entry(entry: Any, where: str) -> Captioned | LeftOut:
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        return bad(where, "an object with 'filename'", entry)
    name, split, sentences = entry["filename"], entry.get("split"), entry.get("sentences")
    if split not in KARPATHY_SPLITS:
        return bad(name, f"'split' to be one of {', '.join(KARPATHY_SPLITS)}", split)
    if not isinstance(sentences, list) or not all(
        isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences
    ):
        return bad(name, "a list of 'sentences' with 'raw' texts", sentences)
    number, folder = entry.get("cocoid"), entry.get("filepath")
    if all(is_number(sentence.get("sentid")) for sentence in sentences):
        sentences = sorted(sentences, key=lambda sentence: int(sentence["sentid"]))
    return Captioned(
        f"{folder}/{name}" if isinstance(folder, str) and folder else name,
        split,
        tuple(squeeze(sentence["raw"]) for sentence in sentences),
        tuple(s["sentid"] for s in sentences if is_number(s.get("sentid"))),
        number if is_number(number) else None,
    )


def is_number(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def karpathy_of(raw: RawFolder, *places: str) -> Mapping[int, str] | None:
    """Return COCO id -> Karpathy's split (train, restval, val, test); None if the file is not there.

    Raises:
        DataError: it is no such file.
    """
    if raw.find(*places) is None:
        return None
    found = (entry for entry in karpathy(raw, *places) if isinstance(entry, Captioned))
    return {entry.coco_id: entry.split for entry in found if entry.coco_id is not None}


@dataclass
class CocoStyle:
    """A caption file of COCO's form."""

    images: dict[int | str, dict[str, Any]] = field(default_factory=dict)
    """Id -> entry, in the order of the file."""
    captions: dict[int | str, list[tuple[int, str]]] = field(default_factory=dict)
    """Id of a picture -> id and text of its captions, in the order of their ids."""
    wrong: list[LeftOut] = field(default_factory=list)

    def texts(self, image: int | str) -> tuple[str, ...]:
        """Return the captions of a picture."""
        return tuple(text for _, text in self.captions.get(image, ()))

    def numbers(self, image: int | str) -> tuple[int, ...]:
        """Return the ids of the captions of a picture."""
        return tuple(number for number, _ in self.captions.get(image, ()))


def coco_style(raw: RawFolder, *places: str) -> CocoStyle:
    """Read `{"images": [{id, ...}], "annotations": [{image_id, id, caption}]}`; other fields do not matter.

    Annotations need not be grouped nor in order; one without its picture is counted as wrong.

    Raises:
        DataError: the file is not there, or of another form.
    """
    found, name = CocoStyle(), PurePosixPath(places[0]).name
    with raw.text(*places) as stream:
        for part, entry in json_fields(stream, places[0], ("images", "annotations")):
            problem = _image(found, entry) if part == "images" else _caption(found, entry)
            if problem:
                found.wrong.append(bad(f"{name}, {part}", problem, entry))
    if not found.images:
        raise DataError(f"{raw.need(*places)}: expected a list 'images' of objects with 'id', found none")
    for image in [image for image in found.captions if image not in found.images]:
        for number, text in found.captions.pop(image):
            found.wrong.append(
                bad(f"{name}, annotation {number}", f"image_id {image} among the images", text)
            )
    for captions in found.captions.values():
        captions.sort(key=lambda caption: caption[0])
    return found


def _image(found: CocoStyle, entry: Any) -> str:
    number = entry.get("id") if isinstance(entry, dict) else None
    if not is_id(number):
        return "an object with 'id'"
    if number in found.images:
        return "another 'id' for each image"
    found.images[number] = entry
    return ""


def _caption(found: CocoStyle, entry: Any) -> str:
    if not isinstance(entry, dict) or not is_id(entry.get("image_id")) or not is_number(entry.get("id")):
        return "an object with 'image_id' and a number 'id'"
    if not isinstance(entry.get("caption"), str):
        return "a text in 'caption'"
    found.captions.setdefault(entry["image_id"], []).append((entry["id"], squeeze(entry["caption"])))
    return ""


def is_id(value: object) -> TypeGuard[int | str]:
    """Tell whether a value can be the id of a picture: a whole number or a text."""
    return is_number(value) or isinstance(value, str)


def read_ids(raw: RawFolder, names: Sequence[str]) -> frozenset[int]:
    """Return the COCO ids in files: numbers between white space and commas, or one JSON list of numbers.

    Raises:
        DataError: a file is not there, or holds something else.
    """
    ids: set[int] = set()
    for name in names:
        with raw.text(name) as stream:
            words = stream.read().replace("[", " ").replace("]", " ").replace(",", " ").split()
        for word in words:
            if not word.isdecimal():
                raise DataError(f"{raw.root / name}: expected COCO ids (whole numbers), got '{word[:50]}'")
            ids.add(int(word))
    return frozenset(ids)

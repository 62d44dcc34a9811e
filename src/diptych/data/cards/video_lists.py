"""What cards of videos with captions or questions share: finding videos, and the usual forms of lists."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.class_sets import MISSING_VIDEO, bad_entry, ending, squeezed, stem
from diptych.data.raw.folder import Media, RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import lines
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample
from diptych.errors import DataError


class Videos:
    """Videos by their names without folders and ending; where two are alike, the first place's counts.

    Args:
        folder: of the raw files.
        places: where to look: folders, archives, folders in archives.
    """

    def __init__(self, folder: RawFolder, places: Iterable[str]) -> None:
        # Each name with its place: a dataset may come in hundreds of archives.
        self._found: dict[str, tuple[Media, str]] = {}
        for media in (folder.media(place) for place in places):
            for name in media.names():
                if ending(name) in VIDEOS:
                    self._found.setdefault(stem(name), (media, name))

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str) -> dict[str, Ref] | None:
        """Return extension -> video of a name with or without its ending, or None."""
        found = self._found.get(name) or self._found.get(without_ending(name))
        ref = found[0].get(found[1]) if found else None
        return {ending(found[1]): ref} if found and ref else None

    def sample(self, name: str, sample: Sample, what: str) -> Unread | LeftOut:
        """Return `sample` with the video of this name, or what is counted when there is none.

        Args:
            name: of the video.
            sample: all but the video.
            what: what is lost with it, for example `40 captions`.
        """
        refs = self.get(name)
        return Unread(sample, refs) if refs else LeftOut(MISSING_VIDEO, sample.key, f"{name} ({what})")


def without_ending(name: str) -> str:
    """Return the name of a video without folders and ending; other names as they are."""
    return stem(name) if ending(name) in VIDEOS else name


@dataclass
class Clip:
    """A video and its captions, as a list gives them."""

    name: str
    captions: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


def read_object(raw: RawFolder, *places: str) -> dict[str, Any]:
    """Return the object that the first of these JSON files holds.

    Raises:
        DataError: none is there, or it is no JSON object.
    """
    content = read_json(raw, *places)
    if not isinstance(content, dict):
        raise DataError(f"{shown(raw, *places)}: expected a JSON object, got a {type(content).__name__}")
    return content


def read_json(raw: RawFolder, *places: str) -> Any:
    """Return the content of the first of these JSON files.

    Raises:
        DataError: none is there, or it is no JSON.
    """
    with raw.text(*places) as stream:
        try:
            return json.load(stream)
        except ValueError as error:
            raise DataError(f"{shown(raw, *places)} is no JSON: {error}; get the file again") from error


def shown(raw: RawFolder, *places: str) -> str:
    """Return how messages name the first of the places that is there."""
    found = next((place for place in places if raw.find(place) is not None), places[0])
    return f"{raw.root}/{found}"


def objects(raw: RawFolder, *places: str) -> Iterator[tuple[str, dict[str, Any] | LeftOut]]:
    """Yield name and content of each line of JSON lines; what is no object as something left out.

    Raises:
        DataError: the file is not there.
    """
    name = next((place for place in places if raw.find(place) is not None), places[0])
    with raw.text(*places) as stream:
        for number, line in lines(stream):
            if not line.strip():
                continue
            where = f"{name}:{number + 1}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                entry = f"{line} ({error})"
            yield where, entry if isinstance(entry, dict) else bad_entry(where, "a JSON object", entry)


def coco_clips(raw: RawFolder, place: str) -> Iterator[Clip | LeftOut]:
    """Yield the videos of a list in COCO's form, in the order of its `images`, with their captions.

    Entries of `meta`: `number`, the image id.

    Raises:
        DataError: the file is not there, or of another form.
    """
    content = read_object(raw, place)
    images, texts = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(texts, list):
        raise DataError(f"{shown(raw, place)}: expected lists `images` and `annotations`")
    clips: dict[Any, Clip] = {}
    for position, image in enumerate(images):
        match image:
            case {"id": int() as number, "file_name": str() as name} if name:
                clips[number] = Clip(name, meta={"number": number})
            case _:
                yield bad_entry(f"{place}:images[{position}]", "`id` and `file_name`", image)
    for position, text in enumerate(texts):
        match text:
            case {"image_id": int() as number, "caption": str() as caption} if number in clips:
                clips[number].captions.append(squeezed(caption))
            case _:
                where = f"{place}:annotations[{position}]"
                yield bad_entry(where, "the `image_id` of one of `images`, and a `caption`", text)
    yield from clips.values()


def snps3_clips(raw: RawFolder, place: str) -> Iterator[Clip | LeftOut]:
    """Yield the videos of a list as SNP-S3 reads it, in the order in which its lines first name them.

    A line is `{"clip_name", "caption"}` with `sen_id` or `retrieval_key`.

    Raises:
        DataError: the file is not there.
    """
    clips: dict[str, Clip] = {}
    for where, entry in objects(raw, place):
        match entry:
            case LeftOut():
                yield entry
            case {"clip_name": str() as file, "caption": str() as caption} if file:
                name = without_ending(file)
                clip = clips.setdefault(name, Clip(name))
                clip.captions.append(squeezed(caption))
                key = entry.get("retrieval_key")
                if isinstance(key, str):
                    clip.meta.setdefault("retrieval_key", key)
            case _:
                yield bad_entry(where, "`clip_name` and `caption`", entry)
    yield from clips.values()


def captions_of(clip: Clip) -> str:
    """Return how many captions a video has, in words."""
    return f"{len(clip.captions)} captions"


def integer(entry: Mapping[str, Any], name: str) -> dict[str, int]:
    """Return the entry `name` where it is a whole number; else nothing."""
    value = entry.get(name)
    return {name: value} if isinstance(value, int) and not isinstance(value, bool) else {}

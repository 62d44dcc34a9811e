"""The `retrieval-json` card: pictures and captions as COCO and Flickr30k are fine-tuned on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.xvlm_json import (
    EXAMPLE,
    LISTS,
    SPLITS,
    Entries,
    Keys,
    check_options,
    files_of,
    find_picture,
    missing,
)
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

OPTIONS = {
    **LISTS,
    "images": "folder of the pictures under --raw (default: --raw itself); entries name them from there",
}


@dataclass
class _Picture:
    """What the lists say of a picture."""

    match_id: str
    captions: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each picture of each split, in the order in which the lists first name it.

    Raises:
        UsageError: a wrong option.
        DataError: an annotation file cannot be read or is of another form.
    """
    if raw is None:
        raise UsageError("card 'retrieval-json' needs its raw files: give their folder with --raw")
    given = check_options("retrieval-json", options, OPTIONS)
    folder, keys = raw / given.text("images"), Keys()
    for split, pictures in _splits(list(files_of(given, raw))):
        for (_, name), about in pictures.items():
            key = keys.make(split, name)
            found = find_picture(folder, name)
            if found is None:
                yield missing(key, f"{name} ({len(about.captions)} captions)")
                continue
            sample = Sample(key, {}, tuple(about.captions), about.match_id, split, {"file": name})
            yield Unread(sample, dict([found]))
            for caption in about.repeated:
                yield LeftOut("repeated caption", key, caption)


_Pictures = dict[tuple[str, str], _Picture]
"""(match id, name of the picture) -> what is said of it."""


def _splits(files: list[tuple[str, Path]]) -> Iterator[tuple[str, _Pictures]]:
    for split in SPLITS:
        pictures: _Pictures = {}
        for path in (path for name, path in files if name == split):
            _read(path, pictures)
        yield split, pictures


def _read(path: Path, pictures: _Pictures) -> None:
    entries = Entries(path)
    for entry in entries:
        name, captions = entries.text(entry, "image"), entries.texts(entry, "caption")
        # Lists for training have an entry for each caption, those for evaluation one for each picture.
        single = isinstance(entry["caption"], str)
        match_id = str(entries.number_or_text(entry, "image_id")) if "image_id" in entry else ""
        about = pictures.setdefault((match_id, name), _Picture(match_id))
        if not single and about.captions:
            raise DataError(
                f"{path}: '{name}' has two lists of captions; expected one entry for each picture "
                "(lists for training have a single caption in each entry)"
            )
        for caption in captions:
            # What is evaluated on stays as published, repetitions included.
            known = about.repeated if single and caption in about.captions else about.captions
            known.append(caption)


CARD = Card(
    name="retrieval-json",
    title="Pictures and captions from JSON lists",
    description=(
        "COCO, Flickr30k and whatever else comes in the JSON lists that X-VLM made common for fine-tuning. "
        "Training: `[{image, caption, image_id}, ...]`, one entry for each caption; entries of equal "
        "`image_id` and `image` become one sample, and equal `image_id`s match each other's texts. "
        "Evaluation: `[{image, caption: [...]}, ...]`, one entry for each picture. "
        "A caption that training repeats for a picture is left out. Column `file`: the picture's name."
    ),
    licence="that of the pictures and annotations",
    convert=convert,
    splits=SPLITS,
    options=OPTIONS,
    annotations=tuple(LISTS),
    example=EXAMPLE,
    prepared=(
        "- key: `<split>_<name of the picture>` without its ending, with a hash where two would be alike\n"
        "- medium: the file as it is\n"
        "- captions: in the order of the lists; match id: `image_id`\n"
        "- column: `file`"
    ),
    oddities=(
        "- Lists for training have an entry for each caption, those for evaluation one for each picture; "
        "both are taken in any split.\n"
        "- A caption that training repeats for a picture counts as `repeated caption`; evaluation keeps it.\n"
        "- Names that lead out of the folder are `missing picture`, like those that are not there."
    ),
    miniature="diptych.data.miniatures.xvlm_json:make_retrieval",
)

"""The `captions-json` card: captions of pictures and videos in the lists that VideoChat2 pre-trains on."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.class_sets import (
    MISSING_PICTURE,
    MISSING_VIDEO,
    MediaKeys,
    bad_entry,
    needed,
    squeezed,
    stem,
)
from diptych.data.cards.xvlm_json import (
    EXAMPLE,
    LISTS,
    SPLITS,
    check_options,
    files_of,
    find_picture,
    read_json,
)
from diptych.data.raw.refs import FileRef
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample
from diptych.errors import DataError

NAME = "captions-json"
OPTIONS = {**LISTS, "media": "folder of the pictures and videos under --raw (default: --raw itself)"}
_EXPECTED = "`image` or `video` with a `caption`"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each entry, in the order of the files.

    Raises:
        UsageError: a wrong option.
        DataError: an annotation file cannot be read, or holds no list.
    """
    root = needed(NAME, raw)
    given = check_options(NAME, options, OPTIONS)
    folder, keys = root / given.text("media"), MediaKeys()
    for split, path in files_of(given, root):
        entries = read_json(path)
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected a list of entries, got {type(entries).__name__}")
        for number, entry in enumerate(entries):
            where = f"{path.name}:{number}"
            sample = _sample(entry, split)
            if sample is None:
                yield bad_entry(where, _EXPECTED, entry)
                continue
            kind, name, captions, meta = sample
            key = keys.make(f"{split}_{stem(name)}", where)
            found = _find(folder, name)
            if found is None:
                cause = MISSING_VIDEO if kind == "video" else MISSING_PICTURE
                yield LeftOut(cause, key, f"{name} ({where})")
                continue
            yield Unread(Sample(key, {}, captions, "", split, meta), dict([found]))


def _find(folder: Path, name: str) -> tuple[str, FileRef] | None:
    found = find_picture(folder, name)
    extension = PurePosixPath(name).suffix[1:].lower()
    if found is None:
        return None
    return (extension, found[1]) if extension in VIDEOS or extension == "gif" else found


def _sample(entry: Any, split: str) -> tuple[str, str, tuple[str, ...], dict[str, Any]] | None:
    """Return kind and name of the medium, captions and further facts; None: the entry is of another form."""
    if not isinstance(entry, dict):
        return None
    kind = "video" if "video" in entry else "image"
    name = entry.get(kind)
    if not isinstance(name, str) or not name.strip():
        return None
    meta: dict[str, Any] = {"file": name}
    for field in ("start", "end"):
        if isinstance(entry.get(field), int | float):
            meta[field] = float(entry[field])
    captions = entry.get("caption")
    texts = [captions] if isinstance(captions, str) else captions
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return None
    return kind, name, tuple(squeezed(text) for text in texts), meta


CARD = Card(
    name=NAME,
    title="Captions of pictures and videos from JSON lists",
    description=(
        "Lists of `{image or video, caption, start, end}` beside folders of pictures and videos, as "
        "VideoChat2 pre-trains on (stages 1 and 2); `caption` is one text or a list of texts. Its files of "
        "instructions are for `conversations-json`."
    ),
    licence="that of the pictures, videos and annotations",
    convert=convert,
    splits=SPLITS,
    options=OPTIONS,
    annotations=tuple(LISTS),
    example=EXAMPLE,
    media="video",
    shard_size=500,
    prepared=(
        "A sample is an entry. Key: the split and the name of the medium, with a hash where it comes again. "
        "Columns: `file`, `start`, `end` (seconds, for `data.video.part: times`)."
    ),
    oddities=(
        "The published reader replaces media that cannot be read by another entry; here they are counted. "
        "Blanks in captions are squeezed."
    ),
    miniature="diptych.data.miniatures.captions_json:make_captions_json",
)

"""The `videochat2-json` card: conversations about pictures and videos in VideoChat2's annotation files."""

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
from diptych.data.conversations import Conversation, Message, Part, checked
from diptych.data.raw.refs import FileRef
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample
from diptych.errors import DataError

NAME = "videochat2-json"
OPTIONS = {**LISTS, "media": "folder of the pictures and videos under --raw (default: --raw itself)"}
_EXPECTED = "`image` or `video` with `QA` ({i, q, a}), or with a `caption`"


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
    if "QA" in entry:
        conversation = conversation_of(entry["QA"], kind)
        return None if conversation is None else (kind, name, (), meta | {"conversations": [conversation]})
    captions = entry.get("caption")
    texts = [captions] if isinstance(captions, str) else captions
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return None
    return kind, name, tuple(squeezed(text) for text in texts), meta


def conversation_of(turns: Any, kind: str) -> dict[str, Any] | None:
    """Return questions and answers about a medium as a conversation; None: they are of another form.

    The instruction of the first turn is what the system says, and the medium comes before the first question.

    Args:
        turns: list of `{"i": instruction, "q": question, "a": answer}`; `i` may be missing, `q` empty.
        kind: `image` or `video`.
    """
    if not isinstance(turns, list) or not turns:
        return None
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("a"), str) or not turn["a"].strip():
            return None
        told, asked = str(turn.get("i") or "").strip(), str(turn.get("q") or "").strip()
        if number == 0:
            messages += [Message.of("system", told)] if told else []
            # A line break, so that the first word is the token it always is.
            text = [f"\n{asked}"] if asked else []
            messages.append(Message.of("user", Part("video" if kind == "video" else "image"), *text))
        else:
            messages.append(Message.of("user", asked))
        messages.append(Message.of("assistant", turn["a"].strip()))
    try:
        return checked(Conversation(tuple(messages))).to_json()
    except DataError:
        return None


CARD = Card(
    name=NAME,
    title="Conversations about pictures and videos from VideoChat2's annotation files",
    description=(
        "Lists of `{image or video, QA: [{i, q, a}, ...], start, end}` (instructions, stage 3 of VideoChat2) "
        "or of `{image or video, caption}` (stages 1 and 2), beside folders of pictures and videos. `i` is "
        "an instruction, which may be missing, and `q` is empty where a caption answers."
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
        "`meta.conversations`: one conversation `{messages: [{role, content}]}`: the first instruction is "
        "the system's, then questions and answers in their order; or `captions`. Columns: `file`, `start`, "
        "`end` (seconds, for `data.video.part: times`)."
    ),
    oddities=(
        "The published reader shuffles the questions of an entry each time and takes the instruction of the "
        "one that comes first; here their order is kept. Media that cannot be read are replaced by another "
        "entry there, and counted here."
    ),
    miniature="diptych.data.miniatures.videochat2_json:make_videochat2_json",
)

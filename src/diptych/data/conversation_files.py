"""Files of conversations as others write them: LLaVA, InternLM-XComposer, VideoChat2, and our own form.

All are strict: a record that is not of the form stops the reading, with the number of its line.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.data.conversations import Conversation, Message, Part, checked, parse_conversation
from diptych.errors import DataError

Form = Literal["messages", "llava", "ixc", "videochat2"]
IXC_PLACE = "<ImageHere>"
_LLAVA_PLACES = {"<image>": "image", "<video>": "video"}
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
}
"""Names of the two sides, in lower case, as files have them."""


@dataclass(frozen=True)
class Record:
    """A conversation of a file, and where it stands there."""

    line: int
    conversation: Conversation
    """Its media name their files, relative to the folder of the media; `facts` has the `id`."""
    clip: tuple[float, float] | None = None
    """Of a video: first and last second."""


def read_conversations(path: Path, form: Form) -> Iterator[Record]:
    """Yield the records of a JSON list or of JSON lines, in order.

    Raises:
        DataError: not readable, or a record that is not of the form; the message has file and line.
    """
    parse = FORMS[form]
    for line, record in _records(path):
        try:
            yield from (Record(line, checked(found), clip) for found, clip in parse(record))
        except DataError as error:
            raise DataError(f"{path}, line {line}: {error}") from error


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line number and content of each record."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    decoder, at, line, listed = json.JSONDecoder(), 0, 1, text.lstrip().startswith("[")
    skipped = " \t\r\n" + (",[]" if listed else "")
    while True:
        start = at
        while at < len(text) and text[at] in skipped:
            at += 1
        line += text.count("\n", start, at)
        if at == len(text):
            return
        try:
            record, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            where = line + text.count("\n", at, error.pos)
            raise DataError(f"{path}, line {where}: no JSON ({error.msg})") from error
        yield line, record
        line += text.count("\n", at, end)
        at = end


Found = Iterator[tuple[Conversation, tuple[float, float] | None]]


def _parse_messages(record: Any) -> Found:
    yield parse_conversation(record), None


def _parse_llava(record: Any) -> Found:
    """Read LLaVA's and Video-LLaVA's form: `<image>` and `<video>` in the texts stand for the files.

    Video-LLaVA puts videos first. Files without a mark come before the first question.
    """
    turns = _turns(record)
    files = {kind: _files(record, kind) for kind in ("image", "video")}
    marks = {kind: sum(text.count(mark) for _, text in turns) for mark, kind in _LLAVA_PLACES.items()}
    missing = [Part(kind, source=file) for kind in ("video", "image") for file in files[kind][marks[kind] :]]
    for kind in ("image", "video"):
        if marks[kind] > len(files[kind]):
            raise DataError(f"{marks[kind]} marks <{kind}>, but {len(files[kind])} files in `{kind}`")
    sources = {kind: iter(names) for kind, names in files.items()}
    messages = []
    for number, (role, text) in enumerate(turns):
        parts = _split(text, {m: (k, sources[k]) for m, k in _LLAVA_PLACES.items()})
        if number == _first_user(turns) and missing:
            parts = [*missing, Part("text", "\n"), *parts]
        messages.append(Message(role, tuple(parts)))  # type: ignore[arg-type]
    yield Conversation(tuple(messages), _facts(record)), None


def _parse_ixc(record: Any) -> Found:
    """Read InternLM-XComposer's form: `<ImageHere>`; one picture without a mark comes first."""
    turns, files = _turns(record), _files(record, "image")
    marks = sum(text.count(IXC_PLACE) for _, text in turns)
    if len(files) == 1 and not marks:
        first = _first_user(turns)
        role, text = turns[first]
        turns[first] = role, f"{IXC_PLACE}{text}"
        marks = 1
    if marks != len(files):
        raise DataError(f"{marks} marks {IXC_PLACE}, but {len(files)} files in `image`")
    source = iter(files)
    messages = tuple(
        Message(role, tuple(_split(text, {IXC_PLACE: ("image", source)})))  # type: ignore[arg-type]
        for role, text in turns
    )
    yield Conversation(messages, _facts(record)), None


def _parse_videochat2(record: Any) -> Found:
    """Read VideoChat2's form: a medium with questions `q`, answers `a` and instructions `i` in `QA`.

    The first instruction is the system's message. A caption has no question.
    """
    match record:
        case {"QA": [dict(), *_] as pairs}:
            media = [(kind, record[kind]) for kind in ("image", "video") if isinstance(record.get(kind), str)]
        case _:
            raise DataError(f"expected an object with a medium and a list `QA`, got {str(record)[:80]}")
    if len(media) != 1:
        raise DataError(f"expected one of `image` and `video` with a file, got {sorted(record)}")
    kind, file = media[0]
    told = str(pairs[0].get("i") or "").strip()
    messages = [Message.of("system", told)] if told else []
    for number, pair in enumerate(pairs):
        asked, answer = pair.get("q", ""), pair.get("a")
        if not isinstance(asked, str) or not isinstance(answer, str) or not answer.strip():
            raise DataError(f"QA[{number}]: expected texts `q` and `a`, got {str(pair)[:80]}")
        shown: list[str | Part] = [Part(kind, source=file), "\n"] if not number else []  # type: ignore[arg-type]
        messages += [Message.of("user", *shown, asked), Message.of("assistant", answer)]
    times = [record.get(name) for name in ("start", "end")]
    clip = (float(times[0]), float(times[1])) if all(isinstance(t, int | float) for t in times) else None
    yield Conversation(tuple(messages), _facts(record)), clip


FORMS: Mapping[Form, Callable[[Any], Found]] = {
    "messages": _parse_messages,
    "llava": _parse_llava,
    "ixc": _parse_ixc,
    "videochat2": _parse_videochat2,
}


def _turns(record: Any) -> list[tuple[str, str]]:
    """Return roles and texts of `conversations`."""
    match record:
        case {"conversations": [_, *_] as turns}:
            pass
        case _:
            raise DataError(f"expected an object with a list `conversations`, got {str(record)[:80]}")
    found = []
    for number, turn in enumerate(turns):
        match turn:
            case {"from": str(speaker), "value": str(text)} if speaker.lower() in _SPEAKERS:
                found.append((_SPEAKERS[speaker.lower()], text))
            case _:
                known = ", ".join(_SPEAKERS)
                raise DataError(
                    f"conversations[{number}]: expected `from` ({known}) and a text `value`, got "
                    f"{str(turn)[:80]}"
                )
    return found


def _first_user(turns: list[tuple[str, str]]) -> int:
    return next((i for i, (role, _) in enumerate(turns) if role == "user"), 0)


def _files(record: Mapping[str, Any], kind: str) -> list[str]:
    value = record.get(kind)
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"`{kind}`: expected a file or a list of files, got {str(value)[:80]}")
    return names


def _split(text: str, marks: Mapping[str, tuple[str, Iterator[str]]]) -> list[Part]:
    """Cut a text at its marks; each becomes the next file of its kind."""
    parts: list[Part] = []
    rest = text
    while rest:
        place, mark = min(((p, m) for m in marks if (p := rest.find(m)) >= 0), default=(-1, ""))
        if place < 0:
            parts.append(Part("text", rest))
            break
        if place:
            parts.append(Part("text", rest[:place]))
        kind, source = marks[mark]
        parts.append(Part(kind, source=next(source)))  # type: ignore[arg-type]
        rest = rest[place + len(mark) :]
    return parts


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": record["id"]} if isinstance(record.get("id"), str | int) else {}

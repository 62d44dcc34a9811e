"""The `nlvr-json` card: statements about two photographs, as NLVR2 is fine-tuned on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.options import Options
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
from diptych.errors import UsageError

OPTIONS = {
    **LISTS,
    "images": "folder of the pictures under --raw (default: --raw itself); entries name them from there",
}
LABELS = {"true": True, "false": False}

_Statement = dict[str, Any]


@dataclass
class _Pair:
    """What the lists state about two pictures."""

    statements: list[_Statement] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each pair of pictures of each split, in the order in which the lists first name it.

    Raises:
        UsageError: a wrong option.
        DataError: an annotation file cannot be read or is of another form.
    """
    if raw is None:
        raise UsageError("card 'nlvr-json' needs its raw files: give their folder with --raw")
    given = check_options("nlvr-json", options, OPTIONS)
    folder, keys = raw / given.text("images"), Keys()
    for split in SPLITS:
        for names, about in _read(given, raw, split).items():
            key = keys.make(split, *names)
            found = [find_picture(folder, name) for name in names]
            lost = [name for name, picture in zip(names, found, strict=True) if picture is None]
            if lost:
                yield missing(key, f"{', '.join(lost)} ({len(about.statements)} statements)")
                continue
            # `0.jpg` and `1.jpg`: what rows of `data.examples = statements` show, in this order.
            refs = {f"{i}.{picture[0]}": picture[1] for i, picture in enumerate(found) if picture}
            meta = {"file": names[0], "file_1": names[1], "statements": about.statements}
            yield Unread(Sample(key, {}, (), "", split, meta), refs)
            for text in about.repeated:
                yield LeftOut("repeated statement", key, text)


def _read(given: Options, raw: Path, split: str) -> dict[tuple[str, str], _Pair]:
    pairs: dict[tuple[str, str], _Pair] = {}
    for path in (path for name, path in files_of(given, raw) if name == split):
        entries = Entries(path)
        for entry in entries:
            names = entries.texts(entry, "images")
            if len(names) != 2:
                raise entries.wrong("two names in 'images'", names)
            about = pairs.setdefault((names[0], names[1]), _Pair())
            statement = _statement(entries, entry)
            if statement in about.statements:
                about.repeated.append(statement["statement"])
            else:
                about.statements.append(statement)
    return pairs


def _statement(entries: Entries, entry: Mapping[str, Any]) -> _Statement:
    statement: _Statement = {"statement": entries.text(entry, "sentence")}
    if "label" in entry:
        label = LABELS.get(str(entry["label"]).lower())
        if label is None:
            raise entries.wrong("'True' or 'False' in 'label'", entry["label"])
        statement["label"] = label
    if isinstance(entry.get("identifier"), str):
        statement["identifier"] = entry["identifier"]
    return statement


CARD = Card(
    name="nlvr-json",
    title="Statements about two pictures from JSON lists",
    description=(
        "NLVR2 in the JSON lists that X-VLM made common for fine-tuning: `[{images: [left, right], sentence, "
        "label, identifier}, ...]`; `label` is `True` or `False`, or not there (hidden), `identifier` may be "
        "missing. All statements about a pair become one sample with both pictures as members `0.jpg` and "
        "`1.jpg` (extensions as they are) and `statements`: `{statement, label, identifier}`, for "
        "`data.examples: statements`. A statement that comes again for its pair is left out. Columns: "
        "`file`, `file_1`, `statements` (how many)."
    ),
    licence="that of the pictures and annotations",
    convert=convert,
    splits=SPLITS,
    options=OPTIONS,
    annotations=tuple(LISTS),
    example=EXAMPLE,
    prepared=(
        "- key: `<split>_<names of both pictures>` without their endings, with a hash where two would be "
        "alike\n"
        "- media: `0.<ending>` and `1.<ending>`, left and right\n"
        "- columns: `file`, `file_1`, `statements` (how many)\n"
        "- in the JSON: `statements`: `{statement, label, identifier}`"
    ),
    oddities=(
        "- `label` is `True` or `False` as a text or as it is in JSON, or not there (hidden).\n"
        "- The same pictures in another order are another pair. A statement that comes again for its pair "
        "counts as `repeated statement`.\n"
        "- A pair of which one picture is not there is `missing picture`, with all its statements."
    ),
    miniature="diptych.data.miniatures.xvlm_json:make_nlvr",
)

"""The `nlvr2` card: statements about two photographs, as their owners distribute them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.members import PICTURES
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

NAME = "nlvr2"
FILES = {"train": "train", "val": "dev", "test": "test1"}
"""Our split -> the owners' name of it."""
LABELS = {"True": True, "False": False}
PLACES = ("", "data/", "nlvr2/data/")
_PARTS = 4
"""Of an identifier: split, set, pair, sentence."""


@dataclass
class _Pair:
    """What the lines of a split say about two pictures."""

    folder: str
    """Folder of the pictures inside that of the split, empty or with `/` at its end."""
    first: Mapping[str, Any]
    statements: list[dict[str, Any]] = field(default_factory=list)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each pair of pictures, in the order in which the files first name it.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: an annotation file is not there, or holds no JSON lines.
    """
    if raw is None:
        raise UsageError(f"card '{NAME}' needs its raw files: give their folder with --raw")
    Options(NAME, options, {})
    folder = RawFolder(raw)
    for split, name in FILES.items():
        places = [f"{place}{name}.json" for place in PLACES]
        if folder.find(*places) is None:
            raise DataError(f"{raw}: expected {places[0]} or {places[1]}, but there is none")
        pairs: dict[str, _Pair] = {}
        yield from _read(folder, places, pairs)
        for key, pair in pairs.items():
            yield _sample(folder, key, pair, split)


def _read(folder: RawFolder, places: list[str], pairs: dict[str, _Pair]) -> Iterator[LeftOut]:
    """Fill `pairs` from a file; yield what is left out of it."""
    good = 0
    with folder.text(*places) as stream:
        for number, line in lines(stream):
            if not line.strip():
                continue
            where = f"{PurePosixPath(places[0]).stem}-line-{number + 1}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                yield LeftOut("bad entry", where, f"no JSON: {error}")
                continue
            left = _take(entry, where, pairs)
            good += left is None
            if left is not None:
                yield left
    if not good:
        raise DataError(
            f"{folder.root}: {places[0]}: expected JSON lines with sentence, label and identifier"
        )


def _take(entry: Any, where: str, pairs: dict[str, _Pair]) -> LeftOut | None:
    """Put a line into its pair; return what is wrong with it."""
    if not isinstance(entry, dict):
        return LeftOut("bad entry", where, f"expected an object, got {type(entry).__name__}")
    identifier, text, label = (entry.get(name) for name in ("identifier", "sentence", "label"))
    if not isinstance(identifier, str) or len(identifier.split("-")) != _PARTS:
        return LeftOut(
            "bad entry", where, f"expected an identifier split-set-pair-sentence, got {identifier}"
        )
    if not isinstance(text, str) or not text.strip():
        return LeftOut("bad entry", identifier, "expected a text in 'sentence'")
    if not isinstance(label, str) or label not in LABELS:
        return LeftOut("bad entry", identifier, f"expected 'True' or 'False' in 'label', got {label!r}")
    directory = entry.get("directory")
    inner = f"{directory}/" if isinstance(directory, int | str) and str(directory) else ""
    pair = pairs.setdefault(identifier.rpartition("-")[0], _Pair(inner, entry))
    statement = {"statement": " ".join(text.split()), "label": LABELS[label], "identifier": identifier}
    if any(known["identifier"] == identifier for known in pair.statements):
        return LeftOut("repeated statement", identifier, str(statement["statement"]))
    pair.statements.append(statement)
    return None


def _sample(folder: RawFolder, key: str, pair: _Pair, split: str) -> Unread | LeftOut:
    names = [f"{key}-img{side}.png" for side in (0, 1)]
    found = [_picture(folder, FILES[split], pair.folder, name) for name in names]
    refs = {f"{side}.{_ending(names[side])}": ref for side, ref in enumerate(found) if ref is not None}
    if len(refs) < len(found):
        lost = ", ".join(name for name, ref in zip(names, found, strict=True) if ref is None)
        return LeftOut("missing picture", key, f"{lost} ({len(pair.statements)} statements)")
    meta: dict[str, Any] = {
        "file": f"{FILES[split]}/{pair.folder}{names[0]}",
        "file_1": f"{FILES[split]}/{pair.folder}{names[1]}",
        "set_id": key.split("-")[1],
        "statements": pair.statements,
    }
    meta |= {name: pair.first[name] for name in ("synset", "query") if isinstance(pair.first.get(name), str)}
    return Unread(Sample(key, {}, (), "", split, meta), refs)


def _ending(name: str) -> str:
    found = PurePosixPath(name).suffix[1:].lower()
    return found if found in PICTURES else "png"


def _picture(folder: RawFolder, split: str, inner: str, name: str) -> Ref | None:
    """Return a picture from the folders or archives that owners and users keep them in."""
    below = (f"{split}/{inner}{name}", f"{split}/{name}", name)
    return folder.find(
        *(f"{top}{place}" for top in ("images/", "", "images/nlvr2/images/") for place in below[:2]),
        *(f"{split}_img.zip@/{top}{place}" for top in ("", "images/") for place in below),
    )


CARD = Card(
    name=NAME,
    title="NLVR2: is a statement true of two photographs",
    description=(
        "Pairs of photographs from the web, each with statements that are true or false of the two together. "
        "The JSON lines of the owners are read; for the lists that X-VLM made of them see `nlvr-json`."
    ),
    licence=(
        "Text: CC BY 4.0, as the owners' page says. The photographs belong to their authors: they come by a "
        "signed form, or from their addresses (about 5 % were dead in 2018). Check the homepage."
    ),
    homepage="https://lil.nlp.cornell.edu/nlvr/",
    citation="Suhr et al., A Corpus for Reasoning About Natural Language Grounded in Photographs, 2019",
    convert=convert,
    sources=(
        *(
            Source(
                f"{name}.json",
                "the folder `nlvr2/data` of the owners' repository",
                alternatives=tuple(f"{place}{name}.json" for place in PLACES[1:]),
            )
            for name in FILES.values()
        ),
        Source(
            "images",
            "the owners, by a form: folders train/0 ... train/99, dev, test1; or their archives as they are",
            alternatives=("train", *(f"{name}_img.zip" for name in FILES.values())),
        ),
    ),
    splits={
        "train": Split("split = 'train'", texts=86_373, about=True),
        "val": Split("split = 'val'", texts=6_982, about=True, note="the owners' `dev`"),
        "test": Split("split = 'test'", texts=6_967, about=True, note="the owners' `test1` (public test)"),
    },
    prepared=(
        "Key: the identifier without its last part (`dev-850-0`). Media: `0.png` (left) and `1.png` (right). "
        "No captions: `statements` in the JSON holds `{statement, label, identifier}`, for "
        "`data.examples: statements`. Columns: `file`, `file_1`, `statements` (how many), `set_id` (what was "
        "written together: split by it), `synset`, `query`. Everybody validates on `dev`: it is `val` here."
    ),
    oddities=(
        "Many files called `.png` hold JPEG or GIF. Labels are the texts `True` and `False`; another one is "
        "a bad entry. Only training pictures lie in numbered folders (`directory`). A pair that lacks a "
        "picture is left out with all its statements. A hidden test set exists that nobody has the labels of."
    ),
    miniature="diptych.data.miniatures.nlvr2:make_nlvr2",
)

"""The `snli-ve` card: does a sentence follow from a photograph of Flickr30k."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample
from diptych.data.targets.names import class_names
from diptych.errors import DataError, UsageError

NAME = "snli-ve"
FILES = {"train": "train", "val": "dev", "test": "test"}
"""Our split -> the owners' name of it."""
PLACES = ("", "annotations/", "data/")
_Images = dict[str, dict[str, tuple[str, str]]]
"""Photograph -> pair -> hypothesis and label: half a million of them stay small."""
FOLDERS = ("flickr30k-images", "flickr30k_images")
ARCHIVES = tuple(f"flickr30k-images.{end}" for end in ("tar.gz", "tar", "zip"))


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each photograph, in the order in which the files first name it.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: an annotation file is not there, or holds no JSON lines.
    """
    if raw is None:
        raise UsageError(f"card '{NAME}' needs its raw files: give their folder with --raw")
    Options(NAME, options, {})
    folder = RawFolder(raw)
    pictures = folder.media(*FOLDERS, *(f"{archive}@/{FOLDERS[0]}" for archive in ARCHIVES))
    for split, name in FILES.items():
        places = [f"{place}snli_ve_{name}.jsonl" for place in PLACES]
        if folder.find(*places) is None:
            raise DataError(f"{raw}: expected {places[0]} or {places[1]}, but there is none")
        images: _Images = {}
        yield from _read(folder, places, images)
        for number, found in images.items():
            file = f"{number}.jpg"
            questions = [
                {"question": text, "question_id": pair, "dataset": NAME, "answer": label}
                for pair, (text, label) in found.items()
            ]
            ref = pictures.get(file)
            if ref is None:
                yield LeftOut("missing picture", number, f"{file} ({len(questions)} hypotheses)")
                continue
            meta = {"file": file, "questions": questions}
            yield Unread(Sample(number, {}, (), f"flickr30k_{number}", split, meta), {"jpg": ref})


def _read(folder: RawFolder, places: list[str], images: _Images) -> Iterator[LeftOut]:
    """Fill `images` from a file; yield what is left out of it."""
    good = 0
    with folder.text(*places) as stream:
        for number, line in lines(stream):
            if not line.strip():
                continue
            where = f"{Path(places[0]).stem}-line-{number + 1}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                yield LeftOut("bad entry", where, f"no JSON: {error}")
                continue
            left = _take(entry, where, images)
            good += left is None
            if left is not None:
                yield left
    if not good:
        raise DataError(
            f"{folder.root}: {places[0]}: expected JSON lines with Flikr30kID, gold_label and sentence2"
        )


def _take(entry: Any, where: str, images: _Images) -> LeftOut | None:
    """Put a line to its photograph; return what is wrong with it."""
    if not isinstance(entry, dict):
        return LeftOut("bad entry", where, f"expected an object, got {type(entry).__name__}")
    pair = entry.get("pairID")
    pair = pair if isinstance(pair, str) and pair else where
    # The owners' files spell the field without c; both the bare number and the file name are seen.
    image = entry.get("Flikr30kID", entry.get("Flickr30kID"))
    number = str(image).removesuffix(".jpg")
    hypothesis, label = entry.get("sentence2"), entry.get("gold_label")
    if not number.isdigit():
        return LeftOut("bad entry", pair, f"expected the number of a photograph in Flikr30kID, got {image!r}")
    if not isinstance(hypothesis, str) or not hypothesis.strip():
        return LeftOut("bad entry", pair, "expected a text in 'sentence2'")
    if label == "-":
        return LeftOut("no gold label", pair, "its annotators do not agree")
    if label not in class_names(NAME):
        return LeftOut("bad entry", pair, f"expected entailment, neutral or contradiction, got {label!r}")
    text, known = " ".join(hypothesis.split()), images.setdefault(number, {})
    if pair in known:
        return LeftOut("repeated entry", pair, text)
    known[pair] = (text, sys.intern(label))
    return None


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers to choose from."""
    return {"answers": list(class_names(NAME))}


CARD = Card(
    name=NAME,
    title="SNLI-VE: does a sentence follow from a photograph",
    description=(
        "Photographs of Flickr30k with sentences (hypotheses) that follow from them (entailment), contradict "
        "them, or neither (neutral). A hypothesis is a question with three answers here, so everything that "
        "answers questions about pictures runs on it."
    ),
    licence=(
        "the owners' page names none for the annotations, which build on SNLI (CC BY-SA 4.0, as recalled); "
        "the photographs are Flickr30k's: for research, by a form, as recalled. Check both homepages."
    ),
    homepage="https://github.com/necla-ml/SNLI-VE",
    citation="Xie et al., Visual Entailment: A Novel Task for Fine-Grained Image Understanding, 2019",
    convert=convert,
    sources=(
        *(
            Source(
                f"snli_ve_{name}.jsonl",
                "links on the homepage",
                alternatives=tuple(f"{place}snli_ve_{name}.jsonl" for place in PLACES[1:]),
            )
            for name in FILES.values()
        ),
        Source(
            FOLDERS[0],
            "Flickr30k, by its form; see the card `flickr30k`",
            alternatives=(*FOLDERS[1:], *ARCHIVES),
        ),
    ),
    splits={
        "train": Split("split = 'train'", 29_783, texts=529_527),
        "val": Split("split = 'val'", 1_000, texts=17_858, note="the owners' `dev`"),
        "test": Split("split = 'test'", 1_000, texts=17_901),
    },
    facts=facts,
    target_set=NAME,
    prepared=(
        "Key: the number of the photograph. Medium: `jpg`. No captions: `questions` in the JSON holds "
        "`{question: hypothesis, question_id: pairID, dataset: 'snli-ve', answer}`, for "
        "`data.examples: questions`; the three answers are in the facts of the dataset. Columns: `file`, "
        "`questions` (how many). `match_id` is `flickr30k_<number>`, as in the card `flickr30k`."
    ),
    oddities=(
        "The field of the photograph is spelt `Flikr30kID`. The sentence that the hypothesis was written for "
        "(`sentence1`) is a caption of the photograph: it is left out, reading it as well would be another "
        "task. The owners found about 9 % of a sample wrongly labelled, most of them neutral. Splits do not "
        "share photographs, but they are not those of the card `flickr30k`. The layout of the "
        "files is known from the owners' reader, the form of the numbers is recalled."
    ),
    miniature="diptych.data.miniatures.snli_ve:make_snli_ve",
)

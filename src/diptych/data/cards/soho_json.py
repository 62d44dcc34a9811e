"""The JSON files and zips that SOHO reads: lists of captions, and questions with their targets."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.captions import caption_groups
from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.coco_files import BAD, bad, is_number, opened, squeeze, stem, with_picture
from diptych.data.cards.options import Options
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import json_items
from diptych.data.sample import Sample
from diptych.errors import DataError

SMALLEST = 32
"""Pictures with a shorter side, in pixels, are not trained on."""
PRETRAIN, VQA = "soho-pretrain", "soho-vqa"

LISTS = {"coco_train": "coco_cap_train_pre", "coco_val": "coco_cap_val_pre", "vg": "vg_cap_pre"}
"""Name of a list -> its file."""
QUESTIONS = {"train": "train_data_vqa", "val": "val_data_vqa", "test": "test_data_vqa"}
"""The same for the files of questions."""
_PICTURES: Mapping[str, tuple[str, ...]] = {
    **{name: (f"{name}.zip@/{name}", f"{name}.zip", name) for name in ("train2014", "val2014", "test2015")},
    # Published as one flat zip that everyone made of the owners' two; those two do as well.
    "images": ("images.zip", "images.zip@/VG_100K", "images2.zip@/VG_100K_2", "images"),
}
"""Archive -> where its pictures may lie under the raw folder."""
OF = {
    "coco_train": "train2014",
    "coco_val": "val2014",
    "vg": "images",
    "train": "train2014",
    "val": "val2014",
    "test": "test2015",
}
"""List -> archive of its pictures."""

PRETRAIN_OPTIONS = {
    "sentence_group": "captions of a sample (default 4, as published; the loader shows them all with "
    "`data.text.per_picture=4`)",
    "seed": "what fills up the last group of a picture is drawn by it (default 0)",
    "lists": "which files to read, with commas (default: coco_train,coco_val,vg)",
    "qa": "`question`: the questions of a picture are texts as well; `answer`: its questions with their "
    "answers are (default: none, as published)",
}
VQA_OPTIONS = {"lists": "which files to read, with commas (default: train,val,test)"}
_QA_FIELDS = {"question": "question", "answer": "questionAns"}


def convert_pretrain(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each group of captions of each picture, in the order of the files.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: a file is not there, or of another form.
    """
    given, folder = Options(PRETRAIN, options, PRETRAIN_OPTIONS), opened(PRETRAIN, raw)
    size = given.integer("sentence_group", 4, 1, 1000)
    seed = given.integer("seed", 0, 0, 2**63 - 1)
    qa = _QA_FIELDS.get(given.choice("qa", "none", ("none", *_QA_FIELDS)))
    seen: set[str] = set()
    for name in given.several("lists", tuple(LISTS), tuple(LISTS)):
        media = folder.media(*_PICTURES[OF[name]])
        for number, entry in enumerate(_items(folder, LISTS[name])):
            where = f"{LISTS[name]}.json, entry {number}"
            found = _described(entry, where, "vg" if name == "vg" else "coco", qa)
            if isinstance(found, LeftOut):
                yield found
                continue
            if found.match_id in seen:
                yield LeftOut("repeated picture", found.match_id, where)
                continue
            seen.add(found.match_id)
            if found.small:
                yield LeftOut("picture too small", found.match_id, found.small)
                continue
            # By picture: what else is read changes nothing.
            drawn = random.Random(f"{seed}/{found.match_id}")
            groups = caption_groups(found.texts, size, drawn, drawn.randrange)
            ref = media.get(found.file)
            if ref is None:
                yield LeftOut("missing picture", found.match_id, f"{found.file} ({len(groups)} groups)")
                continue
            for i, group in enumerate(groups):
                meta = {"file": found.file, "list": LISTS[name], "group": i}
                sample = Sample(f"{found.match_id}_{i}", {}, tuple(group), found.match_id, "train", meta)
                yield with_picture(sample, found.file, ref)


@dataclass(frozen=True)
class _Described:
    """An entry of a list of pictures."""

    file: str
    match_id: str
    small: str
    """Says why the picture is too small to be used; empty: it is not."""
    texts: list[str] = field(default_factory=list)


def _described(entry: Any, where: str, origin: str, qa: str | None) -> _Described | LeftOut:
    found = _picture(entry, where, origin)
    if isinstance(found, LeftOut):
        return found
    texts: list[str] = []
    for name in ("captions", *([qa] if qa else [])):
        values = entry.get(name)
        if values is None and name != "captions":
            continue  # not every picture has questions
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            return bad(where, f"a list of texts in '{name}'", values)
        texts += [text for text in map(squeeze, values) if text]
    return (
        _Described(found.file, found.match_id, found.small, texts) if texts else bad(where, "a caption", [])
    )


def _picture(entry: Any, where: str, origin: str) -> _Described | LeftOut:
    """Return file, id and size of an entry; `origin` goes in front of an id that is a bare number."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        return bad(where, "an object with a text in 'file_name'", entry)
    number = entry.get("image_id")
    if not is_number(number) and not (isinstance(number, str) and number):
        return bad(where, "a whole number or a text in 'image_id'", number)
    sides = [entry.get("width"), entry.get("height")]
    if any(side is not None and not is_number(side) for side in sides):
        return bad(where, "whole numbers in 'width' and 'height'", sides)
    # Without sizes the picture is kept; preparation measures it.
    small = any(side is not None and side < SMALLEST for side in sides)
    # Numbers of COCO and of Visual Genome are not of one series.
    own = str(number)
    match_id = f"{origin}_{own}" if own.isdecimal() else own
    return _Described(entry["file_name"], match_id, f"{sides[0]} x {sides[1]} pixels" if small else "")


def _items(folder: RawFolder, name: str, array: str = "") -> Iterator[Any]:
    with folder.text(f"{name}.json") as stream:
        yield from json_items(stream, f"{name}.json", array)


def convert_vqa(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each picture of each split, in the order in which the files first name it.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: a file is not there, or of another form.
    """
    given, folder = Options(VQA, options, VQA_OPTIONS), opened(VQA, raw)
    for split in given.several("lists", tuple(QUESTIONS), tuple(QUESTIONS)):
        media = folder.media(*_PICTURES[OF[split]])
        pictures, wrong = _asked(folder, split)
        yield from wrong
        for file, (found, questions) in pictures.items():
            meta = {"file": file, "questions": questions}
            sample = Sample(f"{split}_{stem(file)}", {}, (), found.match_id, split, meta)
            yield with_picture(sample, file, media.get(file), f"{len(questions)} questions")


_Question = dict[str, Any]
_Asked = dict[str, tuple[_Described, list[_Question]]]
"""Name of the picture -> what is asked about it."""


def _asked(folder: RawFolder, split: str) -> tuple[_Asked, list[LeftOut]]:
    """Read a file of questions: the pictures, and what is left out."""
    name = QUESTIONS[split]
    answers = _answers(folder, name)
    pictures: _Asked = {}
    wrong: list[LeftOut] = []
    ids: set[object] = set()
    for number, entry in enumerate(_items(folder, name, "data")):
        where = f"{name}.json, data {number}"
        found = _picture(entry, where, "coco")
        if isinstance(found, LeftOut):
            wrong.append(found)
        elif found.small and split != "test":
            wrong.append(LeftOut("picture too small", found.match_id, found.small))
        else:
            try:
                questions = questions_of(entry, answers)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                wrong.append(LeftOut(BAD, where, f"{type(error).__name__}: {error}"))
                continue
            asked = pictures.setdefault(found.file, (found, []))[1]
            for question in questions:
                if question["question_id"] in ids:
                    detail = f"question_id {question['question_id']}: {question['question']}"
                    wrong.append(LeftOut("repeated question", where, detail))
                    continue
                ids.add(question["question_id"])
                asked.append(question)
    return {file: found for file, found in pictures.items() if found[1]}, wrong


def questions_of(picture: Mapping[str, Any], answers: Sequence[str]) -> list[_Question]:
    """Return what is asked about an entry of a VQA file, for `meta.questions`.

    Entries of training hold a list `vqa` with the published targets; those of the test are one question each,
    without any.

    Args:
        picture: the entry.
        answers: `label2ans` of the file.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is of another form.
    """
    listed = picture.get("vqa", [picture])
    if not isinstance(listed, list):
        raise TypeError(f"expected a list in 'vqa', got {type(listed).__name__}")
    questions = []
    for asked in listed:
        question, number = asked["question"], asked["question_id"]
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"expected a text in 'question', got {question!r}")
        if not is_number(number) and not isinstance(number, str):
            raise TypeError(f"expected a whole number or a text in 'question_id', got {number!r}")
        made: _Question = {"question": squeeze(question), "question_id": number, "dataset": "vqa"}
        if "labels" in asked:
            labels, scores = asked["labels"], asked["scores"]
            if not all(is_number(label) and 0 <= label < len(answers) for label in labels):
                raise IndexError(f"expected labels from 0 to {len(answers) - 1}, got {labels}")
            made["scores"] = {answers[a]: float(b) for a, b in zip(labels, scores, strict=True)}
        questions.append(made)
    return questions


def _answers(folder: RawFolder, name: str) -> list[str]:
    """Return `label2ans` of a file.

    Raises:
        DataError: it is not there, or no list of different texts.
    """
    answers = list(_items(folder, name, "label2ans"))
    if not answers or not all(isinstance(a, str) for a in answers) or len(set(answers)) < len(answers):
        raise DataError(f"{folder.root / name}.json: expected a list of different texts in 'label2ans'")
    return answers


def facts_vqa(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers to choose from.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: the files do not agree on them.
    """
    given, folder = Options(VQA, options, VQA_OPTIONS), opened(VQA, raw)
    splits = given.several("lists", tuple(QUESTIONS), tuple(QUESTIONS))
    first, *others = (QUESTIONS[split] for split in splits)
    answers = _answers(folder, first)
    for other in others:
        if _answers(folder, other) != answers:
            raise DataError(
                f"{folder.root}: 'label2ans' of {first}.json and of {other}.json differ; expected files that "
                "were made together"
            )
    return {"answers": answers}

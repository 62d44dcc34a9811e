"""The annotation files of VQA v2: questions, what people answered, and the published targets."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from diptych.data.cards.base import LeftOut
from diptych.data.cards.coco_files import bad, is_number, squeeze
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.pickles import loads_plain
from diptych.data.raw.refs import MediumError
from diptych.data.raw.tables import json_fields, json_items
from diptych.data.vqa_answers import as_answer_list
from diptych.errors import DataError

Answered = dict[str, Any]
"""What an entry of `meta.questions` says beside its question."""


@dataclass(frozen=True)
class Subset:
    """A part of VQA v2 as it is distributed."""

    images: str
    """Folder of the pictures."""
    questions: str
    questions_zip: str
    answers: str = ""
    answers_zip: str = ""

    def question_places(self, root: str = "") -> tuple[str, str]:
        """Return where the questions may be: unpacked or in their zip, below the folder `root`."""
        return f"{root}{self.questions}", f"{root}{self.questions_zip}@/{self.questions}"

    def answer_places(self, root: str = "") -> tuple[str, str]:
        """Return the same for the answers."""
        return f"{root}{self.answers}", f"{root}{self.answers_zip}@/{self.answers}"


SUBSETS = {
    "train": Subset(
        "train2014",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        "v2_Questions_Train_mscoco.zip",
        "v2_mscoco_train2014_annotations.json",
        "v2_Annotations_Train_mscoco.zip",
    ),
    "val": Subset(
        "val2014",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_Questions_Val_mscoco.zip",
        "v2_mscoco_val2014_annotations.json",
        "v2_Annotations_Val_mscoco.zip",
    ),
    "test": Subset("test2015", "v2_OpenEnded_mscoco_test2015_questions.json", "v2_Questions_Test_mscoco.zip"),
    "test_dev": Subset(
        "test2015", "v2_OpenEnded_mscoco_test-dev2015_questions.json", "v2_Questions_Test_mscoco.zip"
    ),
}


@dataclass
class Questions:
    """The questions of a file, in the order of their ids."""

    found: list[tuple[int, int, str]] = field(default_factory=list)
    """Id, picture, text."""
    wrong: list[LeftOut] = field(default_factory=list)


def read_questions(raw: RawFolder, places: Sequence[str]) -> Questions:
    """Read a file of questions: `{"questions": [{question_id, image_id, question}]}`.

    Raises:
        DataError: it is not there, or of another form.
    """
    made, seen = Questions(), set[int]()
    name = PurePosixPath(places[0]).name
    with raw.text(*places) as stream:
        for entry in json_items(stream, places[0], "questions"):
            if (
                not isinstance(entry, dict)
                or not is_number(entry.get("question_id"))
                or not is_number(entry.get("image_id"))
                or not isinstance(entry.get("question"), str)
                or not entry["question"].strip()
            ):
                made.wrong.append(bad(name, "an object with 'question_id', 'image_id', 'question'", entry))
                continue
            number, text = entry["question_id"], squeeze(entry["question"])
            if number in seen:
                made.wrong.append(LeftOut("repeated question", str(number), text))
                continue
            seen.add(number)
            made.found.append((number, entry["image_id"], text))
    made.found.sort()
    return made


class People:
    """What people answered, by question id.

    Attributes:
        wrong: entries that are damaged.

    Raises:
        DataError: the file is not there, or of another form.
    """

    def __init__(self, raw: RawFolder, places: Sequence[str]) -> None:
        self.wrong: list[LeftOut] = []
        self._found: dict[int, tuple[tuple[str, ...], str, str]] = {}
        same: dict[str, str] = {}
        name = PurePosixPath(places[0]).name
        for entry in annotations(raw, places):
            answers = _answers(entry)
            if not answers or not is_number(entry.get("question_id")):
                self.wrong.append(bad(name, "an object with 'question_id' and 'answers'", entry))
                continue
            kinds = (str(entry.get(part) or "") for part in ("question_type", "answer_type"))
            asked, answered = (same.setdefault(kind, kind) for kind in kinds)
            # Ten million answers, a hundred thousand different ones.
            texts = tuple(same.setdefault(answer, answer) for answer in answers)
            self._found[entry["question_id"]] = (texts, asked, answered)

    def of(self, number: int) -> Answered | None:
        """Return the answers to a question and their kind, or None."""
        found = self._found.get(number)
        if found is None:
            return None
        answers, asked, answered = found
        kinds = {"question_type": asked, "kind": answered}
        return {"answers": list(answers), **{name: kind for name, kind in kinds.items() if kind}}


def annotations(raw: RawFolder, places: Sequence[str]) -> Iterator[Any]:
    """Yield the entries of a file `{"annotations": [...]}`.

    Raises:
        DataError: the file is not there, or of another form.
    """
    with raw.text(*places) as stream:
        for _, entry in json_fields(stream, places[0], ("annotations",)):
            yield entry


def _answers(entry: Any) -> list[str]:
    """Return the answers of an entry as they were written; empty if it is damaged."""
    if not isinstance(entry, dict):
        return []
    found = entry.get("answers", entry.get("answer", entry.get("multiple_choice_answer")))
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list):
        return []
    texts = [text.get("answer") if isinstance(text, dict) else text for text in texts]
    return texts if all(isinstance(text, str) for text in texts) else []


class Targets:
    """Published targets (`train_target.pkl` and the like) in place of people's answers.

    Attributes:
        wrong: entries that are damaged.

    Raises:
        DataError: the file is not there, or of another form.
    """

    def __init__(self, raw: RawFolder, place: str, names: Sequence[str]) -> None:
        self.wrong: list[LeftOut] = []
        self._found: dict[int, tuple[Sequence[int], Sequence[float]]] = {}
        self._names = names
        content = read_pickle(raw, place)
        if not isinstance(content, list):
            raise DataError(f"{raw.root / place}: expected a list of targets, got {type(content).__name__}")
        for entry in content:
            if self._is_sound(entry):
                labels, scores = (tuple(entry[part]) for part in ("labels", "scores"))
                self._found[entry["question_id"]] = (labels, scores)
            else:
                shown = repr(entry)[:100]
                expected = f"'question_id', 'labels' below {len(names)} and as many 'scores'"
                self.wrong.append(bad(PurePosixPath(place).name, expected, shown))

    def _is_sound(self, entry: Any) -> bool:
        if not isinstance(entry, dict) or not is_number(entry.get("question_id")):
            return False
        labels, scores = entry.get("labels"), entry.get("scores")
        return (
            isinstance(labels, list | tuple)
            and isinstance(scores, list | tuple)
            and len(labels) == len(scores)
            and all(is_number(label) and 0 <= label < len(self._names) for label in labels)
            and all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores)
        )

    def of(self, number: int) -> Answered | None:
        """Return the scores of the answers to a question, or None."""
        found = self._found.get(number)
        if found is None:
            return None
        pairs = zip(*found, strict=True)
        return {"scores": {self._names[label]: float(score) for label, score in pairs}}


def read_pickle(raw: RawFolder, place: str) -> Any:
    """Return what a pickle of plain values holds; nothing in it is run.

    Raises:
        DataError: it is not there, is damaged, or holds anything else.
    """
    ref = raw.need(place)
    try:
        return loads_plain(ref.read(), str(raw.root / place))
    except MediumError as error:
        raise DataError(str(error)) from error


def read_answer_list(raw: RawFolder, place: str) -> list[str]:
    """Return a published list of answers: JSON or a pickle, a list or a table from answers to numbers.

    Raises:
        DataError: it is not there, or of another form.
    """
    is_pickle = place.lower().endswith((".pkl", ".pickle"))
    content = read_pickle(raw, place) if is_pickle else _json(raw, place)
    return as_answer_list(content, str(raw.root / place))


def coco_map(raw: RawFolder, place: str) -> Mapping[int, str]:
    """Return picture -> folder and name in COCO, of Uni-Perceiver's `coco_map.json`; empty without the file.

    Raises:
        DataError: it is of another form.
    """
    if raw.find(place) is None:
        return {}
    content = _json(raw, place)
    if not isinstance(content, dict) or not all(
        number.isdecimal() and isinstance(name, str) for number, name in content.items()
    ):
        raise DataError(f"{raw.root / place}: expected an object of numbers and names of files")
    return {int(number): name for number, name in content.items()}


def _json(raw: RawFolder, place: str) -> Any:
    with raw.text(place) as stream:
        try:
            return json.load(stream)
        except ValueError as error:
            raise DataError(f"{raw.root / place} is no JSON: {error}") from error

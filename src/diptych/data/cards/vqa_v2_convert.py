"""How the files of VQA v2 and the questions of Visual Genome become samples: one a picture and split."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.coco_files import coco_picture, opened, stem, with_picture
from diptych.data.cards.options import Options
from diptych.data.cards.visual_genome_files import Questions as VgQuestions
from diptych.data.cards.visual_genome_files import coco_ids, places_of, vg_picture
from diptych.data.cards.vqa_v2_files import (
    SUBSETS,
    People,
    Targets,
    annotations,
    coco_map,
    read_answer_list,
    read_questions,
)
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.sample import Sample
from diptych.data.vqa_answers import answer_list
from diptych.errors import DataError

NAME = "vqa-v2"
MINIVAL = 3000
OPTIONS = {
    "vg": "`no`: VQA alone; `coco`: with those questions of Visual Genome that are about pictures of COCO, "
    "as for Uni-Perceiver; `own`: with all of them, about Visual Genome's own files, as for EVE (default "
    "`no`; in the layout `uniperceiver`, `coco` where `VG_questions2.json` is there)",
    "vg_root": "folder of Visual Genome's files under --raw (default: --raw itself)",
    "minival": f"questions that `minival` takes from the end of val, by their ids (default {MINIVAL})",
    "answers": "the answers to choose from, under --raw: a published file (`trainval_label2ans.pkl`, "
    "`trainval_ans2label.pkl`, `answer_list.json`) or a JSON list (default: the first of these that is "
    "there, else made of the annotations)",
}
ANSWER_FILES = ("trainval_label2ans.pkl", "trainval_ans2label.pkl", "answer_list.json")
TREE, TREE_IMAGES = "VQA/", "mscoco_dataset/coco_origin/"
VG_QUESTIONS = f"{TREE}VG_questions2.json"

_FOLDERS = ("train2014", "val2014")


@dataclass(frozen=True)
class _Asked:
    """A question with its answers, and where it belongs."""

    split: str
    image: int
    entry: dict[str, Any]


@dataclass(frozen=True)
class _Form:
    """A form of the raw files.

    Attributes:
        folder: the raw folder.
        root: folder of the annotations, empty or with `/` at its end.
        images: the same of the folders of pictures.
        targets: published targets stand in for people's answers.
    """

    folder: RawFolder
    root: str = ""
    images: str = ""
    targets: bool = False

    def answers(self, name: str) -> People | Targets:
        """Return the answers to the questions of train, val or (`vg`) Visual Genome."""
        places = (f"{TREE}VG_annotations.json",) if name == "vg" else SUBSETS[name].answer_places(self.root)
        if not self.targets or self.folder.find(*places):
            return People(self.folder, places)
        place = f"{self.root}{name}_target.pkl"
        if self.folder.find(place) is None:
            raise DataError(
                f"{self.folder.root}: the questions of {name} need their answers: expected {place}, "
                f"or {places[0]}"
            )
        return Targets(self.folder, place, self._names())

    def _names(self) -> list[str]:
        for name in ANSWER_FILES[:2]:
            if self.folder.find(f"{self.root}{name}"):
                return read_answer_list(self.folder, f"{self.root}{name}")
        raise DataError(
            f"{self.folder.root}: published targets need their list: expected {self.root}{ANSWER_FILES[0]}"
        )


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture of each split, by the ids of the questions.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    given = Options(NAME, options, OPTIONS)
    vg = given.choice("vg", "no", ("no", "coco", "own"))
    form = _Form(opened(NAME, raw))
    yield from _vqa(form, given.integer("minival", MINIVAL, 0, 10**9))
    if vg != "no":
        yield from _visual_genome(form, given, own=vg == "own")


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | Unread | LeftOut]:
    """Yield a sample for each picture of each split, by the ids of the questions.

    Raises:
        UsageError: an option, or no raw folder.
        DataError: an annotation file is not there, or of another form.
    """
    given = Options(NAME, options, OPTIONS)
    form = _Form(opened(NAME, raw), TREE, TREE_IMAGES, targets=True)
    there = form.folder.find(VG_QUESTIONS) is not None
    vg = given.choice("vg", "coco" if there else "no", ("no", "coco", "own"))
    yield from _vqa(form, given.integer("minival", MINIVAL, 0, 10**9))
    if vg == "own":
        yield from _visual_genome(form, given, own=True)
    elif vg == "coco":
        yield from _mapped_visual_genome(form)


def _vqa(form: _Form, minival: int) -> Iterator[Unread | LeftOut]:
    for name in ("train", "val"):
        subset = SUBSETS[name]
        questions = read_questions(form.folder, subset.question_places(form.root))
        answers = form.answers(name)
        yield from questions.wrong
        yield from answers.wrong
        first = len(questions.found) - minival if name == "val" else len(questions.found)
        asked: list[_Asked] = []
        for position, (number, image, text) in enumerate(questions.found):
            known = answers.of(number)
            if known is None:
                yield LeftOut("no answer", str(number), text)
                continue
            entry = {"question": text, "question_id": number, "dataset": "vqa", **known}
            asked.append(_Asked("minival" if position >= first else name, image, entry))
        yield from _pictures(form, subset.images, asked)
    yield from _test(form)


def _test(form: _Form) -> Iterator[Unread | LeftOut]:
    """Yield the pictures of the test, whose answers nobody gives away; both lists may be missing."""
    found: dict[int, tuple[int, str]] = {}
    dev: set[int] = set()
    for name in ("test", "test_dev"):
        places = SUBSETS[name].question_places(form.root)
        if form.folder.find(*places) is None:
            continue
        questions = read_questions(form.folder, places)
        yield from questions.wrong
        found |= {number: (image, text) for number, image, text in questions.found}
        dev |= {number for number, *_ in questions.found} if name == "test_dev" else set()
    asked = [
        _Asked(
            "test_dev" if number in dev else "test",
            image,
            {"question": text, "question_id": number, "dataset": "vqa"},
        )
        for number, (image, text) in sorted(found.items())
    ]
    yield from _pictures(form, SUBSETS["test"].images, asked)


def _pictures(form: _Form, folder: str, asked: Iterable[_Asked]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each picture and split; a picture at the border of minival is in two."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for question in asked:
        groups.setdefault((question.split, question.image), []).append(question.entry)
    taken: set[str] = set()
    for (split, image), entries in groups.items():
        name = f"{folder}/COCO_{folder}_{image:012d}.jpg"
        key = stem(name)
        key = f"{key}_{split}" if key in taken else key
        taken.add(key)
        ref = coco_picture(form.folder, form.images, name)
        yield _sample(key, split, name, ref, entries, image)


def _sample(
    key: str, split: str, name: str, ref: Ref | None, entries: list[dict[str, Any]], coco_id: int | None
) -> Unread | LeftOut:
    meta: dict[str, Any] = {"file": name, "dataset": entries[0]["dataset"], "questions": entries}
    if coco_id is not None:
        meta["coco_id"] = coco_id
    match_id = key if coco_id is None else f"coco_{coco_id}"
    return with_picture(Sample(key, {}, (), match_id, split, meta), name, ref, f"{len(entries)} questions")


def _visual_genome(form: _Form, given: Options, *, own: bool) -> Iterator[Unread | LeftOut]:
    """Yield the pictures of Visual Genome's question file, as its own files or as COCO's."""
    folder = given.text("vg_root")
    root = f"{folder.rstrip('/')}/" if folder else ""
    if not own:
        form.folder.need(*places_of("image_data.json", root))
    coco = coco_ids(form.folder, *places_of("image_data.json", root)) or {}
    questions = VgQuestions(form.folder, *places_of("question_answers.json", root))
    yield from questions.wrong
    for number in questions.numbers():
        key, entries, coco_id = f"vg_{number}", questions.of(number), coco.get(number)
        if own:
            name, ref = vg_picture(form.folder, root, number)
            yield _sample(key, "vg", name, ref, entries, coco_id)
        elif coco_id is None:
            yield LeftOut("no picture of COCO", key, f"{len(entries)} questions")
        else:
            name, ref = _coco_of(form, coco_id)
            yield _sample(key, "vg", name, ref, entries, coco_id)


def _mapped_visual_genome(form: _Form) -> Iterator[Unread | LeftOut]:
    """Yield the pictures of Uni-Perceiver's file of Visual Genome's questions; they have COCO's numbers."""
    questions, answers = read_questions(form.folder, (VG_QUESTIONS,)), form.answers("vg")
    yield from questions.wrong
    yield from answers.wrong
    files = coco_map(form.folder, f"{TREE}coco_map.json")
    groups: dict[int, list[dict[str, Any]]] = {}
    for number, image, text in questions.found:
        known = answers.of(number)
        if known is None:
            yield LeftOut("no answer", str(number), text)
            continue
        # One person answered; the kind of an answer is VQA's.
        known = known if "scores" in known else {"answer": known["answers"][0]}
        entry = {"question": text, "question_id": number, "dataset": "vg", **known}
        groups.setdefault(image, []).append(entry)
    for image, entries in groups.items():
        name, ref = _coco_of(form, image, files.get(image, ""))
        yield _sample(f"vg_{stem(name)}", "vg", name, ref, entries, image)


def _coco_of(form: _Form, number: int, known: str = "") -> tuple[str, Ref | None]:
    """Return folder and name of a picture of COCO 2014, and where it is."""
    names = [known] if known else [f"{folder}/COCO_{folder}_{number:012d}.jpg" for folder in _FOLDERS]
    for name in names:
        ref = coco_picture(form.folder, form.images, name)
        if ref is not None:
            return name, ref
    return names[0], None


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers to choose from, and where they are from.

    Raises:
        DataError: a file is not there, or of another form.
    """
    return _facts(_Form(opened(NAME, raw)), options)


def facts_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the same for the layout of Uni-Perceiver.

    Raises:
        DataError: a file is not there, or of another form.
    """
    return _facts(_Form(opened(NAME, raw), TREE, TREE_IMAGES, targets=True), options)


def _facts(form: _Form, options: Mapping[str, str]) -> Mapping[str, Any]:
    given = options.get("answers", "")
    for place in [given] if given else [f"{form.root}{name}" for name in ANSWER_FILES]:
        if given or form.folder.find(place):
            return {"answers": read_answer_list(form.folder, place), "answers_from": place}
    made = answer_list(_principal(form))
    where = "annotations: answers of at least nine questions, the most frequent first"
    return {"answers": made, "answers_from": where} if made else {}


def _principal(form: _Form) -> Iterator[str]:
    for name in ("train", "val"):
        places = SUBSETS[name].answer_places(form.root)
        for entry in annotations(form.folder, places) if form.folder.find(*places) else ():
            answer = entry.get("multiple_choice_answer") if isinstance(entry, dict) else None
            if isinstance(answer, str):
                yield answer

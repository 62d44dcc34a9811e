"""A tiny raw folder of `vqa-v2`, in the true form of its files.

The picture of COCO id n has the colour `n % 4096`. Visual Genome's files (`visual-genome`) are in `vg/`.
"""

import pickle
from pathlib import Path
from typing import Any

from diptych.data.cards.vqa_v2_files import SUBSETS
from diptych.data.miniatures import visual_genome
from diptych.data.miniatures.coco import BROKEN, as_json, coco_picture, name_2014, unpacked, zipped

MISSING, UNREFERENCED = 9, 999
NAMES = ("", "yes", "red", "2", "sign")
"""The published list of answers, made up."""


_YES = tuple((42010 + i, f"Is it number {i}?", "is it", "yes/no", (("yes", 10),)) for i in range(8))
# Question id, text, type, kind, answers; the picture is the id without its last three digits.
_TRAIN: tuple[tuple[int, str, str, str, tuple[tuple[str, int], ...]], ...] = (
    (BROKEN * 1000, "Half a picture?", "none of the above", "yes/no", (("yes", 10),)),
    (
        42000,
        ' What colour,  is the "kité"? ',
        "what color is the",
        "other",
        (("red", 6), ("dark red", 3), ("Red", 1)),
    ),
    (MISSING * 1000, "Who sees this?", "who is", "other", (("nobody", 10),)),
    *_YES,
    (42001, "How many dogs?", "how many", "number", (("2", 8), ("two", 2))),
    (42005, "Nobody answered?", "", "", ()),
)
_VAL = (
    (900123002, "Is it red?", "is it", "yes/no", (("no", 7), ("yes", 3))),
    (7001, "Where?", "where is the", "other", (("on bench", 10),)),
    (7000, "How many dogs?", "how many", "number", (("1", 9), ("2", 1))),
    (900123001, "What is it?", "what is", "other", (("kite", 10),)),
    (900123000, "Is it a kite?", "is it", "yes/no", (("Yes.", 10),)),
)
_TEST = ((77001, "And this?"), (13000, "What is hidden?"), (77000, "How many?"))
_TEST_DEV = (77000, 77001)


def make(raw: Path, layout: str = "") -> None:
    """Write the raw folder.

    Args:
        raw: the folder.
        layout: empty, or `uniperceiver` (with published targets, and the questions of Visual Genome).
    """
    if layout:
        _make_tree(raw)
        return
    train, val, test = (SUBSETS[name] for name in ("train", "val", "test"))
    zipped(raw / train.questions_zip, {train.questions: _questions("train")})
    zipped(raw / train.answers_zip, {train.answers: _annotations("train")})
    unpacked(raw, {val.questions: _questions("val"), val.answers: _annotations("val")})
    lists = {SUBSETS[name].questions: _questions(name) for name in ("test", "test_dev")}
    zipped(raw / test.questions_zip, lists)
    for name, folder in (("train2014", "train2014/"), ("test2015", "")):
        zipped(raw / f"{name}.zip", {f"{folder}{n}": data for n, data in _photographs(name).items()})
    unpacked(raw / "val2014", _photographs("val2014"))
    visual_genome.make(raw / "vg")


def _make_tree(raw: Path) -> None:
    files = {SUBSETS[name].questions: _questions(name) for name in SUBSETS}
    files |= {f"{name}_target.pkl": pickle.dumps(_targets(name), protocol=2) for name in ("train", "val")}
    vg = [{"question_id": 500, "image_id": 42, "labels": [4], "scores": [1.0]}]
    files |= {
        "trainval_ans2label.pkl": pickle.dumps({name: i for i, name in enumerate(NAMES)}, protocol=2),
        "trainval_label2ans.pkl": pickle.dumps(list(NAMES), protocol=2),
        "vg_target.pkl": pickle.dumps(vg, protocol=2),
        "VG_questions2.json": as_json(
            {"questions": [{"question_id": 500, "image_id": 42, "question": "What is lit?"}]}
        ),
        "coco_map.json": as_json({"42": f"train2014/{name_2014('train2014', 42)}"}),
    }
    unpacked(raw / "VQA", files)
    for name in ("train2014", "val2014", "test2015"):
        unpacked(raw / "mscoco_dataset" / "coco_origin" / name, _photographs(name))


def _photographs(folder: str) -> dict[str, bytes]:
    numbers = {
        "train2014": (42, BROKEN, UNREFERENCED),
        "val2014": (7, 900123),
        "test2015": (77, 13),
    }
    return {name_2014(folder, number): coco_picture(number) for number in numbers[folder]}


def _questions(name: str) -> bytes:
    asked: list[tuple[int, str]] = {
        "train": [(entry[0], entry[1]) for entry in _TRAIN],
        # One question is there twice.
        "val": [(entry[0], entry[1]) for entry in (*_VAL, _VAL[2])],
        "test": list(_TEST),
        "test_dev": [entry for entry in _TEST if entry[0] in _TEST_DEV],
    }[name]
    questions = [
        {"image_id": number // 1000, "question": text, "question_id": number} for number, text in asked
    ]
    head = {"info": {"year": 2017}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    return as_json({**head, "data_subtype": SUBSETS[name].images, "questions": questions})


def _annotations(name: str) -> bytes:
    entries: list[dict[str, Any]] = []
    for number, _, asked, kind, counts in _TRAIN if name == "train" else _VAL:
        given = [answer for answer, people in counts for _ in range(people)]
        if given:
            answers = [
                {"answer": answer, "answer_confidence": "maybe", "answer_id": i + 1}
                for i, answer in enumerate(given)
            ]
            entries.append(
                {
                    "question_type": asked,
                    "multiple_choice_answer": given[0],
                    "answers": answers,
                    "image_id": number // 1000,
                    "answer_type": kind,
                    "question_id": number,
                }
            )
    damaged = [{"question_id": 1}] if name == "train" else []
    head = {"info": {}, "license": {}, "data_subtype": SUBSETS[name].images}
    return as_json({**head, "annotations": entries[::-1] + damaged, "data_type": "mscoco"})


def _targets(name: str) -> list[dict[str, Any]]:
    """Return published targets: answers in the list, with 0.3, 0.6, 0.9 or 1 by the people who gave them."""
    targets = []
    for number, _, _, _, counts in _TRAIN if name == "train" else _VAL:
        if counts:
            known = [(NAMES.index(a), min(1.0, round(0.3 * n, 1))) for a, n in counts if a in NAMES]
            targets.append(
                {
                    "question_id": number,
                    "image_id": number // 1000,
                    "labels": [label for label, _ in known],
                    "scores": [score for _, score in known],
                }
            )
    return targets

"""Miniatures of the cards `retrieval-json`, `vqa-json` and `nlvr-json`: lists beside pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture

PICTURES = {
    "coco/train2014/COCO_train2014_000000000030.jpg": 1,
    "coco/train2014/COCO_train2014_000000000009.png": 2,
    "coco/val2014/COCO_val2014_000000000042.jpg": 3,
    "coco/val2014/COCO_val2014_000000000013.jpg": 4,
    "coco/val2014/COCO_val2014_000000000099.jpg": 5,
}
"""Name -> colour. Nobody refers to the last one."""
TRAIN_30, TRAIN_9, VAL_42, VAL_13, _ = PICTURES
BROKEN = "coco/train2014/COCO_train2014_000000000777.jpg"
GONE = "coco/train2014/COCO_train2014_000000000008.jpg"

CAPTIONS: Mapping[str, Sequence[Any]] = {
    "train": (
        {"image": TRAIN_30, "caption": 'a "red" kite, high up', "image_id": "coco_30"},
        {"image": TRAIN_9, "caption": "two cafés", "image_id": "coco_9"},
        {"image": TRAIN_30, "caption": "a kite in the sky", "image_id": "coco_30"},
        {"image": TRAIN_30, "caption": "a kite in the sky", "image_id": "coco_30"},
        {"image": TRAIN_9, "caption": "a kite in the sky", "image_id": "coco_9"},
        {"image": GONE, "caption": "nobody sees this", "image_id": "coco_8"},
        {"image": BROKEN, "caption": "a page of the web", "image_id": "coco_777"},
    ),
    "val": ({"image": VAL_42, "caption": ["a dog", "a brown dog "]},),
    "test": ({"image": VAL_13, "caption": ["a cat"]},),
}
"""A caption that comes again, one of two pictures, a picture that is not there and one that is none."""

QUESTIONS: Mapping[str, Sequence[Any]] = {
    "train": (
        {
            "question_id": 30001,
            "question": "What is up?",
            "answer": ["kite"] * 9 + ["sky"],
            "image": TRAIN_30,
            "dataset": "vqa",
        },
        {
            "question_id": 9000,
            "question": "How many cafés, here?",
            "answer": ["2"] * 10,
            "image": TRAIN_9,
            "dataset": "vqa",
        },
        {"question_id": 30001, "question": "Again?", "answer": "no", "image": TRAIN_30},
        {"question_id": 9000, "question": "Who?", "answer": "nobody", "image": TRAIN_9, "dataset": "vg"},
        {"question_id": 8000, "question": "Where?", "answer": ["here"] * 10, "image": GONE},
        {"question_id": 7770, "question": "What?", "answer": ["page"] * 10, "image": BROKEN},
    ),
    "val": ({"question_id": 42000, "question": "A dog?", "answer": ["yes"] * 10, "image": VAL_42},),
    "test": ({"question_id": 13000, "question": "A cat?", "image": VAL_13},),
}
"""A question id that comes again, and the same one of another dataset."""
ANSWERS = ("yes", "kite", "2")

STATEMENTS: Mapping[str, Sequence[Any]] = {
    "train": (
        {"images": [TRAIN_30, TRAIN_9], "sentence": "There are two cafés.", "label": "True"},
        {"images": [TRAIN_9, TRAIN_30], "sentence": "There are two cafés.", "label": "False"},
        {"images": [TRAIN_30, TRAIN_9], "sentence": "There are two cafés.", "label": "True"},
        {"images": [TRAIN_30, GONE], "sentence": "One is gone.", "label": "True"},
        {"images": [BROKEN, TRAIN_30], "sentence": "One is a page.", "label": "False"},
    ),
    "val": ({"images": [VAL_42, VAL_13], "sentence": "A dog, a cat.", "label": True, "identifier": "v-1"},),
    "test": ({"images": [VAL_13, VAL_42], "sentence": "No dog."},),
}
"""A statement that comes again, and one that does about the same pictures in another order."""


def make_retrieval(raw: Path, layout: str = "") -> None:
    """Write lists of captions and their pictures."""
    _write(raw, CAPTIONS)


def make_vqa(raw: Path, layout: str = "") -> None:
    """Write lists of questions, the list of answers, and the pictures."""
    _write(raw, {**QUESTIONS, "answers": ANSWERS})


def make_nlvr(raw: Path, layout: str = "") -> None:
    """Write lists of statements and the pictures."""
    _write(raw, STATEMENTS)


def _write(raw: Path, lists: Mapping[str, Sequence[Any]]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for name, entries in lists.items():
        (raw / f"{name}.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    contents = {name: picture(number, format=name[-3:]) for name, number in PICTURES.items()}
    for name, content in {**contents, BROKEN: b"<html>not found</html>"}.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)

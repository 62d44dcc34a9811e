"""Miniatures of the cards `soho-pretrain` and `soho-vqa`: JSON files and zips as SOHO reads them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture

ANSWERS = ["", "kite", "café", "2"]
"""Like the published list, it begins with an empty one."""


def listed(name: str, number: int | str, captions: list[str], **more: Any) -> dict[str, Any]:
    """Return an entry of a list of captions."""
    about = {"file_name": name, "image_id": number, "height": 48, "width": 64}
    return {**about, "labels": [3, 1600], "captions": captions, **more}


CAPTIONS: Mapping[str, list[Any]] = {
    "coco_cap_train_pre": [
        listed(
            "COCO_train2014_000000000030.jpg",
            30,
            ['  a "red"  kite, high up', "two cafés", "a kite", "the sky", "a kite in the sky"],
        ),
        listed("COCO_train2014_000000000009.jpg", 9, ["a kite"]),
        listed("COCO_train2014_000000000400.jpg", 400, ["too flat"], height=20),
        listed("COCO_train2014_000000000008.jpg", 8, ["nobody sees this"]),
        listed("COCO_train2014_000000000777.jpg", 777, ["a page of the web"]),
        listed("COCO_train2014_000000000009.jpg", 9, ["again"]),
        {"file_name": "COCO_train2014_000000000031.jpg", "image_id": 31},
    ],
    "coco_cap_val_pre": [listed("COCO_val2014_000000000042.jpg", 42, ["a dog", "a brown dog"])],
    "vg_cap_pre": [
        listed(
            "30.jpg",
            30,
            ["a wall", "a door", "a lamp", "a kite"],
            height=64,
            width=48,
            question=["What is it?"],
            questionAns=["What is it? A lamp."],
        )
    ],
}
"""Five captions and one caption, a picture that is too flat, gone, broken, named twice; and two series of
numbers that meet."""


def _question(number: int, text: str, labels: list[int], scores: list[float]) -> dict[str, Any]:
    return {"question": text, "question_id": number, "labels": labels, "scores": scores}


def _asked(name: str, number: int, *questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"file_name": name, "image_id": number, "height": 48, "width": 64, "vqa": list(questions), **more}


QUESTIONS: Mapping[str, list[Any]] = {
    "train_data_vqa": [
        _asked(
            "COCO_train2014_000000000030.jpg",
            30,
            _question(30001, "What is  up? ", [1, 3], [1.0, 0.3]),
            _question(30000, "How many cafés, here?", [3], [0.9]),
            _question(30002, "Why?", [], []),
        ),
        _asked("COCO_train2014_000000000009.jpg", 9, _question(9000, "Is it a kite?", [1], [0.6])),
        _asked("COCO_train2014_000000000009.jpg", 9, _question(9000, "Again?", [1], [0.6])),
        _asked("COCO_train2014_000000000008.jpg", 8, _question(8000, "Where?", [2], [1.0])),
        _asked("COCO_train2014_000000000400.jpg", 400, _question(4000, "Flat?", [2], [1.0]), height=20),
        _asked("COCO_train2014_000000000777.jpg", 777, _question(7770, "A page?", [9], [1.0])),
    ],
    "val_data_vqa": [_asked("COCO_val2014_000000000042.jpg", 42, _question(42000, "A dog?", [2], [1.0]))],
    "test_data_vqa": [
        {
            "file_name": "COCO_test2015_000000000013.jpg",
            "image_id": 13,
            "height": 20,
            "width": 64,
            "question": text,
            "question_id": number,
        }
        for number, text in ((13001, "A cat?"), (13000, "What is it?"))
    ],
}
"""Empty targets, an id that comes again, a label that no answer has."""

ZIPS: Mapping[str, Mapping[str, int]] = {
    "train2014": {
        "train2014/COCO_train2014_000000000030.jpg": 1,
        "train2014/COCO_train2014_000000000009.jpg": 2,
        "train2014/COCO_train2014_000000000400.jpg": 3,
        "train2014/COCO_train2014_000000000099.jpg": 4,
    },
    "val2014": {"val2014/COCO_val2014_000000000042.jpg": 5},
    "test2015": {"test2015/COCO_test2015_000000000013.jpg": 6},
    "images": {"30.jpg": 7, "12.jpg": 8},
}
"""Archive -> member -> colour. Nobody refers to 4 and 8."""
_SIZES = {3: (64, 20), 6: (64, 20), 7: (48, 64)}


def make_pretrain(raw: Path, layout: str = "") -> None:
    """Write the lists of captions and their zips."""
    for name, entries in CAPTIONS.items():
        _json(raw / f"{name}.json", entries)
    for name in ("train2014", "val2014", "images"):
        _zip(raw, name)


def make_vqa(raw: Path, layout: str = "") -> None:
    """Write the files of questions and their zips."""
    for name, entries in QUESTIONS.items():
        codes = {answer: i for i, answer in enumerate(ANSWERS)}
        _json(raw / f"{name}.json", {"data": entries, "ans2label": codes, "label2ans": ANSWERS})
    for name in ("train2014", "val2014", "test2015"):
        _zip(raw, name)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _zip(raw: Path, name: str) -> None:
    with zipfile.ZipFile(raw / f"{name}.zip", "w") as archive:
        for member, colour in ZIPS[name].items():
            archive.writestr(_dated(member), picture(colour, _SIZES.get(colour, (64, 48))))
        if name == "train2014":
            archive.writestr(_dated(f"{name}/COCO_train2014_000000000777.jpg"), b"<html>not found</html>")


def _dated(member: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(member, (2014, 5, 1, 0, 0, 0))  # the same bytes every time

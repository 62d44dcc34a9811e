"""Miniature of the card `conversations-json`: our own form, with a picture that is missing."""

import json
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture

RED, BLUE, GONE = "pictures/red.jpg", "pictures/blue.png", "pictures/gone.jpg"


def _said(question: list[Any], answer: str, **facts: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {**facts, "messages": messages}


def _image(name: str) -> dict[str, str]:
    return {"type": "image", "image": name}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


RECORDS = {
    "train": [
        _said([_image(RED), _text("\nWhat color is it?")], "red", id="a"),
        _said([_image(RED), _image(BLUE), _text("\nAre they alike?")], "no", id="b"),
        _said([_image(GONE), _text("\nWhat is it?")], "nobody knows", id="c"),
    ],
    "val": [_said([_image(BLUE), _text("\nWhat color is it?")], "blue", id=1)],
    "test": [_said([_image(BLUE), _text("\nIs it red?")], "no", id=2)],
}


def make(raw: Path, layout: str = "") -> None:
    """Write the files."""
    for name, colour in ((RED, 1), (BLUE, 2)):
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(colour, format=path.suffix[1:]))
    for split, records in RECORDS.items():
        lines = "\n".join(json.dumps(record) for record in records)
        text = lines if split == "train" else json.dumps(records)
        (raw / f"{split}.json").write_text(text + "\n", encoding="utf-8")

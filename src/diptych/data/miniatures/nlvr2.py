"""Miniature of the card `nlvr2`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture

SIDES = ("img0", "img1")


def entry(identifier: str, sentence: str, label: str, directory: int | None = None) -> dict[str, Any]:
    """Return a line of the annotations as their owners write it."""
    made: dict[str, Any] = {
        "validation": [["7", label]],
        "sentence": sentence,
        "left_url": f"https://example.org/{identifier}-0.jpg",
        "writer": "70",
        "label": label,
        "right_url": f"https://example.org/{identifier}-1.jpg",
        "synset": "dog",
        "query": "two dogs12",
        "identifier": identifier,
        "extra_validations": [["98", label]],
    }
    return made if directory is None else {**made, "directory": directory}


LINES: dict[str, Sequence[dict[str, Any] | str]] = {
    "train": (
        entry("train-9010-2-0", '  Two "cafés", one  dog. ', "True", 55),
        entry("train-17-0-0", "There are two dogs.", "False", 3),
        entry("train-9010-2-1", "No dog is seen.", "False", 55),
        entry("train-17-0-1", "No cat.", "true", 3),
        entry("train-30-1-0", "One picture is gone.", "True", 3),
        "{not JSON",
    ),
    "dev": (
        entry("dev-9001-0-0", "There are two dogs.", "True"),
        entry("dev-850-3-1", "Left is red.", "False"),
    ),
    "test1": (
        entry("test1-5-0-0", "A broken picture is left.", "True"),
        entry("test1-4-2-0", "There are two dogs.", "False"),
    ),
}
"""Pairs out of order, a label that is none, a damaged line, equal statements about two pairs."""

PICTURES = {
    "train/55/train-9010-2": (1, 2),
    "train/3/train-17-0": (3, 4),
    "train/3/train-99-0": (5, 6),
    "dev/dev-9001-0": (7, 8),
    "dev/dev-850-3": (9, 10),
    "test1/test1-4-2": (13, 14),
}
"""Pair -> colours of its pictures. Nobody refers to train-99-0; those of train-30-1 are half there."""


def make_nlvr2(raw: Path, layout: str = "") -> None:
    """Write the three files and the pictures; many `.png` are JPEG or GIF inside, one is broken."""
    raw.mkdir(parents=True, exist_ok=True)
    for name, lines in LINES.items():
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (raw / f"{name}.json").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for number, (pair, colours) in enumerate(PICTURES.items()):
        for side, colour in zip(SIDES, colours, strict=True):
            # Content of several kinds under the name .png, as on the owners' disks.
            kind = ("png", "jpg", "gif")[number % 3]
            _write(raw / "images" / f"{pair}-{side}.png", picture(colour, format=kind))
    _write(raw / "images/train/3/train-30-1-img0.png", picture(11, format="png"))
    _write(raw / "images/test1/test1-5-0-img0.png", b"<html>not found</html>")
    _write(raw / "images/test1/test1-5-0-img1.png", picture(12, format="png"))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

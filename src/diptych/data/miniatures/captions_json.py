"""A tiny raw folder of `captions-json`: lists beside pictures and videos."""

import json
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture, video

LISTS: dict[str, list[Any]] = {
    "train": [
        {"video": "clips/a.mp4", "caption": ["a man  runs", "somebody runs"], "start": 0.5, "end": 1.5},
        {"image": "coco/b.jpg", "caption": "two cats"},
        {"image": "coco/b.jpg", "caption": "cats again"},
        {"image": "coco/gone.jpg", "caption": "nobody sees this"},
        {"video": "clips/gone.mp4", "caption": "nor this"},
        {"image": "coco/b.jpg", "caption": []},
        {"image": "coco/b.jpg"},
        {"caption": "of nothing"},
        "no entry",
    ],
    "val": [{"image": "coco/b.jpg", "caption": "two cats"}],
    "test": [{"video": "clips/c.webm", "caption": "blue"}],
}


def make_captions_json(raw: Path, layout: str = "") -> None:
    """Write the raw files into a folder."""
    media = {
        "clips/a.mp4": video(1),
        "clips/c.webm": video(3, container="webm"),
        "coco/b.jpg": picture(2),
    }
    for name, content in media.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    for split, entries in LISTS.items():
        (raw / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")

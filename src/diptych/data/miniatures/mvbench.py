"""A tiny raw folder of MVBench: three videos, questions about them and their parts."""

import json
from pathlib import Path
from typing import Any

from diptych.data.cards.mvbench import TASKS, file_of
from diptych.data.miniatures.media import video

VIDEOS = {"star/ZS9XR.mp4": 1, "perception/videos/video_7.mp4": 2, "clevrer/video_7.mp4": 3}
"""Place -> colour; two have one name."""
_ASKED: dict[str, list[dict[str, Any]]] = {
    "Action Sequence": [
        {
            "video": "ZS9XR.mp4",
            "question": "What happened  after the person took the food?",
            "candidates": [
                "Ate the medicine.",
                "Tidied up the blanket.",
                "Put down the cup.",
                "Took it.",
            ],
            "answer": "Ate the medicine.",
            "start": 0.0,
            "end": 1.0,
        },
        {
            "video": "ZS9XR.mp4",
            "question": "What came first?",
            "candidates": ["a", "b"],
            "answer": "b",
            "start": 0.5,
            "end": 1.5,
        },
        {"video": "gone.mp4", "question": "Who?", "candidates": ["a", "b"], "answer": "a"},
    ],
    "Object Shuffle": [
        {"video": "video_7.mp4", "question": "Where?", "candidates": ["left", "right"], "answer": "right"},
        {"video": "video_7.mp4", "question": "Where?", "candidates": ["left", "left"], "answer": "left"},
    ],
    "Moving Count": [
        {"video": "video_7.mp4", "question": "How many move?", "candidates": ["1", "2", 3], "answer": 3}
    ],
    "Unexpected Action": [
        {"video": "ZS9XR.mp4", "question": "Why?", "candidates": ["a", "b"], "answer": "c"}
    ],
}


def make_mvbench(raw: Path, layout: str = "") -> None:
    """Write the raw files into a folder."""
    for place, colour in VIDEOS.items():
        file = raw / "video" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(video(colour))
    (raw / "json").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        (raw / file_of(task)).write_text(json.dumps(_ASKED.get(task, [])), encoding="utf-8")

"""Miniature of HowTo100M: videos and their transcripts."""

import json
from pathlib import Path

from diptych.data.miniatures.media import video
from diptych.data.miniatures.url_sets import put

SPOKEN: dict[str, list[tuple[float, float, str]]] = {
    # Of three and one seconds, then of two; the last one is too short for a clip of its own.
    "aB3_first-01": [
        (0.0, 3.0, "first  we cut"),
        (3.0, 4.0, "the bread"),
        (4.5, 6.0, "and   then"),
        (6, 7, "eat"),
    ],
    "whole": [(0.0, 2.0, "so short")],
    "gone": [(0.0, 9.0, "no video of this")],
    "silent": [],
}
COLOURS = {"aB3_first-01": 700, "whole": 701, "silent": 702}


def make_howto100m(raw: Path, layout: str = "") -> None:
    """Write HowTo100M; videos of eight seconds with a keyframe each second, of the colours of `COLOURS`."""
    for name, pieces in SPOKEN.items():
        columns = {key: [piece[i] for piece in pieces] for i, key in enumerate(("start", "end", "text"))}
        put(raw / f"transcripts/{name}.json", json.dumps(columns))
    put(raw / "transcripts/odd.json", json.dumps({"start": [0.0], "end": [1.0, 2.0], "text": ["a"]}))
    for name, colour in COLOURS.items():
        put(raw / f"videos/{name}.mp4", video(colour, 8.0))

"""Miniature of InternVid: a list of clips, some as files, some inside a whole video."""

import json
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import video, video_of
from diptych.data.miniatures.url_sets import Row, put, write_tar

CLIPS: list[tuple[str, str, str, str, float, float]] = [
    (
        "zAAAAAAAAA9",
        "00:03:10.567",
        "00:03:11.200",
        'A man, "smiling", in a café ',
        4.58984375,
        0.39794921875,
    ),
    ("-AAAAAAAAA0", "00:00:02.000", "00:00:03.500", "a dog runs", 5.5, 0.25),
    ("_AAAAAAAAA1", "01:00:00.000", "01:00:02.000", "the sea", 3.25, 0.5),
    ("-AAAAAAAAA0", "00:00:00.500", "00:00:02.000", "a dog runs", 5.0, 0.35),
    ("GONEAAAAAA3", "00:00:01.000", "00:00:04.000", "private video", 4.0, 0.4),
    (
        "zAAAAAAAAA9",
        "00:03:10.567",
        "00:03:11.200",
        "The same clip in other words",
        4.58984375,
        0.39794921875,
    ),
]
"""Video, start, end, caption, scores; not sorted."""
BROKEN = [
    '{"YoutubeID":"zAAAAAAAAA9","Start_timestamp":',
    '{"YoutubeID":"AAAAAAAAA_2","Start_timestamp":"00:00:05.000",'
    '"End_timestamp":"00:00:04.000","Caption":"it ends before it begins"}',
]


def _record(clip: tuple[str, str, str, str, float, float]) -> dict[str, Any]:
    names = ("YoutubeID", "Start_timestamp", "End_timestamp", "Caption", "Aesthetic_Score", "UMT_Score")
    return dict(zip(names, clip, strict=True))


def whole() -> bytes:
    """Return the video of which two clips are cut: colour 610 for two seconds, then 611 for two more."""
    return video_of([610] * 16 + [611] * 16, fps=8, key_every=8)


def make_internvid(raw: Path, layout: str = "") -> None:
    """Write InternVid; the clips have the colours 600, 611, 602 and 610 in the order of the list."""
    if layout == "fetched":
        _shard(raw / "00000.tar")
        return
    lines = [json.dumps(_record(clip), ensure_ascii=False) for clip in CLIPS]
    put(raw / "InternVid-10M-flt.jsonl", "\n".join([*lines[:3], *BROKEN, "", *lines[3:]]) + "\n")
    put(raw / "clips/zAAAAAAAAA9_00_03_10.567_00_03_11.200.mp4", video(600, 0.625))
    put(raw / "clips/_AAAAAAAAA1_01-00-00.000_01-00-02.000.webm", video(602, 2.0, container="webm"))
    put(raw / "clips/AAAAAAAAAAA_00_00_00.000_00_00_01.000.mp4", video(699, 1.0))
    put(raw / "videos/-AAAAAAAAA0.mp4", whole())


def _shard(path: Path) -> None:
    """As video2dataset cuts it: a number behind the key, `clips` with its one span."""
    entries: list[tuple[str, bytes]] = []
    for i, clip in enumerate(CLIPS[:5]):
        failed = clip[3] == "private video"
        data = None if failed else video(600 + i, 0.5)
        caption = clip[3]
        more = {name: value for name, value in _record(clip).items() if name != "Caption"}
        row = Row(
            f"{i:08d}_00000",
            f"https://www.youtube.com/watch?v={clip[0]}",
            caption,
            data,
            "private",
            more=more,
        )
        if data is not None:
            entries += [
                (f"{row.key}.mp4", data),
                (f"{row.key}.m4a", b"sound"),
                (f"{row.key}.txt", caption.encode()),
            ]
        entries.append((f"{row.key}.json", json.dumps(row.side() | {"clips": [[clip[1], clip[2]]]}).encode()))
    write_tar(path, entries)

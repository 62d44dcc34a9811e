"""Miniature of DiDeMo: six videos with up to three descriptions each."""

import json
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import video, video_of
from diptych.data.miniatures.url_sets import Row, put, write_tar

LONG = "90000001@N02_90000000002_0abc123456.mov"
"""Lasts 40 seconds; its colour changes after 20 and after 30."""
OTHER = "12345@N00_11111111111_ffff000001.m4v"
AVI = "55555@N07_33333333333_ffff000003.avi"
GONE = "77777@N01_44444444444_ffff000004.mov"
VAL = "99999@N05_55555555555_ffff000005.mp4"
TEST = "88888@N05_66666666666_ffff000006.3gp"

_ENTRIES: dict[str, list[tuple[str, str, list[list[int]]]]] = {
    "train": [
        (LONG, 'the "dog" jumps, twice ', [[1, 1], [1, 2], [1, 1], [0, 1]]),
        (OTHER, "ein Ball rollt über die Straße", [[0, 0], [0, 0], [5, 5], [0, 0]]),
        (LONG, "a man walks in", [[0, 0], [0, 0], [0, 1], [0, 0]]),
        (AVI, "camera pans left", [[1, 4], [1, 4], [1, 4], [1, 4]]),
        (GONE, "never fetched", [[0, 0], [0, 0], [0, 0], [0, 0]]),
        (OTHER, "camera pans left", [[2, 3], [2, 2], [2, 3], [2, 3]]),
    ],
    "val": [(VAL, "first we see a tree", [[0, 0], [0, 1], [0, 0], [0, 0]])],
    "test": [(TEST, "a tree in the wind", [[0, 2], [0, 2], [0, 2], [0, 2], [1, 2]])],
}
DAMAGED: list[Any] = [{"video": LONG, "description": " ", "times": [[0, 0]]}, {"description": "of no video"}]


def _media() -> dict[str, bytes]:
    """Return the videos by their names on the disk; the unreferenced one too."""
    return {
        LONG: video_of([700] * 40 + [701] * 20 + [702] * 20, fps=2, container="mov", key_every=4),
        f"{OTHER}.mp4": video(703, 1.0),
        AVI: video(704, 1.0, container="avi"),
        VAL: video(705, 1.0),
        TEST.replace(".3gp", ".mp4"): video(706, 1.0),
        "00000@N00_00000000000_0000000000.mov": video(799, 1.0, container="mov"),
    }


def make_didemo(raw: Path, layout: str = "") -> None:
    """Write DiDeMo; the colours are 700 to 702 (in one video) and 703 to 706."""
    if layout == "fetched":
        _shard(raw / "00000.tar")
        return
    if layout == "snps3":
        _snps3(raw / "didemo_retrieval")
        return
    number = 90_003
    for split, described in _ENTRIES.items():
        entries: list[Any] = []
        for name, text, times in described:
            link = "download_link" if split == "test" else "dl_link"
            entry = {
                "num_segments": 6,
                "description": text,
                link: f"https://v.example/{name}",
                "times": times,
            }
            entry |= {"video": name, "annotation_id": number}
            # Not in every entry.
            entries.append(entry | ({"reference_description": "", "context": ""} if number % 2 else {}))
            number -= 7
        put(raw / f"{split}_data.json", json.dumps([*entries, *(DAMAGED if split == "train" else [])]))
    for name, data in _media().items():
        put(raw / "videos" / name, data)


def _shard(path: Path) -> None:
    entries: list[tuple[str, bytes]] = []
    described = [{"text": "b", "start": 5.0, "end": 10.0}, {"text": "a", "start": 0.0, "end": 5.0}]
    for i, more in enumerate(({"id": "one", "split": "val", "descriptions": described}, {})):
        row = Row(f"{i:08d}", f"https://v.example/{i}.mov", "b a", video(710 + i, 1.0), more=more)
        entries += [
            (f"{row.key}.mp4", row.medium or b""),
            (f"{row.key}.json", json.dumps(row.side()).encode()),
        ]
    write_tar(path, entries)


def _snps3(folder: Path) -> None:
    media = _media()
    names = {"train": LONG, "val": VAL, "test": TEST.replace(".3gp", ".mp4")}
    for split, name in names.items():
        # A name without an ending is that of an MP4 file.
        clip = name.removesuffix(".mp4")
        lines = [{"clip_name": clip, "caption": f"paragraph  of {split}", "retrieval_key": clip}]
        lines += [{"clip_name": "gone", "caption": "x"}] if split == "train" else []
        put(folder / f"{split}.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        put(folder / "videos" / name, media[name])

"""A tiny raw folder of Moments in Time: an archive with lists, and Uni-Perceiver's tree."""

import json
import zipfile
from pathlib import Path

from diptych.data.miniatures.media import video

PLACED = (
    ("training", "adult+female+singing", "yt-0a2b81cb0ec5_83.mp4", 1, (3, 0)),
    ("training", "blocking", "clip 900001+4%.mp4", 2, (3, 1)),
    ("training", "blocking", "flickr-9-0_12.mp4", 3, (4, 0)),
    ("training", "yawning", "flickr-9-0_12.mp4", 4, (5, 0)),
    ("training", "yawning", "sound-1_1.mp4", 7, (3, 0)),
    ("validation", "writing", "vine-0-1_1.mp4", 5, (3, 2)),
    ("validation", "adult+female+singing", "getty-2_2.mp4", 6, (3, 0)),
)
"""Folder, class, file, colour and votes; no list names the flickr clip of `yawning`.
The file `sound-1_1.mp4` is no video."""
ONE_FRAME = 5
"""Colour of a video of a single frame."""


def make_moments(raw: Path, layout: str = "") -> None:
    """Write the raw files of `moments-in-time`: the owners' archive, or Uni-Perceiver's tree."""
    files = {
        f"{folder}/{label}/{name}": video(colour, 0.1 if colour == ONE_FRAME else 0.5)
        for folder, label, name, colour, _ in PLACED
    }
    files["training/yawning/sound-1_1.mp4"] = b"ID3\3no video but a song"
    if layout == "uniperceiver":
        _tree(raw / "MomentsInTime", files)
        return
    lists = {"training": "blocking/gone.mp4,blocking,3,0\n", "validation": "short,line\n"}
    for folder, label, name, colour, (yes, no) in PLACED:
        if colour != 4:
            lists[folder] += f"{label}/{name},{label},{yes},{no}\n"
    raw.mkdir(parents=True, exist_ok=True)
    texts = {
        **{f"{folder}Set.csv": text.encode() for folder, text in lists.items()},
        "moments_categories.txt": b"blocking,0\nwriting,1\n",
        "license.txt": b"For research only.\n",
    }
    with zipfile.ZipFile(raw / "Moments_in_Time_Raw.zip", "w") as out:
        for path, content in {**files, **texts}.items():
            # A name alone would be given the time of day: other bytes each time.
            out.writestr(zipfile.ZipInfo(f"Moments_in_Time_Raw/{path}"), content)


def _tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.startswith("training/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    database = {
        name: {"subset": "training", "annotations": {"label": label}}
        for folder, label, name, _, _ in PLACED
        if folder == "training"
    }
    (root / "annotation.json").write_text(json.dumps({"database": database}), encoding="utf-8", newline="")

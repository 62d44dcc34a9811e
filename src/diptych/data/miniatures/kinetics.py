"""Tiny raw folders of Kinetics: lists and archives as they come, and folders of classes."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from diptych.data.miniatures.media import video

CLASSES = ("abseiling", "massaging person's head", "zumba")
IN_GAME = {400: "passing American football (in game)", 700: "punching person (boxing)"}
"""A class with parentheses for each of the two datasets."""
COLOURS = {
    "_4YTwq0-73Y_000044_000054": 1,
    "-bcdEFGhijk_000002_000012": 2,
    "AAAAAAAAAAA_000007_000017": 3,
    "BBBBBBBBBBB_000100_000110": 4,
    "zzzzzzzzzzz_000000_000010": 5,
    "CCCCCCCCCCC_000001_000011": 6,
    "__NrybzYzUg": 7,
    "DDDDDDDDDDD_000003_000013": 8,
}
"""Video -> its colour; no list names `zzzzzzzzzzz`."""
_GOOD = 99
"""Colour of the good copy of a damaged video."""


def make_kinetics_400(raw: Path, layout: str = "") -> None:
    """Write the raw files of `kinetics-400`, in the owners' form or in that of a layout."""
    _make(raw, layout, 400)


def make_kinetics_700(raw: Path, layout: str = "") -> None:
    """Write the raw files of `kinetics-700`, in the owners' form or in that of a layout."""
    _make(raw, layout, 700)


def _make(raw: Path, layout: str, count: int) -> None:
    if layout == "uniperceiver":
        _folders(raw / f"K{count}", count, "training", "validation", annotation=True)
    elif layout == "folders":
        _folders(raw, count, "train", "val", annotation=False)
    else:
        _owners(raw, count)


def _owners(raw: Path, count: int) -> None:
    """Write lists, one folder, and archives of which one is a plain tar in spite of its name."""
    game = IN_GAME[count]
    train = (
        ("abseiling", "_4YTwq0-73Y,44,54,train,0"),
        ('"massaging person\'s head"', "-bcdEFGhijk,2,12,train,0"),
        (game, "AAAAAAAAAAA,7,17,train,1"),
        ("zumba", "goneGONEgon,5,15,train,0"),
        ("abseiling", "BBBBBBBBBBB,100.0,110.0,train,0"),
        ("zumba", "noTIMESnoti,,,train,0"),
        ("abseiling", "_4YTwq0-73Y,44,54,train,0"),
    )
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    _text(raw / "annotations/train.csv", head + "".join(f"{label},{rest}\n" for label, rest in train))
    val = "zumba,CCCCCCCCCCC,1,11,val,0\nabseiling,__NrybzYzUg,0,10,val,0\nzumba,EEEEEEEEEEE,0,10,val,0\n"
    _text(raw / "annotations/val.csv", head + val)
    test = "youtube_id,time_start,time_end,split\nDDDDDDDDDDD,3,13,test\n"
    _text(raw / "annotations/test.csv", test)
    files = {f"{name}.mp4": video(colour, 0.5) for name, colour in COLOURS.items() if colour != 7}
    files["BBBBBBBBBBB_000100_000110.mp4"] = b"damaged"
    mkv = {"__NrybzYzUg.mkv": video(7, 0.5, container="mkv")}
    _pack(raw / "train/part_0.tar.gz", files, [1, 2])
    _pack(raw / "train/part_1.tar.gz", files, [3, 4, 5], compressed=False)
    _pack(raw / "val/part_0.tar.gz", {**files, **mkv}, [6, 7])
    (raw / "val/EEEEEEEEEEE_000000_000010.mp4").write_bytes(b"")
    (raw / "test").mkdir()
    (raw / "test/DDDDDDDDDDD_000003_000013.mp4").write_bytes(files["DDDDDDDDDDD_000003_000013.mp4"])
    good = {"BBBBBBBBBBB_000100_000110.mp4": video(_GOOD, 0.5)}
    _pack(raw / "replacement/replacement_for_corrupted_k400.tgz", good, [4])


def _pack(path: Path, files: Mapping[str, bytes], colours: list[int], *, compressed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in COLOURS if COLOURS[name] in colours]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in (f for n in wanted for f in files if f.startswith(n)):
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    # tarfile's own compression would write the time of day: other bytes each time.
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0) if compressed else packed.getvalue())


def _folders(root: Path, count: int, train: str, val: str, *, annotation: bool) -> None:
    """Write folders of classes, one of them as some copies spell it; one name is in two of them."""
    game = "".join(letter for letter in IN_GAME[count] if letter not in "()").replace(" ", "_")
    placed = (
        (train, "abseiling", "_4YTwq0-73Y_000044_000054.mp4", 1),
        (train, "abseiling", "BBBBBBBBBBB_000100_000110.mp4", 4),
        (train, "massaging_person's_head", "-bcdEFGhijk_000002_000012.mp4", 2),
        (train, game, "AAAAAAAAAAA_000007_000017.mp4", 3),
        (train, "zumba", "zzzzzzzzzzz_000000_000010.mp4", 5),
        (val, "abseiling", "__NrybzYzUg.mkv", 7),
        (val, "zumba", "CCCCCCCCCCC_000001_000011.mp4", 6),
        (val, "zumba", "AAAAAAAAAAA_000007_000017.mp4", 8),
    )
    for folder, label, name, colour in placed:
        path = root / folder / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video(colour, 0.5, container=name.rpartition(".")[2]))
    _text(root / "exclude_list.txt", "zzzzzzzzzzz_000000_000010.mp4\n")
    if not annotation:
        _text(root / train / "zumba/notes.txt", "no video\n")
        return
    subsets = {train: "training", val: "validation"}
    database: dict[str, object] = {
        name: {"subset": subsets[folder], "annotations": {"label": label}}
        for folder, label, name, colour in placed
        if colour != 4
    }
    database["goneGONEgon_000005_000015.mp4"] = {"subset": "training", "annotations": {"label": "zumba"}}
    database["strange.mp4"] = {"subset": "training"}
    _text(root / "annotation.json", json.dumps({"database": database}))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")

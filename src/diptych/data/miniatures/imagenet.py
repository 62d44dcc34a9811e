"""Tiny raw folders of ImageNet-1k and ImageNet-21k: three classes, tars in tars, labels from MATLAB."""

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from diptych.data.miniatures.media import colour, picture

HTML = b"<!DOCTYPE html><html><body>This photo is no longer available</body></html>"
TRAIN: Mapping[str, Mapping[int, int]] = {
    "n01443537": {10007: 11, 2: 12, 999: 13},
    "n01440764": {10026: 1, 18: 2},
    "n15075141": {77: 31},
}
"""WordNet id -> number of the picture -> its colour. The last class is the last of all thousand."""
VAL = {1: 101, 2: 102, 4: 104}
"""Number of the picture -> its colour; the third one is not there."""
VAL_LABELS = (999, 0, 1, 1)
TEST = {3: 203, 1: 201}
DEVKIT = {1: "n15075141", 2: "n01440764", 3: "n01443537", 1001: "n00001740"}
"""Number of the class in the development kit -> WordNet id; numbers above 1000 are no leaves."""
MORE: Mapping[str, Mapping[int, int]] = {
    "n00004475": {6590: 51, 26: 52},
    "n01440764": {10074: 53},
    "n15102894": {1: 54},
}
"""The same as `TRAIN` for ImageNet-21k."""


def make_imagenet_1k(raw: Path, layout: str = "") -> None:
    """Write the raw files of `imagenet-1k`: as they came, or Uni-Perceiver's tree."""
    if layout == "uniperceiver":
        _tree(raw / "imagenet")
        return
    raw.mkdir(parents=True, exist_ok=True)
    inner = {f"{wnid}.tar": _tar(_pictures(wnid, numbers)) for wnid, numbers in TRAIN.items()}
    (raw / "ILSVRC2012_img_train.tar").write_bytes(_tar(inner))
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": picture(colour_id) for n, colour_id in VAL.items()}
    (raw / "ILSVRC2012_img_val.tar").write_bytes(_tar(val))
    test = {f"test/ILSVRC2012_test_{n:08d}.JPEG": picture(colour_id) for n, colour_id in TEST.items()}
    (raw / "ILSVRC2012_img_test_v10102019.tar").write_bytes(_tar(test))
    data = raw / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    (data / "meta.mat").write_bytes(mat_file(DEVKIT))
    numbers = {0: 2, 1: 3, 999: 1}
    truth = "".join(f"{numbers[label]}\n" for label in VAL_LABELS)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth, encoding="utf-8", newline="")


def make_imagenet_21k(raw: Path, layout: str = "") -> None:
    """Write the raw files of `imagenet-21k`: tars and a folder of synsets, or Uni-Perceiver's tree."""
    tree = layout == "uniperceiver"
    for wnid, numbers in MORE.items():
        files = _pictures(wnid, numbers)
        if wnid == "n00004475":
            files["n00004475_7.JPEG"] = HTML
        if tree or wnid == "n15102894":
            _write(raw / "imagenet22k" if tree else raw, {f"{wnid}/{name}": c for name, c in files.items()})
        else:
            _write(raw, {f"{wnid}.tar": _tar(files)})
    if tree:
        rows = (
            "n01440764 10074 0",
            "n00004475 26 1000",
            "n15102894 1 21840",
            "n15102894 99 21840",
            "n00004475 26",
        )
        _write(raw, {"imagenet_22k_filelist_short.txt": "".join(f"{row}\n" for row in rows).encode()})


def mat_file(wnids: Mapping[int, str]) -> bytes:
    """Return a `meta.mat`: a struct array `synsets` with number, WordNet id and words of each class."""
    fields = ("ILSVRC2012_ID", "WNID", "words")
    parts = [
        _element(6, struct.pack("<II", 2, 0)),
        _element(5, struct.pack("<ii", len(wnids), 1)),
        _element(1, b"synsets"),
        _element(5, struct.pack("<i", 32), small=True),
        _element(1, b"".join(name.encode().ljust(32, b"\0") for name in fields)),
    ]
    for number, wnid in wnids.items():
        # MATLAB keeps whole numbers in the smallest type that holds them.
        parts.append(_array(6, 1, _element(4, struct.pack("<H", number), small=True)))
        parts.append(_array(4, len(wnid), _element(16, wnid.encode())))
        parts.append(_array(4, 5, _element(17, "Wörter"[:5].encode("utf-16-le"))))
    header = b"MATLAB 5.0 MAT-file, made by Diptych".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    packed = zlib.compress(_element(14, b"".join(parts)))
    other = _element(14, b"".join([*_start(6, 1, b"other"), _element(9, struct.pack("<d", 1.0))]))
    return header + other + struct.pack("<II", 15, len(packed)) + packed


def _element(kind: int, content: bytes, small: bool = False) -> bytes:
    if small:
        return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def _start(kind: int, length: int, name: bytes = b"") -> list[bytes]:
    return [
        _element(6, struct.pack("<II", kind, 0)),
        _element(5, struct.pack("<ii", 1, length)),
        _element(1, name),
    ]


def _array(kind: int, length: int, values: bytes) -> bytes:
    return _element(14, b"".join([*_start(kind, length), values]))


def _pictures(wnid: str, numbers: Mapping[int, int]) -> dict[str, bytes]:
    """Return the pictures of a class; one is a PNG all the same, one has inks for printing."""
    made = {f"{wnid}_{n}.JPEG": picture(colour_id) for n, colour_id in numbers.items()}
    if wnid == "n01443537":
        made[f"{wnid}_2.JPEG"] = picture(numbers[2], format="png")
        made[f"{wnid}_999.JPEG"] = _inks(numbers[999])
    return made


def _inks(colour_id: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), colour(colour_id)).convert("CMYK").save(file, "JPEG", quality=95)
    return file.getvalue()


def _tree(root: Path) -> None:
    for wnid, numbers in TRAIN.items():
        files = _pictures(wnid, numbers)
        _write(root, {f"train/{wnid}/{name}": content for name, content in files.items()})
    _write(root, {f"val/ILSVRC2012_val_{n:08d}.JPEG": picture(c) for n, c in VAL.items()})
    _write(root, {f"test/ILSVRC2012_test_{n:08d}.JPEG": picture(c) for n, c in TEST.items()})
    labels = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
    train = [f"{wnid}/{wnid}_{n}.JPEG {labels[wnid]}" for wnid, numbers in TRAIN.items() for n in numbers]
    train += ["n01440764/n01440764_5.JPEG 0", "n01440764/n01440764_18.JPEG"]
    train.remove("n15075141/n15075141_77.JPEG 999")  # there, but nothing says so
    val = [f"ILSVRC2012_val_{i + 1:08d}.JPEG {label}" for i, label in enumerate(VAL_LABELS)]
    test = [f"ILSVRC2012_test_{n:08d}.JPEG 0" for n in sorted(TEST)]
    for split, rows in (("train", train), ("val", val), ("test", test)):
        _write(root, {f"meta/{split}.txt": "".join(f"{row}\n" for row in rows).encode()})


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _write(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

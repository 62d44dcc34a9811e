"""A tiny raw folder of `flickr30k`, in the true form of its files.

The picture `n.jpg` has the colour `n % 4096`.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.flickr30k import JSONLINES, TOKEN
from diptych.data.miniatures.coco import as_json, unpacked, zipped
from diptych.data.miniatures.media import COLOURS, picture

BROKEN, MISSING, UNREFERENCED, UNSPLIT = 981, 10002456, 77, 555

# Name of the picture: split, captions; neither sorted nor without gaps.
_PICTURES: dict[int, tuple[str, tuple[str, ...]]] = {
    1000092795: ("train", ('Two young men, one "tall", near a café.', "  Friends enjoy\ttime together . \n")),
    36979: ("val", ("A group of friends.", "A group of people")),
    MISSING: ("train", ("Nobody sees this.",)),
    65567: ("test", ("A dog jumps.", "An animal in the air.")),
    BROKEN: ("train", ("Half a picture.",)),
    4411: ("train", ("A dog jumps.", "A brown dog leaps.")),
    UNSPLIT: ("", ("Only the token file knows it.",)),
}


def make(raw: Path, layout: str = "") -> None:
    """Write the raw folder, with all three forms of the captions.

    Args:
        raw: the folder.
        layout: empty, or `uniperceiver`.
    """
    if layout:
        nested = "/".join(["flickr30k_images"] * 3)
        unpacked(raw / "flickr30k" / nested, _photographs())
        unpacked(raw / "flickr30k", {f"captions_{split}.json": _coco_style(split) for split in JSONLINES})
        return
    images = {f"flickr30k-images/{name}": data for name, data in _photographs().items()}
    unpacked(raw, {"flickr30k-images.tar.gz": _tar_gz(images), TOKEN: _token()})
    unpacked(raw, {name: jsonline(split) for split, name in JSONLINES.items()})
    zipped(raw / "caption_datasets.zip", {"dataset_flickr30k.json": _karpathy()})


def _photographs() -> dict[str, bytes]:
    numbers = [n for n in (*_PICTURES, UNREFERENCED) if n != MISSING]
    made = {f"{n}.jpg": picture(n % COLOURS) for n in numbers}
    return made | {f"{BROKEN}.jpg": made[f"{BROKEN}.jpg"][:30]}


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def _karpathy() -> bytes:
    images: list[dict[str, Any]] = []
    for number, (split, texts) in _PICTURES.items():
        if not split:
            continue
        first = 10 * len(images)
        images.append(
            {
                "sentids": [first + i for i in range(len(texts))],
                "imgid": len(images),
                "sentences": [
                    {"tokens": text.split(), "raw": text, "imgid": len(images), "sentid": first + i}
                    for i, text in enumerate(texts)
                ],
                "split": split,
                "filename": f"{number}.jpg",
            }
        )
    return as_json({"images": images, "dataset": "flickr30k"})


def jsonline(split: str) -> bytes:
    """Return one of the ViLBERT release's files; ids are numbers or texts."""
    entries = [
        {
            "sentences": list(texts),
            "id": number if number % 2 else str(number),
            "img_path": f"{number}.jpg",
        }
        for number, (name, texts) in _PICTURES.items()
        if name == split
    ]
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def _coco_style(split: str) -> bytes:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, texts) in _PICTURES.items():
        if name == split:
            images.append({"filename": f"{number}.jpg", "id": number})
            for text in texts:
                annotations.append({"image_id": number, "id": len(annotations), "caption": text})
    return as_json({"images": images, "annotations": annotations})


def _token() -> bytes:
    """Return the token file: blanks before punctuation, the last caption of a picture first."""
    lines = [
        f"{number}.jpg#{i}\t{' '.join(text.split()).replace('.', ' .')}"
        for number, (_, texts) in _PICTURES.items()
        for i, text in reversed(list(enumerate(texts)))
    ]
    return ("\n".join(lines) + "\n").encode()

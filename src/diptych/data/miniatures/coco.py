"""Tiny raw folders of `coco-caption` and `coco-2017`, in the true form of their files.

The picture of COCO id n has the colour `n % 4096`.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import COLOURS, picture

BROKEN = 301
"""COCO id whose picture is cut off."""
MISSING = 100009
"""COCO id whose picture is not there."""
UNREFERENCED = 999
"""COCO id that no annotation names."""

# COCO id: folder of 2014, Karpathy's split, sentences; neither sorted nor without gaps.
_PICTURES: dict[int, tuple[str, str, tuple[str, ...]]] = {
    900123: ("val2014", "test", ("A kite flies.", ' a red kite, in a "blue" sky  over Zürich \n')),
    42: ("train2014", "train", ("Two dogs run.", "Dogs on a beach")),
    7: ("val2014", "restval", ("Two dogs run.", "a", "b c", "d e.", "f g h", "A sixth sentence.\n")),
    MISSING: ("train2014", "train", ("Nobody sees this.", "Nor this.")),
    581929: ("val2014", "val", ("A clock tower.",)),
    BROKEN: ("train2014", "train", ("Half a picture.",)),
    25: ("train2014", "train", ("A giraffe eats.", "A tall animal")),
    8: ("val2014", "restval", ("A bus.",)),
}
_SIZES = {42: (32, 24), 7: (24, 32)}
_LARGE = (28, 28)


def coco_picture(number: int) -> bytes:
    """Return the picture of a COCO id."""
    data = picture(number % COLOURS, _SIZES.get(number, _LARGE))
    return data[:40] if number == BROKEN else data


def name_2014(folder: str, number: int) -> str:
    """Return the name of a file of 2014 or 2015 (`test2015`)."""
    return f"COCO_{folder}_{number:012d}.jpg"


def zipped(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a zip archive with stored members; the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def unpacked(folder: Path, members: Mapping[str, bytes]) -> None:
    """Write files below a folder."""
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


def make_caption(raw: Path, layout: str = "") -> None:
    """Write the raw folder of `coco-caption`.

    Args:
        raw: the folder.
        layout: empty, or `uniperceiver`.
    """
    if layout:
        unpacked(raw / "mscoco_dataset" / "new_annotations", _caption_lists())
        origin = raw / "mscoco_dataset" / "coco_origin"
        # Their zips are made inside the folder of the pictures: members have no folder.
        zipped(origin / "train2014.zip", photographs("train2014"))
        unpacked(origin / "val2014", photographs("val2014"))
        return
    zipped(raw / "caption_datasets.zip", {"dataset_coco.json": karpathy_json()})
    train = {f"train2014/{name}": data for name, data in photographs("train2014").items()}
    zipped(raw / "train2014.zip", {"train2014/": b"", **train})
    unpacked(raw / "val2014", photographs("val2014"))


def photographs(folder: str) -> dict[str, bytes]:
    """Return name and content of the pictures of train2014 or val2014; one is missing, one superfluous."""
    numbers = [n for n, (place, *_) in _PICTURES.items() if place == folder and n != MISSING]
    numbers += [UNREFERENCED] if folder == "train2014" else []
    return {name_2014(folder, number): coco_picture(number) for number in numbers}


def karpathy_json() -> bytes:
    """Return `dataset_coco.json`."""
    images, sentence_id = [], 800_000
    for position, (number, (folder, split, texts)) in enumerate(_PICTURES.items()):
        ids = [sentence_id + 3 * i for i in range(len(texts))]
        sentence_id -= 1000  # later pictures have lower ids
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": position, "sentid": i}
            for text, i in zip(texts, ids, strict=True)
        ]
        images.append(
            {
                "filepath": folder,
                "sentids": ids,
                "filename": name_2014(folder, number),
                "imgid": position,
                "split": split,
                "sentences": sentences,
                "cocoid": number,
            }
        )
    return as_json({"images": images, "dataset": "coco"})


def _caption_lists() -> dict[str, bytes]:
    """Return the three files that Uni-Perceiver's converter makes of Karpathy's."""
    lists = {"train": "captions_train113k", "val": "captions_val5k", "test": "captions_test5k"}
    images: dict[str, list[Any]] = {split: [] for split in lists}
    annotations: dict[str, list[Any]] = {split: [] for split in lists}
    for entry in json.loads(karpathy_json())["images"]:
        split = "train" if entry["split"] == "restval" else entry["split"]
        images[split].append(
            {"file_name": entry["filename"], "file_path": entry["filepath"], "id": entry["cocoid"]}
        )
        annotations[split] += [
            {"image_id": entry["cocoid"], "id": s["sentid"], "caption": s["raw"]} for s in entry["sentences"]
        ]
    return {
        f"{name}.json": as_json({"images": images[split], "annotations": annotations[split][::-1]})
        for split, name in lists.items()
    }


# COCO id in 2017: split, captions, boxes (category, box, crowd).
_OF_2017: dict[int, tuple[str, tuple[str, ...], tuple[tuple[int, list[float], int], ...]]] = {
    900123: (
        "train",
        ("A kite flies.", ' a red kite, in a "blue" sky  over Zürich \n'),
        ((38, [1.5, 2.0, 10.25, 4.0], 0), (1, [0.0, 0.0, 28.4, 3.0], 0)),
    ),
    42: ("train", ("Two dogs run.", "Dogs on a beach"), ((18, [3.0, 3.0, 9.0, 8.0], 0),) * 2),
    25: ("train", ("A giraffe eats.",), ()),
    MISSING: ("train", ("Nobody sees this.",), ((1, [0.0, 0.0, 4.0, 4.0], 0),)),
    BROKEN: ("train", ("Half a picture.",), ()),
    7: ("val", ("Two dogs run.",), ((18, [5.0, 5.0, 0.0, 6.0], 0), (1, [0.0, 0.0, 24.0, 9.0], 1))),
    581929: ("val", ("A clock tower.", "A tower"), ((85, [2.0, 1.0, 4.0, 4.0], 0),)),
}
_TEST_2017 = (4001, 1201)
_CATEGORIES = (
    (1, "person", "person"),
    (18, "dog", "animal"),
    (38, "kite", "sports"),
    (85, "clock", "indoor"),
)
_LICENCES = ((4, "Attribution License"), (1, "Attribution-NonCommercial-ShareAlike License"))


def make_2017(raw: Path, layout: str = "") -> None:
    """Write the raw folder of `coco-2017`; there is no other `layout`."""
    splits = ("train", "val")
    annotations = {
        f"annotations/{kind}_{split}2017.json": as_json(make(split))
        for split in splits
        for kind, make in (("captions", _captions_2017), ("instances", _instances_2017))
    }
    zipped(raw / "annotations_trainval2017.zip", annotations)
    test = as_json({**_head(), "images": [_image_2017(n) for n in _TEST_2017], "categories": _categories()})
    zipped(raw / "image_info_test2017.zip", {"annotations/image_info_test2017.json": test})
    for split in splits:
        names = [n for n in _OF_2017 if _OF_2017[n][0] == split and n != MISSING]
        names += [UNREFERENCED] if split == "train" else []
        pictures = {f"{split}2017/{n:012d}.jpg": coco_picture(n) for n in names}
        if split == "train":
            zipped(raw / "train2017.zip", pictures)
        else:
            unpacked(raw, pictures)
    zipped(raw / "test2017.zip", {f"test2017/{n:012d}.jpg": coco_picture(n) for n in _TEST_2017})
    # So that the pictures know which of Karpathy's splits they are in.
    unpacked(raw, {"dataset_coco.json": karpathy_json()})


def _head() -> dict[str, Any]:
    return {
        "info": {"description": "made up", "url": "", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://example.org", "id": n, "name": name} for n, name in _LICENCES],
    }


def _image_2017(number: int) -> dict[str, Any]:
    width, height = _SIZES.get(number, _LARGE)
    return {
        "license": _LICENCES[number % 2][0],
        "file_name": f"{number:012d}.jpg",
        "coco_url": f"http://images.example.org/{number:012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": f"http://farm.example.org/{number}_z.jpg",
        "id": number,
    }


def _images_2017(split: str) -> list[dict[str, Any]]:
    return [_image_2017(number) for number, entry in _OF_2017.items() if entry[0] == split]


def _captions_2017(split: str) -> dict[str, Any]:
    pairs = [(n, text) for n, entry in _OF_2017.items() if entry[0] == split for text in entry[1]]
    annotations = [{"image_id": n, "id": 70_000 + i, "caption": text} for i, (n, text) in enumerate(pairs)]
    # Neither grouped by picture nor in the order of their ids.
    return {**_head(), "images": _images_2017(split), "annotations": annotations[::2] + annotations[1::2]}


def _instances_2017(split: str) -> dict[str, Any]:
    boxes = [(n, *box) for n, entry in _OF_2017.items() if entry[0] == split for box in entry[2]]
    annotations = [
        {
            "segmentation": _crowd() if crowd else [[0.0, 0.0, 5.0, 0.0, 5.0, 5.0]],
            "area": box[2] * box[3],
            "iscrowd": crowd,
            "image_id": number,
            "bbox": box,
            "category_id": category,
            "id": 5000 - i,
        }
        for i, (number, category, box, crowd) in enumerate(boxes)
    ]
    annotations.append({**annotations[0], "category_id": 12, "id": 1})  # 12 is one of the gaps
    return {
        **_head(),
        "images": _images_2017(split),
        "annotations": annotations,
        "categories": _categories(),
    }


def _crowd() -> dict[str, Any]:
    return {"counts": [0, 90, 678], "size": [32, 24]}


def _categories() -> list[dict[str, Any]]:
    return [{"supercategory": above, "id": n, "name": name} for n, name, above in _CATEGORIES]

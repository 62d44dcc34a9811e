"""A tiny raw folder of `visual-genome`, in the true form of its files.

Picture n has the colour `n % 4096`. Boxes are those of large pictures: nothing compares them with the files.
"""

from pathlib import Path
from typing import Any

from diptych.data.miniatures.coco import as_json, karpathy_json, unpacked, zipped
from diptych.data.miniatures.media import COLOURS, picture

BROKEN, MISSING, UNREFERENCED = 4, 15, 99

_Region = tuple[str, int, int, int, int]
"""Phrase, x, y, width, height."""

# Picture: folder, COCO id, regions; neither sorted nor without gaps.
_PICTURES: dict[int, tuple[str, int | None, tuple[_Region, ...]]] = {
    2: (
        "VG_100K",
        None,
        (
            ("a lit sign", 46, 19, 140, 120),
            ("too small", 0, 0, 127, 128),
            (' a "red"  café,\nopen ', -3, -1, 128, 128),
            ("a lit sign", 40, 10, 200, 200),
            ("no height", 5, 5, 500, 0),
        ),
    ),
    1: ("VG_100K_2", 900123, (("flat", 0, 300, 1000, 17), ("  ", 0, 0, 400, 400), ("sky", 0, 0, 800, 90))),
    10: ("VG_100K_2", 42, (("a small bench", 9, 9, 20, 30),)),
    MISSING: ("VG_100K", None, (("nobody sees this", 0, 0, 300, 300),)),
    BROKEN: ("VG_100K", None, (("half a picture", 0, 0, 300, 300),)),
    2415000: ("VG_100K_2", None, (("a lit sign", 1, 1, 300, 300),)),
}
_QUESTIONS = (
    (10, 700002, "Where is he?", "On the bench."),
    (2, 700001, "What is lit?", " The  sign.\n"),
    (2, 700009, "Who?", None),
)
_LARGE_ENOUGH = 128 * 128


def make(raw: Path, layout: str = "") -> None:
    """Write the raw folder.

    Args:
        raw: the folder.
        layout: empty, or `uniperceiver`.
    """
    if layout:
        annotations = {"region_descriptions.json": _regions(), "vg_captions_128filter.json": _filtered()}
        unpacked(raw / "visual_genome" / "annotations", annotations)
        for folder in ("VG_100K", "VG_100K_2"):
            unpacked(raw / "visual_genome" / "images" / folder, _photographs(folder))
        return
    for name, folder in (("images.zip", "VG_100K"), ("images2.zip", "VG_100K_2")):
        zipped(raw / name, {f"{folder}/{file}": data for file, data in _photographs(folder).items()})
    zipped(raw / "region_descriptions.json.zip", {"region_descriptions.json": _regions()})
    files = {"image_data.json": _image_data(), "question_answers.json": _question_answers()}
    unpacked(raw, {**files, "dataset_coco.json": karpathy_json()})


def _photographs(folder: str) -> dict[str, bytes]:
    numbers = [n for n, (place, *_) in _PICTURES.items() if place == folder and n != MISSING]
    made = {f"{n}.jpg": picture(n % COLOURS) for n in numbers}
    if folder == "VG_100K":
        made |= {f"{UNREFERENCED}.jpg": picture(UNREFERENCED), f"{BROKEN}.jpg": picture(BROKEN)[:30]}
    return made


def _regions() -> bytes:
    entries, region_id = [], 700_000
    for number, (_, _, regions) in _PICTURES.items():
        made: list[dict[str, Any]] = []
        for phrase, x, y, width, height in regions:
            region_id -= 7
            made.append(
                {
                    "region_id": region_id,
                    "width": width,
                    "height": height,
                    "image_id": number,
                    "phrase": phrase,
                    "y": y,
                    "x": x,
                }
            )
        entries.append({"regions": made, "id": number})
    return as_json(entries)


def _filtered() -> bytes:
    """Return what Uni-Perceiver's converter makes of the regions; its phrases are in no order."""
    phrases = {
        str(number): sorted({r[0] for r in regions if r[3] * r[4] >= _LARGE_ENOUGH}, reverse=True)
        for number, (_, _, regions) in _PICTURES.items()
    }
    kept = {number: texts for number, texts in phrases.items() if texts}
    subset = {number: f"{_PICTURES[int(number)][0]}/{number}.jpg" for number in kept}
    return as_json({"phrase": kept, "subset": subset})


def _image_data() -> bytes:
    entries = [
        {
            "width": 800,
            "url": f"https://example.org/{folder}/{number}.jpg",
            "height": 600,
            "image_id": number,
            "coco_id": coco_id,
            "flickr_id": None,
        }
        for number, (folder, coco_id, _) in sorted(_PICTURES.items())
    ]
    return as_json(entries)


def _question_answers() -> bytes:
    entries = []
    for number in dict.fromkeys(image for image, *_ in _QUESTIONS):
        pairs = [
            {
                "a_objects": [],
                "question": question,
                "image_id": image,
                "qa_id": qa_id,
                **({} if answer is None else {"answer": answer}),
                "q_objects": [],
            }
            for image, qa_id, question, answer in _QUESTIONS
            if image == number
        ]
        entries.append({"id": number, "qas": pairs})
    return as_json(entries)

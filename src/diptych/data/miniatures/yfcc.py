"""Miniature of YFCC15M: metadata of seven photos and a video, a subset of six."""

import bz2
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from diptych.data.miniatures.media import picture
from diptych.data.miniatures.url_sets import Row, image_shard, put

CC_BY = ("Attribution License", "http://creativecommons.org/licenses/by/2.0/")
CC_NC = ("Attribution-NonCommercial License", "http://creativecommons.org/licenses/by-nc/2.0/")

PHOTOS: list[tuple[str, str, str, tuple[str, str]]] = [
    (
        "6985418911",
        ' The "old" harbour, Málaga ',
        "Taken at dawn.\nSee <a href='http://x.example'>more</a> &amp; rest",
        CC_BY,
    ),
    ("1000000003", "IMG_0520", "", CC_NC),
    ("2000000005", "", "a kite\x07 + a dog 100%", CC_BY),
    ("0000000042", "", "", CC_BY),
    ("9999999999", "not of the subset", "x", CC_BY),
    ("3000000001", "a video", "moving", CC_NC),
    ("4000000001", "gone", "not fetched", CC_BY),
    ("5000000001", "IMG_0520", "IMG_0520", CC_NC),
]
"""Photo id, title, description, licence; in the order of the metadata."""
SUBSET_IDS = (
    "5000000001",
    "6985418911",
    "1000000003",
    "2000000005",
    "0000000042",
    "3000000001",
    "4000000001",
)


def hash_of(photo: str) -> str:
    """Return the hash that the lists have for a photo."""
    return hashlib.md5(photo.encode(), usedforsecurity=False).hexdigest()


def _address(photo: str) -> str:
    return f"http://farm3.staticflickr.example/2105/{photo}_{hash_of(photo)[:10]}.jpg"


def _columns(number: int, newer: bool) -> list[str]:
    photo, title, description, (licence, address) = PHOTOS[number]
    texts = [quote_plus(title), quote_plus(description)]
    first = [str(1000 + number), photo, hash_of(photo)] if newer else [photo]
    rest = [
        *(
            "33952180@N03",
            quote_plus("Anna K."),
            "2011-07-19 12:00:00.0",
            "1313000000",
            "Canon+PowerShot+ELPH+310+HS",
        ),
        *(*texts, "sea%2C+boat,harbour", "", "-4.42", "36.72", "12"),
        *(f"http://www.flickr.example/photos/33952180@N03/{photo}/", _address(photo)),
        *(quote_plus(licence), address, "6085", "7", hash_of(photo)[:10], hash_of(photo)[10:20], "jpg"),
        "1" if title == "a video" else "0",
    ]
    return [*first, *rest]


def make_yfcc15m(raw: Path, layout: str = "") -> None:
    """Write YFCC15M; the photos have the colours 400, 401, ... in the order of the metadata."""
    if layout == "fetched":
        _fetched(raw)
    elif layout == "uniperceiver":
        _tree(raw / "yfcc")
    else:
        _lists(raw)
        for number, (photo, title, *_) in enumerate(PHOTOS):
            name = hash_of(photo)
            if title not in ("gone", "a video"):
                # One lies flat under its id, as many fetched them.
                place = f"{photo}.jpg" if number == 1 else f"{name[:3]}/{name[3:6]}/{name}.jpg"
                put(raw / "images" / place, picture(400 + number))


def _lists(raw: Path) -> None:
    numbers = {photo: 1000 + i for i, (photo, *_) in enumerate(PHOTOS)}
    subset = "".join(f"{numbers[photo]}\t{photo}\t{hash_of(photo)}\n" for photo in SUBSET_IDS)
    put(raw / "yfcc100m_subset_data.tsv.bz2", bz2.compress(subset.encode()))
    # Two parts: one of the first release, one of the later; and a line that broke.
    older = ["\t".join(_columns(i, newer=False)) for i in range(4)]
    newer = ["\t".join(_columns(i, newer=True)) for i in range(4, len(PHOTOS))]
    put(
        raw / "yfcc100m_dataset-0.bz2",
        bz2.compress("".join(f"{line}\n" for line in [*older, "1\tbroken"]).encode()),
    )
    put(raw / "yfcc100m_dataset-1.bz2", bz2.compress("".join(f"{line}\n" for line in newer).encode()))


def _fetched(raw: Path) -> None:
    rows = []
    for number, (photo, title, description, (licence, address)) in enumerate(PHOTOS[:4]):
        more: dict[str, Any] = {
            "id": photo,
            "title": title.strip(),
            "description": description,
            "licence": licence,
        }
        more["licence_url"] = address
        rows.append(Row(f"{number:09d}", _address(photo), title.strip(), picture(400 + number), more=more))
    image_shard(raw / "00000.tar", rows)


def _tree(folder: Path) -> None:
    lines = []
    for number, (photo, title, description, _) in enumerate(PHOTOS[:4]):
        name = f"images/{hash_of(photo)}.jpg"
        entry = {"image": name, "caption": description or title, "title": title, "description": description}
        lines.append(json.dumps(entry))
        put(folder / name, picture(400 + number))
    lines.append(json.dumps({"image": "images/gone.jpg", "caption": "x", "title": "x", "description": ""}))
    put(folder / "yfcc100m_subset_available_untokenized.json", "\n".join(lines) + "\n")

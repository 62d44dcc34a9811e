"""Miniatures of the sets of addresses with pictures: CC3M, CC12M, SBU; and what download tools write."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.miniatures.media import picture

HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>gone</body></html>"


@dataclass(frozen=True)
class Row:
    """A row that a download tool worked on."""

    key: str
    url: str
    caption: str
    medium: bytes | None = None
    """None: it failed."""
    error: str = "HTTP Error 404: Not Found"
    extension: str = "jpg"
    more: Mapping[str, Any] = field(default_factory=dict)
    """Additional columns of the list."""

    def side(self) -> dict[str, Any]:
        """Return the JSON beside the medium, with the keys of the tools."""
        ok = self.medium is not None
        return {
            **self.more,
            "caption": self.caption,
            "url": self.url,
            "key": self.key,
            "status": "success" if ok else "failed_to_download",
            "error_message": None if ok else self.error,
        }


def image_shard(path: Path, rows: Iterable[Row]) -> None:
    """Write a shard as img2dataset does: a tar of what succeeded (in the order in which it arrived: the last
    row first), a Parquet file about all rows, and statistics.
    """
    rows = list(rows)
    arrived = [row for row in reversed(rows) if row.medium is not None]
    entries: list[tuple[str, bytes]] = []
    for row in arrived:
        about = row.side() | {
            "width": 32,
            "height": 24,
            "original_width": 640,
            "original_height": 480,
            "exif": "{}",
            "sha256": "00",
        }
        entries += [
            (f"{row.key}.{row.extension}", row.medium or b""),
            (f"{row.key}.txt", row.caption.encode()),
            (f"{row.key}.json", json.dumps(about, indent=4).encode()),
        ]
    write_tar(path, entries)
    columns = ("caption", "url", "key", "status", "error_message")
    pq.write_table(
        pa.Table.from_pylist([{n: row.side()[n] for n in columns} for row in rows]),
        path.with_suffix(".parquet"),
    )
    stats = {"count": len(rows), "successes": len(arrived), "failed_to_download": len(rows) - len(arrived)}
    path.with_name(f"{path.stem}_stats.json").write_text(json.dumps(stats))


def write_tar(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def put(path: Path, data: bytes | str) -> None:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


SAID = '"look , an éclair" said   somebody .'
"""A caption with a comma, quotes, a letter outside ASCII and blanks too many."""


def arrow_files(raw: Path, card: str, captions: list[str], first: int, urls: bool = True) -> None:
    """Write EVE's Arrow files: two record batches in the first, the tenth before the second by name.

    Row 2 has no picture, the last row two captions.
    """
    raw.mkdir(parents=True, exist_ok=True)
    fields = [("image", pa.binary()), ("caption", pa.list_(pa.string()))]
    schema = pa.schema([*fields, *([("image_id", pa.string())] if urls else [])])
    rows = [
        {
            "image": None if i == 2 else picture(first + i),
            "caption": [caption, "more"] if i == len(captions) - 1 else [caption],
            "image_id": _url(first + i),
        }
        for i, caption in enumerate(captions)
    ]
    # By name, 10 would come before 2.
    for number, batches in ((2, (rows[:2], rows[2:4])), (10, (rows[4:],))):
        with (
            pa.OSFile(str(raw / f"{card}_{number}.arrow"), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            for batch in batches:
                writer.write_table(pa.Table.from_pylist(batch, schema))


CC3M_TRAIN = [
    "a dog runs on the beach .",
    f" {SAID} ",
    "the dead link",
    "actor arrives at the premiere",
    "a dog runs on the beach .",
    "no picture but a page",
    "a person's flag\twith a tab",
]
CC3M_VAL = ["a kite in the sky", "a second kite"]


def make_cc3m(raw: Path, layout: str = "") -> None:
    """Write CC3M: seven rows for training (one has no picture, one a page in its place), two for "
    "validation."""
    if layout == "fetched":
        _cc3m_fetched(raw)
        return
    if layout == "arrow":
        arrow_files(raw, "cc3m", CC3M_TRAIN, 0)
        return
    if layout == "uniperceiver":
        _cc_tree(raw / "cc3m", "train_spacy.json", "train", CC3M_TRAIN)
        _cc_tree(raw / "cc3m", "val_spacy.json", "val", CC3M_VAL, first=100)
        return
    lines = [f"{caption}\t{_url(i)}" for i, caption in enumerate(CC3M_TRAIN)]
    # An empty line counts; the last one has no end.
    put(raw / "Train_GCC-training.tsv", "\n".join([*lines[:4], "", *lines[4:]]))
    put(
        raw / "Validation_GCC-1.1.0-Validation.tsv",
        "".join(f"{c}\t{_url(100 + i)}\n" for i, c in enumerate(CC3M_VAL)),
    )
    # Everything is called .jpg, whatever came.
    for line, colour, form in ((0, 0, "jpg"), (1, 1, "webp"), (3, 3, "gif"), (5, 4, "jpg"), (7, 6, "jpg")):
        put(raw / f"train_image/{line:08d}.jpg", picture(colour, format=form))
    put(raw / "train_image/00000090.jpg", picture(90))
    put(raw / "train_image/00000006.jpg", HTML)
    for line in range(len(CC3M_VAL)):
        put(raw / f"val_image/{line:08d}.jpg", picture(100 + line))


def _url(number: int) -> str:
    return f"http://host{number % 3}.example/pictures/{number}.jpg?w=640,h=480"


def _cc3m_fetched(raw: Path) -> None:
    """The form of `pixparse/cc3m-wds`, and the failures as img2dataset reports them."""
    train = [
        Row(f"{i:09d}", _url(i), caption, None if i == 2 else HTML if i == 5 else picture(i))
        for i, caption in enumerate(CC3M_TRAIN)
    ]
    image_shard(raw / "cc3m-train-0000.tar", train[:4])
    image_shard(raw / "cc3m-train-0001.tar", train[4:])
    image_shard(
        raw / "cc3m-validation-0000.tar",
        [Row(f"{i:09d}", _url(100 + i), caption, picture(100 + i)) for i, caption in enumerate(CC3M_VAL)],
    )


def _cc_tree(folder: Path, name: str, split: str, captions: list[str], first: int = 0) -> None:
    """Uni-Perceiver's JSON lines (named .json): the caption as words, or as one text."""
    lines = []
    for i, caption in enumerate(captions):
        words: Any = caption.split(" ") if i != 1 else caption
        lines.append(json.dumps({"image": f"{split}_image.zip@/{i:08d}.jpg", "caption": words}))
        if i != 2:
            put(folder / f"{split}_image/{i:08d}.jpg", picture(first + i))
    put(folder / f"{split}_image/00000090.jpg", picture(90))
    put(folder / name, "\n".join(lines) + "\n")


CC12M = [
    "A Dog Runs &amp; Jumps",
    '<PERSON> said "hello, café"  ',
    "the dead link",
    "http://looks.example/like-an-address",
    "A Dog Runs &amp; Jumps",
]


def make_cc12m(raw: Path, layout: str = "") -> None:
    """Write CC12M: five rows, address first; one has no picture."""
    if layout == "arrow":
        arrow_files(raw, "cc12m", CC12M, 200)
        return
    if layout == "fetched":
        rows = [
            Row(
                f"{i:09d}",
                _url(200 + i),
                caption,
                None if i == 2 else picture(200 + i),
                more={"id": f"train_{i:08d}"},
            )
            for i, caption in enumerate(CC12M)
        ]
        # The form "files": a folder for each shard.
        image_shard(raw / "00000.tar", rows)
        with tarfile.open(raw / "00000.tar") as tar:
            tar.extractall(raw / "00000", filter="data")
        (raw / "00000.tar").unlink()
        return
    if layout == "uniperceiver":
        _cc_tree(raw / "c12m", "train_available.json", "train", CC12M, first=200)
        return
    put(raw / "cc12m.tsv", "".join(f"{_url(200 + i)}\t{caption}\n" for i, caption in enumerate(CC12M)))
    for i in (0, 1, 3, 4, 90):
        put(raw / f"train_image/{i:08d}.jpg", picture(200 + i))


SBU = [
    ("4385058960_b0f291553e", "A boat, “moored” on the lake "),
    ("2034112233_00aa11bb22", "my café &amp; I :-)\tin May "),
    ("1000000001_0123456789", "gone for ever "),
    ("0900000009_9876543210", "A boat, “moored” on the lake "),
    ("4385058960_b0f291553e", "the later caption of the first photo "),
    ("0500000005_aaaaaaaaaa", "not fetched "),
    *((f"07{i:08d}_cccccccccc", f"gone as well {i} ") for i in range(9)),
]


def make_sbu(raw: Path, layout: str = "") -> None:
    """Write SBU: fifteen rows; ten photos are the host's picture for photos that are gone."""
    if layout == "arrow":
        arrow_files(raw, "sbu", [caption for _, caption in SBU], 300, urls=False)
        return
    colours = {name: 300 + i for i, (name, _) in reversed(list(enumerate(SBU)))}
    gone = picture(999, (20, 10), "gif")
    photos = {
        f"{name}.jpg": gone if "gone" in caption else picture(colours[name])
        for name, caption in SBU
        if "not fetched" not in caption
    }
    if layout == "fetched":
        rows = [
            Row(f"{i:09d}", _flickr(name), caption, photos.get(f"{name}.jpg"))
            for i, (name, caption) in enumerate(SBU)
        ]
        image_shard(raw / "00000.tar", [*rows[:4], *rows[5:]])
        return
    folder = raw / "sbucaption/images" if layout == "uniperceiver" else raw / "images"
    for file, data in {**photos, "0000000000_unknown000.jpg": picture(998)}.items():
        put(folder / file, data)
    if layout == "uniperceiver":
        captions = {f"{name}.jpg": caption.strip() for name, caption in SBU}
        put(raw / "sbucaption/annotations/subcaption.json", json.dumps(captions))
        return
    lists = raw / "dataset/SBU_captioned_photo_dataset"
    put(lists.with_name(f"{lists.name}_urls.txt"), "".join(f"{_flickr(name)}\n" for name, _ in SBU))
    put(lists.with_name(f"{lists.name}_captions.txt"), "".join(f"{caption}\n" for _, caption in SBU))


def _flickr(name: str) -> str:
    return f"http://static.flickr.com/{name[:4]}/{name}.jpg"

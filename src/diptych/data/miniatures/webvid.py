"""Miniature of WebVid: CSV lists, a video for most rows, what video2dataset writes."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from diptych.data.miniatures.media import video
from diptych.data.miniatures.url_sets import HTML, Row, put, write_tar

COLUMNS = ("videoid", "name", "page_idx", "page_dir", "duration", "contentUrl")
TRAIN = [
    ("1066674784", 'Horse running, in "slow motion"\nat dawn  ', "PT00H00M09S"),
    ("21179416", "Über den Wolken", "PT00H01M02S"),
    ("7730000", "aerial of a coast", "PT00H00M18S"),
    ("3000001", "not fetched", "PT00H00M10S"),
    ("555", "also for validation", "PT00H00M10S"),
    ("900009", "the page that says 403", "PT00H00M10S"),
]
VAL = [("555", "also for validation", "PT00H00M10S"), ("12", "aerial of a coast", "PT01H00M00S")]
BROKEN = "77,a line end that\nwas never quoted,1,000001_000050,PT00H00M05S,http://v.example/77.mp4\n"


def page_of(number: str) -> str:
    """Return the folder of a video."""
    first = int(number) % 100_000 // 50 * 50 + 1
    return f"{first:06d}_{first + 49:06d}"


def _csv(rows: Iterable[tuple[str, str, str]], columns: tuple[str, ...] = COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for i, (number, name, duration) in enumerate(rows):
        writer.writerow(
            {
                "videoid": number,
                "name": name,
                "page_idx": str(i),
                "page_dir": page_of(number),
                "duration": duration,
                "contentUrl": _address(number),
            }
        )
    return out.getvalue()


def _address(number: str) -> str:
    return f"https://stock.example/shutter%20stock/{number}/preview/stock-footage-{number}.mp4"


def _colours() -> dict[str, int]:
    return {number: 500 + i for i, (number, *_) in enumerate([*TRAIN, VAL[1]])}


def make_webvid(raw: Path, layout: str = "") -> None:
    """Write WebVid; the videos have the colours 500, 501, ... in the order of the lists, half a second "
    "each."""
    videos = {n: video(c, 0.5) for n, c in _colours().items() if n not in ("3000001", "900009")}
    if layout == "fetched":
        _shard(raw / "train/00000.tar", TRAIN, videos)
        _shard(raw / "val/00000.tar", VAL, videos)
        return
    root = raw / "webvid" if layout == "snps3" else raw
    for number, data in {**videos, "900009": HTML, "888": video(599, 0.5)}.items():
        put(root / f"videos/{page_of(number)}/{number}.mp4", data)
    if layout == "snps3":
        for split, rows in (("train", [*TRAIN[:4], TRAIN[5]]), ("val", VAL)):
            lines = [
                json.dumps(
                    {
                        "clip_name": f"{page_of(n)}/{n}.mp4",
                        "caption": name,
                        "type": "video",
                        "start": None,
                        "end": None,
                    }
                )
                for n, name, _ in rows
            ]
            put(root / f"annotations/{split}.jsonl", "\n".join(lines) + "\n")
        return
    put(raw / "results_2M_train.csv", _csv(TRAIN) + BROKEN)
    put(raw / "results_2M_val.csv", _csv(VAL))


def make_parts(raw: Path) -> None:
    """Write the lists as the copy on the hub has them: in parts, columns in another order, no `page_idx`."""
    columns = ("videoid", "contentUrl", "duration", "page_dir", "name")
    for split, number, rows in (("train", 0, TRAIN[:3]), ("train", 1, TRAIN[3:]), ("val", 0, VAL)):
        put(raw / f"data/{split}/partitions/{number:04d}.csv", _csv(rows, columns))


def _shard(path: Path, rows: list[tuple[str, str, str]], videos: dict[str, bytes]) -> None:
    """As video2dataset writes it: rows that failed are lone JSON files, pages are stored as videos."""
    entries: list[tuple[str, bytes]] = []
    for i, (number, name, duration) in enumerate(rows):
        data = HTML if number == "900009" else videos.get(number)
        more = {"videoid": int(number), "page_dir": page_of(number), "duration": duration}
        row = Row(f"{i:08d}", _address(number), name, data, more=more)
        about = row.side() | {"yt_meta_dict": None}
        if data is not None:
            entries += [(f"{row.key}.mp4", data), (f"{row.key}.txt", name.encode())]
        entries.append((f"{row.key}.json", json.dumps(about, indent=4).encode()))
    write_tar(path, entries)

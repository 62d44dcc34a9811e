"""The lists of clips: WebVid (CSV), InternVid (JSON lines), DiDeMo (JSON)."""

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from diptych.data.members import clean_key
from diptych.data.raw.listed import Listed, finite, first_of, need, open_text, squeeze
from diptych.data.raw.tables import comma_separated, json_items, lines

WEBVID = {size: (f"results_{size}_train.csv", f"results_{size}_val.csv") for size in ("2M", "10M")}
WEBVID_PARTS = ("data/train/partitions/*.csv", "data/val/partitions/*.csv")
"""The copy on the hub comes in parts."""
HELD_OUT = "in the validation part"
"""What rows of WebVid's training part are counted under that are in the other part, too."""
INTERNVID = ("InternVid-10M-flt.jsonl", "caption.jsonl")
DIDEMO = {"train": "train_data.json", "val": "val_data.json", "test": "test_data.json"}
DIDEMO_SECONDS = 30.0
"""What was shown to the annotators: the start of each video."""
CHUNK_SECONDS = 5.0
"""Times of DiDeMo count pieces of this length."""

_ISO = re.compile(r"PT(\d{2,4})H(\d{2})M(\d{2})S", re.ASCII)
_CLOCK = re.compile(r"(\d{2,4}):([0-5]\d):([0-5]\d)(?:\.(\d{1,3}))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}")
_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")


def iso_seconds(text: str) -> float | None:
    """Return the seconds of a duration like `PT00H00M09S`, None if it is written in another way."""
    found = _ISO.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds = (int(part) for part in found.groups())
    return float(hours * 3600 + minutes * 60 + seconds) if minutes < 60 and seconds < 60 else None


def clock_ms(text: object) -> int | None:
    """Return the milliseconds of a time like `00:03:10.567`, None if it is written in another way."""
    found = _CLOCK.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        return None
    hours, minutes, seconds, rest = found.groups()
    return (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1000 + int((rest or "0").ljust(3, "0"))


def webvid(raw: Path, size: str = "") -> Iterator[Listed]:
    """Yield the rows of WebVid, train then val; what both have is for validation only.

    Args:
        raw: folder with the lists.
        size: `2M` or `10M`; empty: the larger one that is there.

    Raises:
        DataError: there is no list, or it lacks a column.
    """
    lists = webvid_files(raw, size)
    held_out = {
        row.id for path in lists.get("val", ()) for row in _webvid_rows(path, "val") if not row.problem
    }
    for split, files in lists.items():
        for row in chain.from_iterable(_webvid_rows(path, split) for path in files):
            if split == "train" and row.id in held_out:
                yield replace(row, problem="it is in the validation part, too", cause=HELD_OUT)
            else:
                yield row


def webvid_file(path: Path) -> Iterator[Listed]:
    """Yield the rows of one list of WebVid; `val` in its name (or that of its folder) tells the split.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    words = re.split(r"[^a-z]+", "/".join(path.parts[-3:]).lower())
    return _webvid_rows(path, "val" if {"val", "validation"} & set(words) else "train")


def webvid_files(raw: Path, size: str = "") -> dict[str, list[Path]]:
    """Return split -> its lists; of the size, or of the larger one that is there.

    Raises:
        DataError: there is none.
    """
    for wanted in (size,) if size else ("10M", "2M"):
        found = [first_of(raw, name, f"{name}.gz") for name in WEBVID[wanted]]
        if wanted == "10M" and found[0] is not None and found[1] is None:
            # Both sizes share their validation part.
            found[1] = first_of(raw, WEBVID["2M"][1])
        if any(found):
            return {s: [f] for s, f in zip(("train", "val"), found, strict=True) if f is not None}
    parts = [sorted(raw.glob(pattern)) for pattern in WEBVID_PARTS]
    if not any(parts):
        need(raw, "webvid", *(WEBVID[size] if size else (WEBVID["2M"][0], WEBVID["10M"][0])))
    return {"train": parts[0], "val": parts[1]}


def _webvid_rows(path: Path, split: str) -> Iterator[Listed]:
    with open_text(path) as stream:
        needs = ("videoid", "contentUrl", "page_dir", "name")
        for number, record in enumerate(comma_separated(stream, needs=needs)):
            yield _webvid_row(record, split, f"{path.name}, record {number + 1}")


def _webvid_row(record: Mapping[str, Any], split: str, place: str) -> Listed:
    number, page = str(record["videoid"]).strip(), str(record["page_dir"]).strip()
    seconds = iso_seconds(str(record.get("duration") or ""))
    url = str(record["contentUrl"] or "").strip()
    more: dict[str, Any] = {"page_dir": page}
    if seconds is not None:
        more["listed_seconds"] = seconds
    wrong = [
        *([] if _NUMBER.fullmatch(number) else [f"videoid is {number[:40]!r}"]),
        *([] if re.fullmatch(r"\d+_\d+", page) else [f"page_dir is {page[:40]!r}"]),
        # A quote that is not closed moves the columns: a broken duration shows it.
        *(["duration is " + repr(str(record["duration"])[:40])] if _is_broken(record, seconds) else []),
    ]
    return Listed(
        number if not wrong else "",
        url,
        squeeze(str(record["name"])),
        split,
        f"{page}/{number}.mp4",
        more=more,
        problem=f"{place}: {', '.join(wrong)}" if wrong else "",
    )


def _is_broken(record: Mapping[str, Any], seconds: float | None) -> bool:
    return "duration" in record and seconds is None


def internvid(raw: Path) -> Iterator[Listed]:
    """Yield the rows of InternVid in the order of the list: `id` is `yt_<YoutubeID>_<start ms>_<end ms>`.

    Raises:
        DataError: there is no list.
    """
    return internvid_file(
        need(raw, "internvid", *INTERNVID, *(f"{name}.gz" for name in INTERNVID), "*.jsonl")
    )


def internvid_file(path: Path) -> Iterator[Listed]:
    """Yield the rows of one list of InternVid; see `internvid`.

    Raises:
        DataError: it cannot be read.
    """
    with open_text(path) as stream:
        for number, line in lines(stream):
            if line.strip():
                yield _internvid_row(line, f"{path.name}, line {number + 1}")


def clip_id(video: str, start_ms: int, end_ms: int) -> str:
    """Return the id of a clip of a YouTube video; ids of videos may begin with `-`, that of a clip does "
    "not."""
    return f"yt_{video}_{start_ms}_{end_ms}"


def _internvid_row(line: str, place: str) -> Listed:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Listed("", "", "", problem=f"{place}: no JSON: {error}")
    if not isinstance(record, dict):
        return Listed("", "", "", problem=f"{place}: expected an object, got {line[:40]!r}")
    video, caption = record.get("YoutubeID"), record.get("Caption")
    start, end = clock_ms(record.get("Start_timestamp")), clock_ms(record.get("End_timestamp"))
    wrong = [
        *([] if isinstance(video, str) and _YOUTUBE.fullmatch(video) else [f"YoutubeID is {video!r}"]),
        *([] if start is not None else [f"Start_timestamp is {record.get('Start_timestamp')!r}"]),
        *([] if end is not None else [f"End_timestamp is {record.get('End_timestamp')!r}"]),
        *([] if isinstance(caption, str) else [f"Caption is {caption!r}"]),
    ]
    if not wrong and start is not None and end is not None and end <= start:
        wrong.append(f"it ends at {record['End_timestamp']}, before it begins")
    if wrong or start is None or end is None:
        return Listed("", "", "", problem=f"{place}: {', '.join(wrong)}"[:300])
    more: dict[str, Any] = {"youtube_id": video}
    for name, field in (("aesthetic_score", "Aesthetic_Score"), ("umt_score", "UMT_Score")):
        score = finite(record.get(field))
        if score is not None:
            more[name] = score
    return Listed(
        clip_id(str(video), start, end),
        f"https://www.youtube.com/watch?v={video}",
        squeeze(str(caption)),
        "train",
        f"{video}_{record['Start_timestamp'].strip()}_{record['End_timestamp'].strip()}.mp4",
        start / 1000,
        end / 1000,
        more,
    )


def didemo(raw: Path) -> Iterator[Listed]:
    """Yield one row for each video of DiDeMo, train, val, test, in the order of the files.

    Its caption is the paragraph of all descriptions in file order; `descriptions` in the further columns has
    them one by one with their times.

    Raises:
        DataError: a list is missing or of another form.
    """
    for split, name in DIDEMO.items():
        path = first_of(raw, name, f"data/{name}", f"annotations/{name}")
        if path is None and split == "train":
            path = need(raw, "didemo", name)
        if path is not None:
            yield from _didemo_rows(path, split)


def _didemo_rows(path: Path, split: str) -> Iterator[Listed]:
    videos: dict[str, list[dict[str, Any]]] = {}
    addresses: dict[str, str] = {}
    with open_text(path) as stream:
        for number, entry in enumerate(json_items(stream, str(path))):
            place = f"{path.name}, entry {number + 1}"
            if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
                yield Listed("", "", "", split, problem=f"{place}: no name in 'video'")
                continue
            described = _description(entry)
            if described is None:
                name = clean_key(entry["video"])
                yield Listed(name, "", "", split, problem=f"{place}: no text in 'description', or no times")
                continue
            videos.setdefault(entry["video"], []).append(described)
            url = entry.get("dl_link") or entry.get("download_link")
            addresses.setdefault(entry["video"], url.strip() if isinstance(url, str) else "")
    for name, descriptions in videos.items():
        yield Listed(
            clean_key(name.rpartition(".")[0] or name),
            addresses[name],
            paragraph(descriptions),
            split,
            name,
            0.0,
            DIDEMO_SECONDS,
            {"descriptions": descriptions},
        )


def paragraph(descriptions: Iterable[Mapping[str, Any]]) -> str:
    """Return the descriptions of a video as one text, one blank between them."""
    return " ".join(str(described["text"]) for described in descriptions)


def _description(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is kept of a description; its times are seconds, the median over the annotators."""
    text, times = entry.get("description"), entry.get("times")
    pairs = [tuple(pair) for pair in times if _is_span(pair)] if isinstance(times, list) else []
    if not isinstance(text, str) or not text.strip() or not pairs:
        return None
    # Chunks count from 0 and the last one is inside: (1, 4) means 5 s to 25 s.
    start = statistics.median_low([first for first, _ in pairs]) * CHUNK_SECONDS
    end = (statistics.median_high([last for _, last in pairs]) + 1) * CHUNK_SECONDS
    described = {"text": squeeze(text), "start": start, "end": end, "times": [list(pair) for pair in pairs]}
    number = entry.get("annotation_id")
    return {**described, "annotation_id": number} if isinstance(number, int | str) else described


def _is_span(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(chunk, int) and not isinstance(chunk, bool) for chunk in pair)
        and 0 <= pair[0] <= pair[1]
    )

"""The `internvid` card: clips of YouTube videos with generated captions and scores."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.fetched import Fetched
from diptych.data.cards.internvid_sort import SCORES, Clips
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    check_media,
    from_fetched,
    needed,
)
from diptych.data.members import is_key
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.list_video import INTERNVID, clip_id, clock_ms
from diptych.data.raw.listed import Listed, finite
from diptych.data.raw.refs import Ref
from diptych.data.raw.url_lists import listed
from diptych.data.sample import Sample
from diptych.errors import UsageError

OPTIONS = {
    "min_seconds": "shorter clips are left out (default 0)",
    "min_aesthetic": "clips with a lower aesthetic score, or none, are left out",
    "min_similarity": "clips with a lower score of video and caption (`umt_score`), or none, are left out",
    "precision": "how clips are cut from whole videos: `exact` (default), `keyframe` (fast, begins earlier)",
    **COLUMNS_OPTION,
}
FOLDERS = ("clips", "clips.zip", "clips.tar", "videos")
ENDINGS = ("mp4", "webm", "mkv")
COLONS = ("_", "-", ".", "", ":")
"""What tools write for the `:` of a time in the name of a clip."""

_CARD = "internvid"
_KEY = re.compile(r"yt_([A-Za-z0-9_-]{11})_(\d+)_(\d+)")
_LISTED = {"aesthetic_score": "Aesthetic_Score", "umt_score": "UMT_Score"}
"""Column -> its name in the list."""


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each clip that is there, or whose video is; sorted by video, start and end.

    Raises:
        UsageError: a wrong option.
        DataError: the list, or all the media, are missing.
    """
    folder = needed(raw, _CARD)
    given = Options(_CARD, options, OPTIONS)
    wrong = _Filter(given)
    exact = given.choice("precision", "exact", ("exact", "keyframe")) == "exact"
    check_media(folder, _CARD, "train", *FOLDERS)
    files = RawFolder(folder)
    with Clips() as clips:
        for row in listed(_CARD, folder):
            if row.problem:
                yield LeftOut("bad entry", row.id, row.problem)
            elif reason := wrong((row.end or 0.0) - (row.start or 0.0), row.more):
                yield LeftOut("filtered", row.id, reason)
            else:
                clips.add(row)
        for rows in clips.sorted():
            found = _find(files, rows[0], "exact" if exact else "keyframe")
            if found is None:
                yield LeftOut("missing video", rows[0].id, rows[0].file)
            else:
                yield _sample(rows, *found)


def _find(files: RawFolder, row: Listed, precision: Literal["exact", "keyframe"]) -> tuple[str, Ref] | None:
    """Return extension and place of a clip, or of the part of its video that it is."""
    stem = row.file.removesuffix(".mp4")
    stems = [row.id, *(stem.replace(":", colon) for colon in COLONS)]
    for ending in ENDINGS:
        names = [f"{name}.{ending}" for name in stems]
        places = [f"clips/{name}" for name in names]
        places += [f"{archive}{INSIDE}{name}" for archive in FOLDERS[1:3] for name in names]
        ref = files.find(*places)
        if ref is not None:
            return ending, ref
    whole = files.find(*(f"videos/{row.more['youtube_id']}.{ending}" for ending in ENDINGS))
    if whole is None:
        return None
    return "mp4", ClipRef(whole, row.start or 0.0, row.end or 0.0, precision)


def _sample(rows: Sequence[Listed], extension: str, ref: Ref) -> Unread:
    """Return a clip with the captions of all rows about it."""
    first = rows[0]
    captions = tuple(dict.fromkeys(row.caption for row in rows))
    # `end` would be a word of SQL: no condition could name the column as it is.
    meta = {"url": first.url, "clip_start": first.start, "clip_end": first.end, **first.more}
    return Unread(Sample(first.id, {}, captions, "", first.split, meta), {extension: ref})


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards, in their order.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    wrong = _Filter(Options(_CARD, options, OPTIONS))
    for found in from_fetched(_CARD, raw, options, OPTIONS, "video"):
        if isinstance(found, LeftOut):
            yield found
            continue
        sample, meta = found
        video, span = sample.text("YoutubeID", "youtube_id"), _span(sample)
        key = sample.text("id") if is_key(sample.text("id")) else sample.key
        if span is not None:
            key = clip_id(video, *span) if video else key
            meta |= {"clip_start": span[0] / 1000, "clip_end": span[1] / 1000}
        if video:
            meta["youtube_id"] = video
        for name, column in _LISTED.items():
            score = finite(sample.side.get(name, sample.side.get(column)))
            if score is not None:
                meta[name] = score
        reason = wrong((span[1] - span[0]) / 1000 if span else None, meta)
        if reason:
            yield LeftOut("filtered", key, reason)
        else:
            made = Sample(key, {}, sample.captions, "", sample.split, meta)
            yield Unread(made, dict([sample.medium]))


def _span(sample: Fetched) -> tuple[int, int] | None:
    """Return start and end of a fetched clip in milliseconds: as in our list, the owners', or a tool's "
    "`clips`."""
    side = sample.side
    pairs: list[tuple[object, object]] = [
        (side.get("start", side.get("clip_start")), side.get("end", side.get("clip_end"))),
        (side.get("Start_timestamp"), side.get("End_timestamp")),
    ]
    match side.get("clips"):
        case [[first, last]]:
            pairs.insert(0, (first, last))
    if found := _KEY.fullmatch(sample.key):
        pairs.append((int(found[2]) / 1000, int(found[3]) / 1000))
    for pair in pairs:
        start, end = (_ms(value) for value in pair)
        if start is not None and end is not None:
            return start, end
    return None


def _ms(value: object) -> int | None:
    number = finite(value)
    return clock_ms(value) if number is None else round(number * 1000)


class _Filter:
    """Says why a clip is not wanted; empty if it is."""

    def __init__(self, given: Options) -> None:
        self._seconds = _number(given, "min_seconds") or 0.0
        limits = {"aesthetic_score": "min_aesthetic", "umt_score": "min_similarity"}
        self._limits = {column: _number(given, option) for column, option in limits.items()}

    def __call__(self, seconds: float | None, about: Mapping[str, Any]) -> str:
        if seconds is not None and seconds < self._seconds:
            return f"{seconds:g} s, less than {self._seconds:g}"
        for column in SCORES:
            limit, score = self._limits[column], about.get(column)
            if limit is not None and (score is None or score < limit):
                return f"{column} is {score}, less than {limit:g}"
        return ""


def _number(given: Options, name: str) -> float | None:
    text = given.text(name)
    try:
        return float(text) if text else None
    except ValueError as error:
        raise UsageError(f"card '{_CARD}', option {name}={text}: expected a number") from error


CARD = Card(
    name=_CARD,
    title="InternVid",
    description=(
        "Clips of YouTube videos with generated captions, a score of their looks and one of how well "
        "video and "
        "caption fit; InternVid-10M-FLT is a choice of ten million clips out of 234 million. The owners "
        "distribute "
        "video ids and times."
    ),
    licence=(
        "the list: CC BY-NC-SA 4.0, as far as known; the videos belong to their makers, under the terms "
        "of YouTube. "
        "Check the homepage."
    ),
    convert=convert,
    media="video",
    splits={
        "train": Split("split = 'train'", 10_647_458, "clips of InternVid-10M-FLT", about=True),
        "from_1_second": Split("clip_end - clip_start >= 1.0", note="without the shortest clips"),
    },
    sources=(
        Source(
            INTERNVID[0],
            'the homepage (JSON lines: `{"YoutubeID", "Start_timestamp", "End_timestamp", "Caption", '
            '"Aesthetic_Score", "UMT_Score"}`)',
            alternatives=(*INTERNVID[1:], *(f"{name}.gz" for name in INTERNVID), "*.jsonl"),
        ),
        Source(
            "clips",
            "what was fetched: `clips/<YoutubeID>_<start>_<end>.mp4` with `_`, `-`, `.` or nothing for "
            "the `:` of "
            "the times; "
            "or whole videos, `videos/<YoutubeID>.mp4` (also webm, mkv), from which the clips are cut",
            alternatives=FOLDERS[1:],
        ),
    ),
    options=OPTIONS,
    citation=(
        "Wang, He, Li, Li, Yu, Ma, Chen, Wang, Luo, Liu, Wang, Wang, Qiao: InternVid: A Large-scale "
        "Video-Text "
        "Dataset for Multimodal Understanding and Generation. ICLR 2024."
    ),
    homepage="https://github.com/OpenGVLab/InternVideo/tree/main/Data/InternVid",
    layouts={
        "fetched": Layout(
            f"{FETCHED_TEXT} The columns of the list, or `id`, `start` and `end`, or video2dataset's "
            "`clips` name "
            "the clip.",
            convert_fetched,
            (FETCHED,),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: `yt_<YoutubeID>_<start>_<end>` in milliseconds. The clip; captions of all rows about it. "
        "Columns: "
        "`url`, `youtube_id`, `clip_start`, `clip_end` (seconds into the video), `aesthetic_score`, "
        "`umt_score`."
    ),
    oddities=(
        "- Samples are sorted by video, start and end, so that what is cut from one video lies together; "
        "lists "
        "of any length are sorted on the disk (`TMPDIR`).\n"
        "- A clip that is listed twice with different captions is one sample with both.\n"
        "- Some clips are shorter than a second: `-o min_seconds=1`, or the split `from_1_second`.\n"
        "- Ids may begin with `-`, which command lines take for an option; keys do not.\n"
        "- The score that the list calls UMT was computed with CLIP, as far as known.\n"
        "- Many videos are gone, private or closed to some countries or ages: counted as `missing video`."
    ),
    shard_size=500,
    miniature="diptych.data.miniatures.internvid:make_internvid",
)

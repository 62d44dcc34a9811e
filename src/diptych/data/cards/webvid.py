"""The `webvid` card: short videos of a stock agency with their descriptions."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    SPLITS_OPTION,
    as_sample,
    check_media,
    clip_lines,
    from_fetched,
    needed,
    placed,
)
from diptych.data.members import clean_key
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.list_video import WEBVID, WEBVID_PARTS, iso_seconds, webvid
from diptych.data.raw.listed import finite, first_of, need

OPTIONS = {
    "size": "`2M` or `10M`: which lists, where both are there (default: the larger one that is there)",
    **SPLITS_OPTION,
    **COLUMNS_OPTION,
}
FOLDERS = ("videos", "videos.zip", "videos.tar")

_CARD = "webvid"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each row of the lists whose video is there, train then val.

    Raises:
        UsageError: a wrong option.
        DataError: the lists, or all the videos, are missing.
    """
    folder = needed(raw, _CARD)
    given = Options(_CARD, options, OPTIONS)
    size = given.choice("size", "", ("", "2M", "10M"))
    wanted = given.several("splits", ("train", "val"), ("train", "val"))
    check_media(folder, _CARD, "train", *FOLDERS)
    files = RawFolder(folder)
    for row in webvid(folder, size):
        if row.split not in wanted:
            continue
        names = (row.file, row.file.rpartition("/")[2])
        places = chain(
            (f"videos/{name}" for name in names),
            (f"{archive}{INSIDE}{name}" for archive in FOLDERS[1:] for name in names),
        )
        yield placed(row, None if row.problem else files.find(*places), "video")


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards, those for validation first; `videoid` is the key.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    for found in from_fetched(_CARD, raw, options, OPTIONS, "video", held_out_first=True):
        if isinstance(found, LeftOut):
            yield found
            continue
        sample, meta = found
        more: dict[str, Any] = {"page_dir": sample.text("page_dir")}
        seconds = iso_seconds(sample.text("duration"))
        if seconds is None:
            seconds = finite(sample.side.get("listed_seconds"))
        if seconds is not None:
            more["listed_seconds"] = seconds
        yield as_sample(sample, clean_key(sample.text("videoid", "id")) or sample.key, {**meta, **more})


def convert_snps3(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of SNP-S3's lists.

    Raises:
        UsageError: a wrong option.
        DataError: the list for training is missing.
    """
    folder = needed(raw, _CARD)
    wanted = Options(_CARD, options, OPTIONS).several("splits", ("train", "val"), ("train", "val"))
    for split in wanted:
        place = f"webvid/annotations/{split}.jsonl"
        path = need(folder, _CARD, place) if split == "train" else first_of(folder, place)
        if path is not None:
            yield from clip_lines(folder, path, split, "webvid/videos", "webvid")


CARD = Card(
    name=_CARD,
    title="WebVid-2M and WebVid-10M",
    description=(
        "Short videos of a stock agency (mean 18 seconds, with its watermark) and their descriptions: "
        "2.5 million "
        "for training as `2M`, 10.7 million as `10M`, and 5,000 for validation. The owners withdrew the "
        "dataset in "
        "2024 and addresses answer 403: this card is for those who have the videos."
    ),
    licence=(
        "stock footage: research only and no redistribution, as far as known; withdrawn by its owners. "
        "Have a "
        "person check before use."
    ),
    convert=convert,
    media="video",
    splits={
        "train": Split("split = 'train'", note="2.5 million rows (2M), 10.7 million (10M)"),
        "val": Split("split = 'val'", 5_000, "shared by both sizes", about=True),
    },
    sources=(
        Source(
            WEBVID["2M"][0],
            "the owners, until 2024 (CSV: `videoid,name,page_idx,page_dir,duration,contentUrl`); or the "
            "parts of "
            "the copy on the Hugging Face hub",
            alternatives=(WEBVID["10M"][0], *WEBVID_PARTS),
        ),
        Source(WEBVID["2M"][1], "the owners", required=False, alternatives=(WEBVID["10M"][1],)),
        Source(
            "videos",
            "what was fetched: `videos/<page_dir>/<videoid>.mp4`, or `videos/<videoid>.mp4`",
            alternatives=FOLDERS[1:],
        ),
    ),
    options=OPTIONS,
    citation=(
        "Bain, Nagrani, Varol, Zisserman: Frozen in Time: A Joint Video and Image Encoder for End-to-End "
        "Retrieval. "
        "ICCV 2021."
    ),
    homepage="https://github.com/m-bain/webvid",
    layouts={
        "fetched": Layout(
            f"{FETCHED_TEXT} The columns `videoid`, `page_dir` and `duration` are used; lone JSON files, "
            "which "
            "video2dataset writes for rows that failed, are counted.",
            convert_fetched,
            (FETCHED,),
        ),
        "snps3": Layout(
            "The lists of SNP-S3: `webvid/annotations/{train,val}.jsonl` (`clip_name`, `caption`) and "
            "the videos "
            "below `webvid/videos/` or `webvid/`. `--raw` is its data folder.",
            convert_snps3,
            (Source("webvid/annotations/train.jsonl", "SNP-S3"),),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: `videoid`. The video as it was fetched; its description. Columns: `url`, `page_dir`, "
        "`listed_seconds` (the length that the list states; `duration` is that of the file)."
    ),
    oddities=(
        "- Descriptions hold line ends and quotes inside quoted CSV; a record whose columns are moved (its "
        "duration is none) is counted as `bad entry`.\n"
        "- Some rows for training are in the validation part, too: they are left out of training.\n"
        "- `page_idx` is not in every copy, and not used.\n"
        "- Durations are written like `PT00H00M09S`.\n"
        "- Pages that were stored as videos (403, 404) are left out as `unreadable video`."
    ),
    shard_size=500,
    miniature="diptych.data.miniatures.webvid:make_webvid",
)

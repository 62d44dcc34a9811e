"""The `didemo` card: paragraphs about the first half minute of videos."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    check_media,
    clip_lines,
    from_fetched,
    needed,
)
from diptych.data.members import is_key
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.list_video import DIDEMO, DIDEMO_SECONDS, paragraph
from diptych.data.raw.listed import Listed, first_of, need
from diptych.data.raw.refs import Ref
from diptych.data.raw.url_lists import listed
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample

OPTIONS = {
    "seconds": "what is kept of a video from its start on, in whole seconds; 0: everything (default 30)",
    "order": "of the descriptions in a paragraph: `file` (default), or `time`: by their start",
    "precision": "of the cut: `keyframe` (default: without loss, may end a few frames late) or `exact`",
    **COLUMNS_OPTION,
}
FOLDERS = ("videos", "videos.zip", "videos.tar")

_CARD = "didemo"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each video that is there, train, val, test, in the order of the lists.

    Raises:
        UsageError: a wrong option.
        DataError: a list, or all the videos, are missing.
    """
    folder = needed(raw, _CARD)
    cut = _Cut(options)
    check_media(folder, _CARD, "train", *FOLDERS)
    files = RawFolder(folder)
    for row in listed(_CARD, folder):
        if row.problem:
            yield LeftOut("bad entry", row.id, row.problem)
            continue
        found = _find(files, row)
        if found is None:
            count = len(row.more["descriptions"])
            yield LeftOut("missing video", row.id, f"{row.file} ({row.split}, {count} descriptions)")
        else:
            yield cut.sample(row.id, row.split, row.more["descriptions"], {"url": row.url}, found)


def _find(files: RawFolder, row: Listed) -> tuple[str, Ref] | None:
    """Return ending and place of a video; copies that were encoded again have `.mp4` behind or in its "
    "place."""
    names = dict.fromkeys([row.file, f"{row.file}.mp4", f"{row.file.rpartition('.')[0]}.mp4"])
    for name in names:
        ref = files.find(*(f"{f}{'/' if f == 'videos' else INSIDE}{name}" for f in FOLDERS))
        if ref is not None:
            ending = name.rpartition(".")[2].lower()
            return ending if ending in VIDEOS else "mp4", ref
    return None


class _Cut:
    """Makes samples as the options want them."""

    def __init__(self, options: Mapping[str, str]) -> None:
        given = Options(_CARD, options, OPTIONS)
        self._seconds = given.integer("seconds", int(DIDEMO_SECONDS), 0, 86_400)
        self._by_time = given.choice("order", "file", ("file", "time")) == "time"
        exact = given.choice("precision", "keyframe", ("keyframe", "exact")) == "exact"
        self._precision: Literal["exact", "keyframe"] = "exact" if exact else "keyframe"

    def sample(
        self,
        key: str,
        split: str,
        descriptions: list[dict[str, Any]],
        meta: Mapping[str, Any],
        medium: tuple[str, Ref],
    ) -> Unread:
        """Return a video with all its descriptions as one paragraph."""
        if self._by_time:
            descriptions = sorted(descriptions, key=lambda described: float(described["start"]))
        made = Sample(key, {}, (paragraph(descriptions),), "", split, {**meta, "descriptions": descriptions})
        return Unread(made, self.media(medium))

    def media(self, medium: tuple[str, Ref]) -> dict[str, Ref]:
        """Return the part of a video that is kept."""
        if not self._seconds:
            return dict([medium])
        return {"mp4": ClipRef(medium[1], 0.0, float(self._seconds), self._precision)}


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards, made from our list: a row for each video.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    cut = _Cut(options)
    for found in from_fetched(_CARD, raw, options, OPTIONS, "video"):
        if isinstance(found, LeftOut):
            yield found
            continue
        sample, meta = found
        key = sample.text("id") if is_key(sample.text("id")) else sample.key
        descriptions = sample.side.get("descriptions")
        if isinstance(descriptions, list) and all(_is_described(described) for described in descriptions):
            yield cut.sample(key, sample.split, descriptions, meta, sample.medium)
        else:
            made = Sample(key, {}, sample.captions, "", sample.split, meta)
            yield Unread(made, cut.media(sample.medium))


def _is_described(described: object) -> bool:
    match described:
        case {"text": str(), "start": int() | float()}:
            return True
    return False


def convert_snps3(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of SNP-S3's lists, videos as they are.

    Raises:
        UsageError: a wrong option.
        DataError: the list for training is missing.
    """
    folder = needed(raw, _CARD)
    Options(_CARD, options, OPTIONS)
    for split in DIDEMO:
        place = f"didemo_retrieval/{split}.jsonl"
        path = need(folder, _CARD, place) if split == "train" else first_of(folder, place)
        if path is not None:
            yield from clip_lines(folder, path, split, "didemo_retrieval/videos", "didemo/videos", "videos")


CARD = Card(
    name=_CARD,
    title="DiDeMo: paragraphs about videos",
    description=(
        "Videos of Flickr of which people described moments within the first half minute. For retrieval, "
        "the field "
        "joins all descriptions of a video into one paragraph; so does this card."
    ),
    licence=(
        "annotations: BSD-2-Clause, as far as known; each video has a Creative Commons licence of its "
        "own, listed "
        "by the owners. Check the homepage."
    ),
    convert=convert,
    media="video",
    splits={
        "train": Split("split = 'train'", 8_395, "33,005 descriptions", about=True),
        "val": Split("split = 'val'", 1_065, "4,180 descriptions", about=True),
        "test": Split(
            "split = 'test'", 1_004, "4,021 descriptions; recall depends on how many are there", about=True
        ),
    },
    sources=(
        *(
            Source(
                name,
                "the homepage, folder `data`",
                required=split == "train",
                alternatives=(f"data/{name}", f"annotations/{name}"),
            )
            for split, name in DIDEMO.items()
        ),
        Source(
            "videos",
            "fetched from the YFCC bucket or Flickr: named as in the lists, also with `.mp4` behind or "
            "instead",
            alternatives=FOLDERS[1:],
        ),
    ),
    options=OPTIONS,
    citation=(
        "Hendricks, Wang, Shechtman, Sivic, Darrell, Russell: Localizing Moments in Video with Natural "
        "Language. "
        "ICCV 2017."
    ),
    homepage="https://github.com/LisaAnne/LocalizingMoments",
    layouts={
        "fetched": Layout(
            f"{FETCHED_TEXT} Made from our own list (one row a video, columns `id` and `descriptions`); "
            "of other "
            "lists the caption is the paragraph.",
            convert_fetched,
            (FETCHED,),
        ),
        "snps3": Layout(
            "The lists of SNP-S3: `didemo_retrieval/{train,val,test}.jsonl` (`clip_name`, `caption`) and "
            "the videos "
            "below `didemo_retrieval/videos/`, `didemo/videos/` or `videos/`, as they are (LMDB is not "
            "read). "
            "`--raw` is its data folder.",
            convert_snps3,
            (
                Source("didemo_retrieval/train.jsonl", "SNP-S3"),
                Source("didemo_retrieval/val.jsonl", "SNP-S3", False),
                Source("didemo_retrieval/test.jsonl", "SNP-S3", False),
            ),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: the video's name without its ending. The first 30 seconds as MP4; one caption: the "
        "descriptions in "
        "the order of the file with a blank between them. Columns: `url`. Entries: `descriptions`, a list of "
        "`{text, start, end, times, annotation_id}`; `times` as published, `start` and `end` in seconds: the "
        "median over the annotators."
    ),
    oddities=(
        "- Times count pieces of five seconds, both ends inside: (1, 4) is 5 s to 25 s. The last piece "
        "may be "
        "shorter, so `end` may lie behind the end of the video.\n"
        "- People saw the first 30 seconds; files are longer, and cut.\n"
        "- Names hold `@` and have many endings; copies that were encoded again have `.mp4` behind.\n"
        "- The address is `dl_link` here and `download_link` there; other entries may be missing.\n"
        "- Videos that are missing or cannot be read are in no split, so the gallery for retrieval is "
        "smaller: "
        "state the count beside recall."
    ),
    shard_size=500,
    miniature="diptych.data.miniatures.didemo:make_didemo",
)

"""MSR-VTT: what its three cards share, and its annotations in the forms of Uni-Perceiver and SNP-S3."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from diptych.data.cards.base import LeftOut, Source, Unread
from diptych.data.cards.class_sets import MediaKeys, bad_entry, needed
from diptych.data.cards.video_lists import Clip, Videos, captions_of, coco_clips, snps3_clips, without_ending
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample

NAME = "msr-vtt"
TREE = "msrvtt_dataset"
VIDEOS = (
    "TrainValVideo",
    "TestVideo",
    "train_val_videos.zip",
    "test_videos.zip",
    "videos",
    "video",
    "MSRVTT_Videos",
)
"""Where the videos lie."""
HOMEPAGE = "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/"
LICENCE = (
    "videos from YouTube; as far as we recall research only, videos may not be passed on: have a person "
    "confirm it on the homepage"
)
CITATION = (
    "J. Xu, T. Mei, T. Yao, Y. Rui. MSR-VTT: A Large Video Description Dataset for Bridging Video and "
    "Language. CVPR 2016. Y. Yu, J. Kim, G. Kim. A Joint Sequence Fusion Model for Video Question Answering "
    "and Retrieval. ECCV 2018 (1k-A)."
)
_FIRST_VAL = 6513
_FIRST_TEST = 7010


def number_of(name: str) -> int | None:
    """Return N of `videoN`, or None."""
    digits = name.removeprefix("video")
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None


def official_split(number: int) -> str:
    """Return the official split of clip `videoN`."""
    return "train" if number < _FIRST_VAL else "val" if number < _FIRST_TEST else "test"


def videos_source(start: str) -> Source:
    """Return where the videos lie, `start` being a folder of the layout."""
    places = VIDEOS if not start else (*(f"{start}{place}" for place in VIDEOS), *VIDEOS)
    return Source(
        places[0],
        "`train_val_videos.zip` and `test_videos.zip`, unpacked or not",
        alternatives=tuple(places[1:]),
    )


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the samples of Uni-Perceiver's lists in COCO's form.

    Raises:
        DataError: a list is not there, or of another form.
    """
    folder = RawFolder(needed(NAME, raw))
    start = f"{TREE}/annotations_new/caption_msrvtt_1k"
    videos, keys = Videos(folder, (f"{TREE}/videos", f"{TREE}/videos.zip")), MediaKeys()
    for part in ("trainval", "test"):
        yield from _samples(coco_clips(folder, f"{start}_{part}_cocostyle.json"), part, videos, keys)


def convert_snps3(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the samples of SNP-S3's lists.

    Raises:
        DataError: a list is not there.
    """
    folder = RawFolder(needed(NAME, raw))
    start = "msrvtt_retrieval/"
    videos, keys = Videos(folder, (*(f"{start}{place}" for place in VIDEOS), *VIDEOS)), MediaKeys()
    for part in ("train", "test"):
        yield from _samples(snps3_clips(folder, f"{start}{part}.jsonl"), part, videos, keys)


def _samples(
    clips: Iterator[Clip | LeftOut], part: str, videos: Videos, keys: MediaKeys
) -> Iterator[Unread | LeftOut]:
    for found in clips:
        if isinstance(found, LeftOut):
            yield found
            continue
        name = without_ending(found.name)
        number = number_of(name)
        if number is None:
            yield bad_entry(f"{part} list: {name}", "a clip called videoN", name)
            continue
        meta = {**found.meta, "number": number, "train_9k": part != "test", "test_1k": part == "test"}
        sample = Sample(keys.make(name), {}, tuple(found.captions), name, official_split(number), meta)
        yield videos.sample(name, sample, captions_of(found))

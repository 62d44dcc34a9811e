"""The `msvd` card: short clips of YouTube, each described by about forty people."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import MediaKeys, bad_entry, needed, squeezed
from diptych.data.cards.video_lists import Clip, Videos, captions_of, coco_clips, snps3_clips
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample

SPLITS = ("train", "val", "test")
CLIPS = ("YouTubeClips", "YouTubeClips.tar", "YoutTubeClips", "YoutTubeClips.tar")
"""Where the videos lie; the archive is offered under both spellings."""
MAPPING = ("txt_labels/youtube_mapping.txt", "youtube_mapping.txt")
CITATION = (
    "D. L. Chen, W. B. Dolan. Collecting Highly Parallel Data for Paraphrase Evaluation. ACL 2011. "
    "S. Venugopalan et al. Sequence to Sequence - Video to Text. ICCV 2015 (splits and sentences)."
)
HOMEPAGE = "https://www.cs.utexas.edu/users/ml/clamp/videoDescription/"
_LABELS = "the sentences in lower case without punctuation that most papers use (`txt_labels`)"
_TREE = "msvd_dataset"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield a sample for each clip of each split, in the order of the sentences.

    Raises:
        DataError: an annotation file is not there.
    """
    folder = RawFolder(needed("msvd", raw))
    videos, keys = Videos(folder, CLIPS), MediaKeys()
    names, wrong = mapping(folder, *MAPPING)
    yield from wrong
    for split in SPLITS:
        for found in _sentences(folder, f"sents_{split}_lc_nopunc.txt", names):
            yield found if isinstance(found, LeftOut) else _sample(found, split, videos, keys)


def mapping(folder: RawFolder, *places: str) -> tuple[dict[str, str], list[LeftOut]]:
    """Return `vidN` -> name of the clip, and the lines that are wrong.

    Raises:
        DataError: the file is not there.
    """
    names: dict[str, str] = {}
    wrong = []
    with folder.text(*places) as stream:
        for number, line in lines(stream):
            fields = line.split()
            if len(fields) == 2 and number_of(fields[1]) is not None:
                names[fields[1]] = fields[0]
            elif fields:
                wrong.append(bad_entry(f"youtube_mapping.txt:{number + 1}", "`clip vidN`", line))
    return names, wrong


def number_of(video: str) -> int | None:
    """Return N of `vidN`, or None."""
    digits = video.removeprefix("vid")
    return int(digits) if digits != video and digits.isascii() and digits.isdigit() else None


def clip_meta(name: str) -> dict[str, Any]:
    """Return what the name of a clip says: `youtube_id`, and `start` and `end` in seconds."""
    # The id may have underscores and begin with one.
    parts = name.rsplit("_", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return {}
    return {"youtube_id": parts[0], "start": int(parts[1]), "end": int(parts[2])}


def _sentences(folder: RawFolder, name: str, names: Mapping[str, str]) -> Iterator[Clip | LeftOut]:
    clips: dict[str, Clip] = {}
    with folder.text(f"txt_labels/{name}", name) as stream:
        for number, line in lines(stream):
            video, tab, text = line.partition("\t")
            if not line.strip():
                continue
            if not tab or video not in names:
                expected = "`vidN<TAB>sentence` with a video of youtube_mapping.txt"
                yield bad_entry(f"{name}:{number + 1}", expected, line)
                continue
            clip = clips.setdefault(video, Clip(names[video], meta={"number": number_of(video)}))
            clip.captions.append(squeezed(text))
    yield from clips.values()


def _sample(clip: Clip, split: str, videos: Videos, keys: MediaKeys) -> Unread | LeftOut:
    number = clip.meta.get("number")
    match_id = "" if number is None else f"vid{number}"
    meta = {**clip.meta, **clip_meta(clip.name)}
    sample = Sample(keys.make(clip.name), {}, tuple(clip.captions), match_id, split, meta)
    return videos.sample(clip.name, sample, captions_of(clip))


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the same from lists in COCO's form, as Uni-Perceiver's scripts write them.

    Raises:
        DataError: a list is not there, or of another form.
    """
    folder = RawFolder(needed("msvd", raw))
    videos, keys = Videos(folder, (f"{_TREE}/{place}" for place in CLIPS)), MediaKeys()
    for split in SPLITS:
        for found in coco_clips(folder, f"{_TREE}/new_annotations/caption_msvd_{split}_cocostyle.json"):
            yield found if isinstance(found, LeftOut) else _sample(found, split, videos, keys)


def convert_snps3(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the same from the lists of SNP-S3.

    Raises:
        DataError: a list is not there.
    """
    folder = RawFolder(needed("msvd", raw))
    videos = Videos(folder, (*(f"msvd_retrieval/{place}" for place in CLIPS), *CLIPS))
    keys = MediaKeys()
    for split in ("train", "test"):
        for found in snps3_clips(folder, f"msvd_retrieval/MSVD_{split}.jsonl"):
            yield found if isinstance(found, LeftOut) else _sample(found, split, videos, keys)


def _clips(places: Sequence[str]) -> Source:
    origin = f"`YouTubeClips.tar` from <{HOMEPAGE}>, unpacked or not"
    return Source(places[0], origin, alternatives=tuple(places[1:]))


CARD = Card(
    name="msvd",
    title="MSVD (YouTube2Text): video captions",
    description=(
        "1,970 clips of YouTube videos, most of them about ten seconds long, each described by about forty "
        "people in one sentence. The usual lists have the sentences in lower case without punctuation. "
        "Training on `trainval` and testing on `test` is common, too."
    ),
    licence=(
        "videos from YouTube under its terms; as far as we recall offered for research only, nothing may be "
        "passed on: have a person confirm it on the homepage"
    ),
    citation=CITATION,
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        _clips(CLIPS),
        Source(MAPPING[0], _LABELS, alternatives=MAPPING[1:]),
        *(
            Source(
                f"txt_labels/sents_{split}_lc_nopunc.txt",
                _LABELS,
                alternatives=(f"sents_{split}_lc_nopunc.txt",),
            )
            for split in SPLITS
        ),
    ),
    splits={
        "train": Split("split = 'train'", 1200, "about 48,800 captions"),
        "val": Split("split = 'val'", 100, "about 4,300 captions"),
        "test": Split("split = 'test'", 670, "about 27,800 captions"),
        "trainval": Split("split <> 'test'", 1300, "what Uni-Perceiver trains on"),
    },
    media="video",
    shard_size=500,
    target_set="vocabulary",
    prepared=(
        "A sample is a clip. Key: the clip's name, as in `_0nX-El-ySo_83_93`; media: `avi` as published; "
        "captions: all of its sentences, repeated ones too; `match_id`: `vidN`. Columns: `number` (N), "
        "`youtube_id`, `start`, `end` (seconds in the YouTube video)."
    ),
    oddities=(
        "YouTube ids may begin with `-` or `_` and have underscores inside: times are split off from the "
        "right. The archive is also called `YoutTubeClips.tar`. Lines of `youtube_mapping.txt` or of the "
        "sentences that are of another form, and sentences about an unknown video, are counted as `bad "
        "entry`; clips that are not there as `missing video`. The lists of SNP-S3 have no `val` and no "
        "numbers."
    ),
    miniature="diptych.data.miniatures.msvd:make_msvd",
    layouts={
        "uniperceiver": Layout(
            "Uni-Perceiver's: `--raw` is its DATA_PATH.",
            convert_tree,
            (
                *(
                    Source(
                        f"{_TREE}/new_annotations/caption_msvd_{split}_cocostyle.json",
                        "Uni-Perceiver's `msvd_preprocess.py`, or its `new_annotations`",
                    )
                    for split in SPLITS
                ),
                _clips([f"{_TREE}/{place}" for place in CLIPS]),
            ),
        ),
        "snps3": Layout(
            "SNP-S3's: `--raw` is its `data_root_dir`; it evaluates on `test` only.",
            convert_snps3,
            (
                *(
                    Source(f"msvd_retrieval/MSVD_{split}.jsonl", "SNP-S3's annotations")
                    for split in ("train", "test")
                ),
                _clips([*CLIPS, *(f"msvd_retrieval/{place}" for place in CLIPS)]),
            ),
        ),
    },
)

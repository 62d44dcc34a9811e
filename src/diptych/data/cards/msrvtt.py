"""The `msr-vtt` card: ten thousand clips of YouTube with twenty captions each, and the splits in use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import MediaKeys, bad_entry, needed, squeezed
from diptych.data.cards.msrvtt_forms import (
    CITATION,
    HOMEPAGE,
    LICENCE,
    NAME,
    TREE,
    VIDEOS,
    convert_snps3,
    convert_tree,
    number_of,
    official_split,
    videos_source,
)
from diptych.data.cards.options import Options
from diptych.data.cards.video_lists import Clip, Videos, captions_of, integer, read_object, shown
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import comma_separated
from diptych.data.sample import Sample
from diptych.errors import DataError

OPTIONS = {
    "sentences": (
        "`all` (default): a clip has all of its captions; `1k`: the clips of the 1k-A test list have only "
        "the list's sentence, as retrieval on 1k-A is evaluated"
    ),
}
TRAIN_VAL = "train_val_videodatainfo.json"
TEST = "test_videodatainfo.json"
MERGED = "MSRVTT_data.json"
TRAIN_9K = "MSRVTT_train.9k.csv"
TEST_1K = "MSRVTT_JSFUSION_test.csv"
_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
_LISTS = ("", "msrvtt_data/", "msrvtt_data.zip@/msrvtt_data/", "msrvtt_data.zip@/")


def _everywhere(name: str, *archives: str) -> tuple[str, ...]:
    inside = (f"{archive}@/{name}" for archive in archives)
    return (*(f"{start}{name}" for start in _LISTS), *inside)


@dataclass
class _Lists:
    """The published lists of the 1k-A split."""

    train: set[str] = field(default_factory=set)
    test: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name of the clip -> key of the row and sentence."""

    def meta(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"train_9k": name in self.train, "test_1k": name in self.test}
        if name in self.test:
            key, sentence = self.test[name]
            found |= {"retrieval_key": key, "sentence_1k": sentence}
        return found


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield a sample for each clip, in the order of the owners' lists.

    Raises:
        UsageError: a wrong option.
        DataError: an annotation file is not there, or of another form.
    """
    folder = RawFolder(needed(NAME, raw))
    one = Options(NAME, options, OPTIONS).choice("sentences", "all", ("all", "1k")) == "1k"
    if one and not folder.find(*_everywhere(TEST_1K)):
        raise DataError(
            f"{raw}: -o sentences=1k needs {TEST_1K} (`diptych data show {NAME}` says where from)"
        )
    videos, keys, lists = Videos(folder, VIDEOS), MediaKeys(), _read_lists(folder)
    known: set[str] = set()
    for found in _clips(folder):
        if isinstance(found, LeftOut):
            yield found
            continue
        known.add(found.name)
        captions = [lists.test[found.name][1]] if one and found.name in lists.test else found.captions
        split = found.meta.pop("split")
        meta = {**found.meta, **lists.meta(found.name)}
        sample = Sample(keys.make(found.name), {}, tuple(captions), found.name, split, meta)
        yield videos.sample(found.name, sample, captions_of(found))
    for name in sorted((lists.train | lists.test.keys()) - known):
        yield bad_entry(f"lists of 1k-A: {name}", "a clip of the annotations", name)


def _read_lists(folder: RawFolder) -> _Lists:
    lists = _Lists()
    if folder.find(*_everywhere(TRAIN_9K)):
        with folder.text(*_everywhere(TRAIN_9K)) as stream:
            lists.train = {row.get("video_id", "").strip() for row in comma_separated(stream)} - {""}
    if folder.find(*_everywhere(TEST_1K)):
        with folder.text(*_everywhere(TEST_1K)) as stream:
            for row in comma_separated(stream):
                if {"key", "video_id", "sentence"} - row.keys():
                    raise DataError(
                        f"{shown(folder, *_everywhere(TEST_1K))}: expected the header "
                        f"key,vid_key,video_id,sentence, got {','.join(row)}"
                    )
                lists.test[row["video_id"].strip()] = row["key"].strip(), squeezed(row["sentence"])
    return lists


def _clips(folder: RawFolder) -> Iterator[Clip | LeftOut]:
    """Yield the clips of the annotation files with their captions and, in `meta`, their split."""
    clips: dict[str, Clip] = {}
    for places in _annotation_files(folder):
        content = read_object(folder, *places)
        name = shown(folder, *places).rpartition("/")[2]
        videos, sentences = content.get("videos"), content.get("sentences")
        if not isinstance(videos, list) or not isinstance(sentences, list):
            raise DataError(f"{shown(folder, *places)}: expected lists `videos` and `sentences`")
        for position, entry in enumerate(videos):
            clip = _clip(entry)
            if clip is None:
                yield bad_entry(f"{name}:videos[{position}]", "`video_id` (videoN) and `split`", entry)
            else:
                clips.setdefault(clip.name, clip)
        for position, entry in enumerate(sentences):
            match entry:
                case {"video_id": str() as video, "caption": str() as caption} if video in clips:
                    clips[video].captions.append(squeezed(caption))
                    if "sen_id" in entry:
                        clips[video].meta.setdefault("sen_ids", []).append(entry["sen_id"])
                case _:
                    where = f"{name}:sentences[{position}]"
                    yield bad_entry(where, "`caption`, and `video_id` of one of `videos`", entry)
    yield from clips.values()


def _annotation_files(folder: RawFolder) -> list[tuple[str, ...]]:
    train_val = _everywhere(TRAIN_VAL, "train_val_annotation.zip")
    if not folder.find(*train_val) and folder.find(*_everywhere(MERGED)):
        return [_everywhere(MERGED)]
    test = _everywhere(TEST, "test_videodatainfo.zip")
    return [train_val, test] if folder.find(*test) else [train_val]


def _clip(entry: Any) -> Clip | None:
    """Return the clip that an entry of `videos` describes, None if it is of another form."""
    if not isinstance(entry, dict) or not isinstance(entry.get("video_id"), str):
        return None
    name, number = entry["video_id"], number_of(entry["video_id"])
    if number is None:
        return None
    meta: dict[str, Any] = {
        "split": _SPLITS.get(entry.get("split", ""), official_split(number)),
        "number": number,
        **integer(entry, "category"),
    }
    if isinstance(entry.get("url"), str):
        meta["url"] = entry["url"]
    for field_name, kept in (("start time", "start"), ("end time", "end")):
        value = entry.get(field_name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            meta[kept] = float(value)
    return Clip(name, meta=meta)


_INFO = "`train_val_annotation.zip` and `test_videodatainfo.zip`, unpacked or not"
_SPLIT_LISTS = "the lists of splits that retrieval papers share (`msrvtt_data.zip` of CLIP4Clip)"
CARD = Card(
    name=NAME,
    title="MSR-VTT: video captions",
    description=(
        "10,000 clips of YouTube videos, 10 to 30 seconds each, with twenty captions a clip. Beside the "
        "official splits, retrieval papers use `train_9k` with `test_1k` (1k-A of JSFusion), or `train_7k` "
        "with `test_1k`. On `test_1k` one sentence a clip is searched for: prepare with `-o sentences=1k` "
        "for that evaluation. The splits of Miech et al. (1k-B: 6,656 and 1,000 clips) come with no list "
        "that this card reads."
    ),
    licence=LICENCE,
    citation=CITATION,
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        Source(
            TRAIN_VAL,
            _INFO,
            alternatives=("train_val_annotation.zip", MERGED, f"msrvtt_data/{MERGED}", "msrvtt_data.zip"),
        ),
        Source(TEST, _INFO, required=False, alternatives=("test_videodatainfo.zip",)),
        videos_source(""),
        Source(
            TRAIN_9K,
            _SPLIT_LISTS,
            required=False,
            alternatives=(f"msrvtt_data/{TRAIN_9K}", "msrvtt_data.zip"),
        ),
        Source(
            TEST_1K, _SPLIT_LISTS, required=False, alternatives=(f"msrvtt_data/{TEST_1K}", "msrvtt_data.zip")
        ),
    ),
    splits={
        "train": Split("split = 'train'", 6513, "official", texts=130_260),
        "val": Split("split = 'val'", 497, "official", texts=9_940),
        "test": Split("split = 'test'", 2990, "official", texts=None),
        "train_7k": Split("split <> 'test'", 7010, "official train and val"),
        "train_9k": Split("train_9k", 9000, f"`{TRAIN_9K}`"),
        "test_1k": Split("test_1k", 1000, f"`{TEST_1K}`"),
    },
    options=OPTIONS,
    media="video",
    shard_size=500,
    target_set="vocabulary",
    prepared=(
        "A sample is a clip. Key and `match_id`: the clip's name, as in `video9771`; media: `mp4` as "
        "published; captions: all of the clip, in the owners' order. Columns: `number`, `category` (0 to "
        "19), `url`, `start`, `end` (seconds in the YouTube video), `train_9k`, `test_1k` (booleans), "
        "`retrieval_key` and `sentence_1k` (clips of the 1k-A test). `meta.sen_ids`: the captions' ids."
    ),
    oddities=(
        "Keys of the annotations have blanks (`start time`). Splits are often printed wrong (6153/497/2090); "
        "these are right. Many captions are there for several clips, some say hardly anything; they stay. "
        "Entries of another form, captions of an unknown clip and names in the lists of 1k-A that are no "
        "clips are counted as `bad entry`, clips that are not there as `missing video`."
    ),
    miniature="diptych.data.miniatures.msrvtt:make_msrvtt",
    layouts={
        "uniperceiver": Layout(
            "Uni-Perceiver's: `--raw` is its DATA_PATH. Splits are by the clips' numbers; clips of its "
            "training list have `train_9k`, those of its test list `test_1k` and one caption.",
            convert_tree,
            (
                *(
                    Source(
                        f"{TREE}/annotations_new/caption_msrvtt_1k_{part}_cocostyle.json",
                        "Uni-Perceiver's `msrvtt_dataprocess_1k.ipynb`, or its `annotations_new`",
                    )
                    for part in ("trainval", "test")
                ),
                Source(f"{TREE}/videos", "both archives of videos, in one folder"),
            ),
        ),
        "snps3": Layout(
            "SNP-S3's: `--raw` is its `data_root_dir`. Splits and `train_9k`, `test_1k` as with "
            "Uni-Perceiver's. Videos in an LMDB are not read: give the files.",
            convert_snps3,
            (
                *(
                    Source(f"msrvtt_retrieval/{part}.jsonl", "SNP-S3's annotations")
                    for part in ("train", "test")
                ),
                videos_source("msrvtt_retrieval/"),
            ),
        ),
    },
)

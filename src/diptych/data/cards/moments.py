"""The `moments-in-time` card: three seconds of something that happens."""

import csv
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import Classes, bad_entry, needed
from diptych.data.cards.class_videos import Video, finder, in_annotation, in_folders, samples
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.sample import Sample
from diptych.data.targets.names import class_names

NAME = "moments-in-time"
ROOTS = (
    "",
    "Moments_in_Time_Raw/",
    f"Moments_in_Time_Raw.zip{INSIDE}",
    f"Moments_in_Time_Raw.zip{INSIDE}Moments_in_Time_Raw/",
)
"""What stands before `training/`."""
FOLDERS = {"train": "training", "val": "validation"}
HOMEPAGE = "http://moments.csail.mit.edu/"
_TREE = "MomentsInTime"
_FIELDS = 4


@functools.cache
def _classes() -> Classes:
    return Classes(NAME, class_names(NAME))


def _nothing(name: str) -> Mapping[str, Any]:
    return {}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the videos of the owners' lists in their order, or of the folders where a list is not there.

    Raises:
        DataError: there are labels or folders that are no class.
    """
    folder = RawFolder(needed(NAME, raw))
    places = {split: [f"{root}{name}" for root in ROOTS] for split, name in FOLDERS.items()}
    videos: list[Video | LeftOut] = []
    for split, name in FOLDERS.items():
        listed = [f"{root}{name}Set.csv" for root in ROOTS]
        if folder.find(*listed):
            videos += _listed(folder, split, listed)
        else:
            videos += in_folders(folder, {split: places[split]}, _nothing)
    yield from samples(videos, _classes(), finder(folder, places), f"{raw}")


def _listed(folder: RawFolder, split: str, places: list[str]) -> Iterator[Video | LeftOut]:
    with folder.text(*places) as stream:
        for number, row in enumerate(csv.reader(stream)):
            match row:
                case [name, label, yes, no] if name and label and yes.isdecimal() and no.isdecimal():
                    yield Video(name, split, label, {"votes_for": int(yes), "votes_against": int(no)})
                case []:
                    pass
                case _:
                    where = f"{FOLDERS[split]}Set.csv:{number + 1}"
                    yield bad_entry(where, "file, label, votes for and votes against", ",".join(row))


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the videos of Uni-Perceiver's `annotation.json`; without it, those in its folders.

    Raises:
        DataError: the file is of another form, or there are labels that are no class.
    """
    folder = RawFolder(needed(NAME, raw))
    places = {split: (f"{_TREE}/{name}",) for split, name in FOLDERS.items()}
    annotation = f"{_TREE}/annotation.json"
    found = (
        in_annotation(folder, annotation, _nothing)
        if folder.find(annotation)
        else in_folders(folder, places, _nothing)
    )
    yield from samples(list(found), _classes(), finder(folder, places), f"{raw}/{_TREE}")


CARD = Card(
    name=NAME,
    title="Moments in Time: classes of videos",
    description=(
        "Videos of three seconds in 339 classes: 802,264 to train on, 33,900 for validation (release 1). The "
        "67,800 test videos have no labels and are not prepared. Uni-Perceiver trains on it and evaluates "
        "nothing."
    ),
    licence=(
        "as far as we recall only after signing an agreement for non-commercial research, videos may not be "
        "passed on: have a person confirm it on the homepage"
    ),
    citation=(
        "M. Monfort et al. Moments in Time Dataset: One Million Videos for Event Understanding. IEEE "
        "Transactions on Pattern Analysis and Machine Intelligence, 2019."
    ),
    homepage=HOMEPAGE,
    convert=convert,
    sources=(
        Source(
            "training",
            "`Moments_in_Time_Raw.zip`, unpacked or not",
            alternatives=("Moments_in_Time_Raw", "Moments_in_Time_Raw.zip"),
        ),
        Source("validation", "the same", required=False),
        Source("trainingSet.csv", "the same; without it the folders tell the classes", required=False),
        Source("validationSet.csv", "the same", required=False),
    ),
    splits={
        "train": Split("split = 'train'", 802_264, about=True),
        "val": Split("split = 'val'", 33_900, about=True),
    },
    media="video",
    shard_size=500,
    target_set=NAME,
    prepared=(
        "A sample is a video. Key: its name (cleaned and with a hash where it has `+`, `%` or blanks); "
        "media: `mp4` as published. Columns: `label` (0 to 338, the place in the list by alphabet), "
        "`class_name` (with blanks), `votes_for` and `votes_against` (of the annotators, where "
        "the owners' lists are there). No captions."
    ),
    oddities=(
        "Folders have plus signs for blanks (`adult+female+singing`). Some clips have one or two frames, "
        "some no sound, some odd shapes; they stay. The same name in two folders makes two samples, the "
        "second one's key with a hash. Labels come from the full list; names that are no class end the "
        "preparation with a list of them. Listed videos that are not there are counted as `missing video`, "
        "lines of another form as `bad entry`."
    ),
    miniature="diptych.data.miniatures.moments:make_moments",
    layouts={
        "uniperceiver": Layout(
            "Uni-Perceiver's: `--raw` is its DATA_PATH. The videos are those of `annotation.json`, or of the "
            "folders where it is not there.",
            convert_tree,
            (
                Source(f"{_TREE}/annotation.json", "Uni-Perceiver's script or files", required=False),
                Source(f"{_TREE}/training", HOMEPAGE),
            ),
        ),
    },
)

"""The cards `kinetics-400` and `kinetics-700`: actions in ten seconds of YouTube."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import Classes, bad_entry, few_shot, needed
from diptych.data.cards.class_videos import (
    EXCLUDED,
    Video,
    clip_meta,
    finder,
    in_annotation,
    in_folders,
    samples,
    without_excluded,
)
from diptych.data.cards.options import Options
from diptych.data.cards.video_lists import Videos
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import comma_separated
from diptych.data.sample import Sample
from diptych.data.targets.names import class_names
from diptych.errors import DataError

OPTIONS = {"draw_seed": "whole number that fixes the column `draw` (default 0)"}
SPLITS = ("train", "val", "test")
_ARCHIVES = ("*.tar", "*.tar.gz", "*.tgz")
_HOMEPAGE = "https://github.com/cvdfoundation/kinetics-dataset"
_TREES = {"kinetics-400": "K400", "kinetics-700": "K700"}
_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}
_TREE_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


@functools.cache
def _classes(name: str) -> Classes:
    return Classes(name, class_names(name))


def convert(name: str, raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the videos that the owners' lists name, in their order.

    Raises:
        DataError: no list is there, one is of another form, or there are labels that are no class.
    """
    folder, seed = RawFolder(needed(name, raw)), _seed(name, options)
    listed = [split for split in SPLITS if folder.find(*_csv(split))]
    if not listed:
        raise DataError(
            f"{raw}: expected train.csv, val.csv or test.csv; for folders of classes without lists "
            "use --layout folders"
        )
    videos: list[Video | LeftOut] = []
    for split in listed:
        videos += _listed(folder, split)
    files = {split: Videos(folder, _places(folder, split)) for split in listed}

    def find(video: Video) -> Mapping[str, Ref] | None:
        # Copies without times in their names are found by the id alone.
        found = files[video.split]
        return found.get(video.name) or found.get(str(video.meta["youtube_id"]))

    yield from samples(videos, _classes(name), find, f"{raw}", seed)


def _seed(name: str, options: Mapping[str, str]) -> int:
    return Options(name, options, OPTIONS).integer("draw_seed", 0, 0, 2**31)


def _csv(split: str) -> tuple[str, ...]:
    return f"{split}.csv", f"annotations/{split}.csv"


def _places(folder: RawFolder, split: str) -> list[str]:
    """Return where the videos of a split lie; good copies of damaged ones come first."""
    replaced = [*folder.glob("replacement*"), *_archives(folder, "replacement*")]
    return [*replaced, split, *_archives(folder, split)]


def _archives(folder: RawFolder, below: str) -> list[str]:
    return [archive for kind in _ARCHIVES for archive in folder.glob(f"{below}/{kind}")]


def _listed(folder: RawFolder, split: str) -> Iterator[Video | LeftOut]:
    with folder.text(*_csv(split)) as stream:
        needs = (*(() if split == "test" else ("label",)), "youtube_id", "time_start", "time_end")
        for number, row in enumerate(comma_separated(stream, needs=needs)):
            # The header is line 1.
            where, label = f"{split}.csv:{number + 2}", (row.get("label") or "").strip()
            start, end = _seconds(row["time_start"]), _seconds(row["time_end"])
            if not row["youtube_id"] or start is None or end is None or (split != "test" and not label):
                yield bad_entry(where, "label, youtube_id, time_start and time_end", list(row.values()))
                continue
            meta = {"youtube_id": row["youtube_id"], "start": start, "end": end}
            name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            yield Video(name, split, label, meta)


def _seconds(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def convert_folders(
    name: str, raw: Path | None, options: Mapping[str, str]
) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the videos in the folders of classes, by name.

    Raises:
        DataError: there are folders that are no class.
    """
    folder = RawFolder(needed(name, raw))
    videos = without_excluded(folder, (EXCLUDED,), in_folders(folder, _FOLDERS, clip_meta))
    yield from samples(videos, _classes(name), finder(folder, _FOLDERS), f"{raw}", _seed(name, options))


def convert_tree(
    name: str, raw: Path | None, options: Mapping[str, str]
) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the videos of Uni-Perceiver's `annotation.json`; without it, those in its folders.

    Raises:
        DataError: the file is of another form, or there are labels that are no class.
    """
    folder, root = RawFolder(needed(name, raw)), _TREES[name]
    places = {split: (f"{root}/{place}",) for split, place in _TREE_FOLDERS.items()}
    annotation = f"{root}/annotation.json"
    found = (
        in_annotation(folder, annotation, clip_meta)
        if folder.find(annotation)
        else in_folders(folder, places, clip_meta)
    )
    videos = without_excluded(folder, (f"{root}/{EXCLUDED}", EXCLUDED), found)
    yield from samples(videos, _classes(name), finder(folder, places), f"{raw}/{root}", _seed(name, options))


def _card(name: str, splits: Mapping[str, Split], **more: Any) -> Card:
    tree = _TREES[name]
    count = len(class_names(name))
    return Card(
        name=name,
        title=f"Kinetics-{count}: classes of videos",
        licence=(
            "annotations CC BY 4.0 as far as we recall, videos under YouTube's terms: have a person confirm "
            "it on the homepage"
        ),
        homepage=_HOMEPAGE,
        convert=functools.partial(convert, name),
        sources=(
            *(
                Source(
                    f"{split}.csv",
                    f"the owners' annotations, linked from <{_HOMEPAGE}>",
                    required=False,
                    alternatives=(f"annotations/{split}.csv",),
                )
                for split in SPLITS
            ),
            *(
                Source(
                    split,
                    f"the archives of videos in this folder, unpacked or not (<{_HOMEPAGE}>)",
                    required=False,
                )
                for split in SPLITS
            ),
            Source("replacement*", "good copies of damaged videos of Kinetics-400", required=False),
        ),
        splits={
            **splits,
            "train_1pct": Split(few_shot(1), note="few-shot"),
            "train_10pct": Split(few_shot(10), note="few-shot"),
        },
        options=OPTIONS,
        media="video",
        shard_size=500,
        target_set=name,
        prepared=(
            "A sample is a video. Key: its name, as in `_4YTwq0-73Y_000044_000054`; media: `mp4`, `mkv` or "
            f"`webm` as published. Columns: `label` (0 to {count - 1}, the place in the owners' list by "
            "alphabet), `class_name`, `youtube_id`, `start`, `end` (seconds, where told), `draw` (place in "
            "a random order of its class, from 0; -1 outside of `train`) and `drawn_of` (videos of the "
            "class). Test videos have no label where the list has none. No captions."
        ),
        oddities=(
            "Folders have underscores for blanks, and with some copies no parentheses or apostrophes: names "
            "are compared by letters and digits. Labels come from the full list, never from the order of "
            "the folders that are there; unknown names end the preparation with a list of them. Names may "
            "begin with `-` or `_`; some have no times and another ending. `replacement*` goes before the "
            "other archives, of which one is a plain tar called `.tar.gz`. The same name in two folders "
            f"makes two samples, the second one's key with a hash. Videos that `{EXCLUDED}` names are "
            "counted as `excluded`, listed ones that are not there as `missing video`."
        ),
        miniature=f"diptych.data.miniatures.kinetics:make_kinetics_{count}",
        layouts={
            "uniperceiver": Layout(
                f"Uni-Perceiver's: `--raw` is its DATA_PATH, with the folder `{tree}`. The videos are those "
                "of `annotation.json`, or of the folders where it is not there.",
                functools.partial(convert_tree, name),
                (
                    Source(f"{tree}/annotation.json", "Uni-Perceiver's script or files", required=False),
                    Source(f"{tree}/training", _HOMEPAGE),
                    Source(f"{tree}/validation", _HOMEPAGE, required=False),
                    Source(
                        f"{tree}/{EXCLUDED}",
                        "files to leave out, one a line",
                        required=False,
                        alternatives=(EXCLUDED,),
                    ),
                ),
            ),
            "folders": Layout(
                "A folder for each class in `train` (or `training`), in `val` (`validation`) and in `test` "
                "(`testing`).",
                functools.partial(convert_folders, name),
                (
                    Source("train", "videos in folders of classes", alternatives=("training",)),
                    Source("val", "the same", required=False, alternatives=("validation",)),
                    Source(EXCLUDED, "files to leave out, one a line", required=False),
                ),
            ),
        },
        **more,
    )


CARD_400 = _card(
    "kinetics-400",
    {
        "train": Split("split = 'train'", 240_000, about=True),
        "val": Split("split = 'val'", 19_881, about=True),
        "test": Split("split = 'test'", 38_700, about=True),
    },
    description=(
        "Clips of about ten seconds in 400 classes of human actions. The lists have 246,245 videos for "
        "training and 20,000 for validation; what is still in circulation is about 240,000 and 19,881. Most "
        "of its validation videos are training videos of Kinetics-700."
    ),
    citation="W. Kay et al. The Kinetics Human Action Video Dataset. 2017.",
)
CARD_700 = _card(
    "kinetics-700",
    {
        "train": Split("split = 'train'", 545_500, about=True),
        "val": Split("split = 'val'", 34_600, about=True),
        "test": Split("split = 'test'", 69_000, about=True),
    },
    description=(
        "Clips of about ten seconds in 700 classes of human actions; the releases of 2019 (545,317 / 35,000 "
        "/ 70,000 videos) and of 2020 (about 545,800 / 34,300 / 67,900) have the same classes. Most "
        "validation videos of Kinetics-400 are training videos here."
    ),
    citation=(
        "J. Carreira, E. Noland, C. Hillier, A. Zisserman. A Short Note on the Kinetics-700 Human Action "
        "Dataset. 2019."
    ),
)

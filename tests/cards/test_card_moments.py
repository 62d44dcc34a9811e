"""The card `moments-in-time` on a miniature; figures worked out by hand."""

import zipfile
from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.base import LeftOut
from diptych.data.miniatures.moments import make_moments
from diptych.data.prepare import load_card
from diptych.errors import DataError


def test_lists_inside_the_archive(tmp_path: Path) -> None:
    made = Prepared("moments-in-time", tmp_path)
    assert made.counts() == {"train": 3, "val": 2}
    keys = list(made.samples)
    assert [keys[0], *keys[2:]] == ["yt-0a2b81cb0ec5_83", "flickr-9-0_12", "vine-0-1_1", "getty-2_2"]
    assert keys[1].startswith("clip_900001_4_")
    assert list(made.colours().values()) == [[1], [2], [3], [5], [6]]
    assert made.samples["yt-0a2b81cb0ec5_83"].meta == {
        "votes_for": 3,
        "votes_against": 0,
        "label": 0,
        "class_name": "adult female singing",
    }
    assert made.samples["vine-0-1_1"].meta["label"] == 337
    assert made.samples["getty-2_2"].meta["label"] == 0
    assert made.left_out() == {
        "bad entry": [
            "validationSet.csv:1: expected file, label, votes for and votes against, got short,line"
        ],
        "missing video": ["gone: blocking/gone.mp4"],
        "unreadable video": ["sound-1_1: mp4: no known video format; it starts with b'ID3\\x03no video'"],
    }
    assert made.column("frames")["vine-0-1_1"] == 1
    made.check()


def test_without_lists_the_folders_tell(tmp_path: Path) -> None:
    make_moments(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw/Moments_in_Time_Raw.zip") as archive:
        archive.extractall(tmp_path)
    unpacked = tmp_path / "Moments_in_Time_Raw"
    for name in ("trainingSet.csv", "validationSet.csv"):
        (unpacked / name).unlink()
    made = [m for m in load_card("moments-in-time").convert(unpacked, {}) if not isinstance(m, LeftOut)]
    labels = [(m.sample.split, m.sample.meta["class_name"]) for m in made]
    assert labels == [
        ("train", "adult female singing"),
        ("train", "blocking"),
        ("train", "blocking"),
        ("train", "yawning"),
        ("train", "yawning"),
        ("val", "adult female singing"),
        ("val", "writing"),
    ]
    (unpacked / "training/levitating").mkdir()
    (unpacked / "training/levitating/a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="1 names are no class of card 'moments-in-time': 'levitating'"):
        list(load_card("moments-in-time").convert(unpacked, {}))


def test_uni_perceivers_tree(tmp_path: Path) -> None:
    made = Prepared("moments-in-time", tmp_path, layout="uniperceiver")
    # annotation.json goes by bare names: of two equal ones the last counts.
    assert made.counts() == {"train": 3, "val": 0}
    assert sorted(made.colours().values()) == [[1], [2], [4]]
    assert made.samples["flickr-9-0_12"].meta["class_name"] == "yawning"
    (made.raw / "MomentsInTime/annotation.json").unlink()
    tree = made.card.layouts["uniperceiver"]
    assert len([m for m in tree.convert(made.raw, {}) if not isinstance(m, LeftOut)]) == 5

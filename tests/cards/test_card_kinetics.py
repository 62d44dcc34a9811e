"""The cards `kinetics-400` and `kinetics-700` on miniatures; figures worked out by hand."""

import shutil
from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.base import LeftOut
from diptych.data.cards.class_sets import Classes, fold
from diptych.data.cards.class_videos import clip_meta
from diptych.data.miniatures.kinetics import make_kinetics_400
from diptych.data.prepare import load_card
from diptych.data.targets.names import class_names
from diptych.errors import DataError

GAME = {"kinetics-400": "passing American football (in game)", "kinetics-700": "punching person (boxing)"}
LABELS = {"kinetics-400": (0, 196, 208, 399), "kinetics-700": (0, 327, 459, 699)}
"""Places of abseiling, massaging person's head, the class with parentheses, and zumba."""


@pytest.mark.slow
@pytest.mark.parametrize("name", GAME)
def test_lists_and_archives_of_the_owners(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path)
    # Three classes have one video that is there, or two: one of each is int(n / 100) + 1.
    assert made.counts() == {"train": 4, "val": 2, "test": 1, "train_1pct": 3, "train_10pct": 3}
    assert made.colours() == {
        "_4YTwq0-73Y_000044_000054": [1],
        "-bcdEFGhijk_000002_000012": [2],
        "AAAAAAAAAAA_000007_000017": [3],
        "BBBBBBBBBBB_000100_000110": [99],  # the good copy
        "CCCCCCCCCCC_000001_000011": [6],
        "__NrybzYzUg_000000_000010": [7],
        "DDDDDDDDDDD_000003_000013": [8],
    }
    named = {key: sample.meta.get("class_name") for key, sample in made.samples.items()}
    assert named["-bcdEFGhijk_000002_000012"] == "massaging person's head"
    assert named["AAAAAAAAAAA_000007_000017"] == GAME[name]
    assert named["DDDDDDDDDDD_000003_000013"] is None
    assert [made.samples[key].meta["label"] for key in list(made.samples)[:3]] == list(LABELS[name][:3])
    assert made.samples["CCCCCCCCCCC_000001_000011"].meta == {
        "youtube_id": "CCCCCCCCCCC",
        "start": 1,
        "end": 11,
        "label": LABELS[name][3],
        "class_name": "zumba",
        "draw": -1,
        "drawn_of": 0,
    }
    assert made.samples["BBBBBBBBBBB_000100_000110"].meta["drawn_of"] == 2
    assert list(made.samples["__NrybzYzUg_000000_000010"].media) == ["mkv"]
    assert made.left_out() == {
        "bad entry": [
            "train.csv:7: expected label, youtube_id, time_start and time_end, "
            "got ['zumba', 'noTIMESnoti', '', '', 'train', '0']"
        ],
        "missing video": ["goneGONEgon_000005_000015: goneGONEgon_000005_000015"],
        "repeated entry": [
            "_4YTwq0-73Y_000044_000054: train/abseiling/_4YTwq0-73Y_000044_000054",
        ],
        "unreadable video": ["EEEEEEEEEEE_000000_000010: mp4: the file is empty"],
    }
    made.check()


@pytest.mark.slow
@pytest.mark.parametrize("name", GAME)
def test_uni_perceivers_tree(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path, layout="uniperceiver")
    assert made.counts()["val"] == 3
    # A name that comes twice in annotation.json is there once, as it was written last.
    assert made.colours() == {
        "_4YTwq0-73Y_000044_000054": [1],
        "-bcdEFGhijk_000002_000012": [2],
        "AAAAAAAAAAA_000007_000017": [8],
        "__NrybzYzUg": [7],
        "CCCCCCCCCCC_000001_000011": [6],
    }
    assert made.samples["__NrybzYzUg"].meta["youtube_id"] == "__NrybzYzUg"
    assert "start" not in made.samples["__NrybzYzUg"].meta
    assert made.summary.problems == {"bad entry": 1, "excluded": 1, "missing video": 1}
    made.check()


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    made = Prepared("kinetics-400", tmp_path, layout="folders")
    assert made.counts() == {"train": 4, "val": 3, "test": 0, "train_1pct": 3, "train_10pct": 3}
    twice = [key for key in made.samples if key.startswith("AAAAAAAAAAA_000007_000017")]
    assert [made.colours()[key] for key in twice] == [[3], [8]]
    assert len(twice[1]) == len(twice[0]) + 9
    assert [made.samples[key].meta["class_name"] for key in twice] == [GAME["kinetics-400"], "zumba"]
    assert made.left_out() == {
        "bad entry": [
            "train/zumba/notes.txt: expected a video in the folder of its class, got zumba/notes.txt"
        ],
        "excluded": ["zzzzzzzzzzz_000000_000010: exclude_list.txt names it"],
    }
    made.check()


def test_labels_do_not_depend_on_which_classes_are_there(tmp_path: Path) -> None:
    make_kinetics_400(tmp_path, "folders")
    card = load_card("kinetics-400")
    shutil.rmtree(tmp_path / "train/abseiling")
    made = [m for m in card.layouts["folders"].convert(tmp_path, {}) if not isinstance(m, LeftOut)]
    assert {m.sample.meta["label"] for m in made if m.sample.split == "train"} == {196, 208}


def test_unknown_classes_are_listed_at_once(tmp_path: Path) -> None:
    make_kinetics_400(tmp_path)
    (tmp_path / "annotations/val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "flying,a,0,10,val\nzumba,b,0,10,val\nabsailing,c,0,10,val\nflying,d,0,10,val\n"
    )
    with pytest.raises(
        DataError, match="2 names are no class of card 'kinetics-400': 'absailing', 'flying'; "
    ):
        list(load_card("kinetics-400").convert(tmp_path, {}))


def test_lists_of_another_form_are_refused(tmp_path: Path) -> None:
    card = load_card("kinetics-400")
    with pytest.raises(DataError, match="--layout folders"):
        list(card.convert(tmp_path, {}))
    (tmp_path / "train.csv").write_text("abseiling,_4YTwq0-73Y,44,54,train,0\n" * 2)
    with pytest.raises(DataError, match="expected the header"):
        list(card.convert(tmp_path, {}))


@pytest.mark.parametrize("name", ["kinetics-400", "kinetics-700", "moments-in-time"])
def test_names_are_told_apart_by_letters_and_digits(name: str) -> None:
    names = class_names(name)
    assert len({fold(text) for text in names}) == len(names)
    classes = Classes(name, names)
    for spelled in (
        lambda t: t.replace(" ", "_"),
        lambda t: t.replace(" ", "+"),
        lambda t: t.replace("'", ""),
    ):
        assert [classes.find(spelled(text)) for text in names] == list(range(len(names)))
    assert classes.find("nothing like it") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_4YTwq0-73Y_000044_000054", {"youtube_id": "_4YTwq0-73Y", "start": 44, "end": 54}),
        ("___________", {"youtube_id": "___________"}),
        ("a_000044_000054", {}),
        ("_4YTwq0-73Y_44_54", {}),
    ],
)
def test_names_tell_id_and_times(name: str, expected: dict[str, object]) -> None:
    assert clip_meta(name) == expected

"""The cards `soho-pretrain` and `soho-vqa` on their miniatures."""

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from card_checks import Prepared
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.captions import caption_groups
from diptych.data.cards.soho_json import questions_of
from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.soho_json import ANSWERS, listed
from diptych.data.prepare import load_card, make_miniature
from diptych.errors import DataError, UsageError
from diptych.metrics.vqa import entry_scores


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("soho-pretrain", tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("soho-vqa", tmp_path_factory.mktemp("vqa"))


def test_groups_of_captions_and_what_is_left_out(captions: Prepared) -> None:
    assert captions.counts() == {"train": 5, "coco_train": 3, "coco_val": 1, "vg": 1}
    assert captions.summary.problems == {
        "picture too small": 1,
        "missing picture": 1,
        "unreadable picture": 1,
        "repeated picture": 1,
        "bad entry": 1,
    }
    left = captions.left_out()
    assert left["picture too small"] == ["coco_400: 64 x 20 pixels"]
    assert left["missing picture"] == ["coco_8: COCO_train2014_000000000008.jpg (1 groups)"]
    assert left["repeated picture"] == ["coco_9: coco_cap_train_pre.json, entry 5"]
    assert left["bad entry"] == [
        "coco_cap_train_pre.json, entry 6: expected a list of texts in 'captions', got null"
    ]
    captions.check()


def test_captions_reach_their_pictures(captions: Prepared) -> None:
    assert captions.colours() == {
        "coco_30_0": [1],
        "coco_30_1": [1],
        "coco_9_0": [2],
        "coco_42_0": [5],
        "vg_30_0": [7],
    }
    samples = captions.samples
    own = ['a "red" kite, high up', "two cafés", "a kite", "the sky", "a kite in the sky"]
    assert list(samples["coco_30_0"].captions) == own[:4]
    # One is left; three of a shuffle of all five fill the group up, so they differ from each other.
    last = samples["coco_30_1"].captions
    assert last[0] == own[4]
    assert len(last) == 4
    assert len(set(last[1:])) == 3
    assert set(last) <= set(own)
    assert samples["coco_9_0"].captions == ("a kite",) * 4
    assert samples["vg_30_0"].captions == ("a wall", "a door", "a lamp", "a kite")
    assert samples["coco_30_1"].meta == {
        "file": "COCO_train2014_000000000030.jpg",
        "list": "coco_cap_train_pre",
        "group": 1,
    }
    assert captions.column("match_id") == {
        "coco_30_0": "coco_30",
        "coco_30_1": "coco_30",
        "coco_9_0": "coco_9",
        "coco_42_0": "coco_42",
        "vg_30_0": "vg_30",
    }
    assert captions.column("width") | {"coco_9_0": 0} == {
        "coco_30_0": 64,
        "coco_30_1": 64,
        "coco_9_0": 0,
        "coco_42_0": 64,
        "vg_30_0": 48,
    }
    assert captions.column("height")["vg_30_0"] == 64


def converted(raw: Path, **options: str) -> dict[str, tuple[str, ...]]:
    found = load_card("soho-pretrain").convert(raw, options)
    return {made.sample.key: made.sample.captions for made in found if hasattr(made, "sample")}


def test_groups_depend_on_the_seed_and_the_picture_alone(captions: Prepared) -> None:
    whole = converted(captions.raw)
    assert converted(captions.raw) == whole
    part = converted(captions.raw, lists="coco_val,vg")
    assert part == {key: whole[key] for key in ("coco_42_0", "vg_30_0")}
    others = {converted(captions.raw, seed=str(seed))["coco_30_1"] for seed in range(8)}
    assert len(others) > 1
    assert {texts[0] for texts in others} == {"a kite in the sky"}


def test_options_of_groups_and_questions(captions: Prepared) -> None:
    pairs = converted(captions.raw, sentence_group="2", lists="vg")
    assert pairs == {"vg_30_0": ("a wall", "a door"), "vg_30_1": ("a lamp", "a kite")}
    asked = converted(captions.raw, qa="question", lists="vg", sentence_group="5")
    assert asked["vg_30_0"][4] == "What is it?"
    answered = converted(captions.raw, qa="answer", lists="vg", sentence_group="5")
    assert answered["vg_30_0"][4] == "What is it? A lamp."
    for wrong in ({"sentence_group": "0"}, {"lists": "coco"}, {"qa": "yes"}, {"labels": "1"}):
        with pytest.raises(UsageError, match="soho-pretrain"):
            converted(captions.raw, **wrong)


def test_the_zips_of_the_owners_and_unpacked_folders_do_as_well(tmp_path: Path) -> None:
    make_miniature(load_card("soho-pretrain"), tmp_path / "raw")
    for name in ("train2014", "images"):
        with zipfile.ZipFile(tmp_path / f"raw/{name}.zip") as archive:
            if name == "train2014":
                archive.extractall(tmp_path / "raw")
            else:
                with zipfile.ZipFile(tmp_path / "raw/images2.zip", "w") as own:
                    own.writestr("VG_100K_2/30.jpg", archive.read("30.jpg"))
        (tmp_path / f"raw/{name}.zip").unlink()
    assert Prepared("soho-pretrain", tmp_path).colours()["vg_30_0"] == [7]
    assert Prepared("soho-pretrain", tmp_path).colours()["coco_30_0"] == [1]


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "vg_cap_pre.json").write_text(json.dumps([listed("1.jpg", 1, ["x"])]))
    with pytest.raises(DataError, match=r"expected coco_cap_train_pre\.json"):
        converted(tmp_path)
    assert converted(tmp_path, lists="vg") == {}  # its zip is not there: the picture is counted


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_caption_groups(count: int, size: int, seed: int) -> None:
    captions = [f"caption {i}" for i in range(count)]
    drawn = random.Random(seed)
    groups = caption_groups(captions, size, drawn, drawn.randrange)
    assert all(len(group) == size for group in groups)
    assert len(groups) == -(-count // size)
    flat = [text for group in groups for text in group]
    assert flat[:count] == captions  # in order, each once, before anything is filled up
    added = flat[count:]
    assert set(added) <= set(captions)
    if len(added) <= count:
        assert len(set(added)) == len(added)


def test_questions_with_their_published_targets(questions: Prepared) -> None:
    assert questions.counts() == {"train": 2, "val": 1, "trainval": 3, "test": 1}
    assert questions.summary.problems == {
        "missing picture": 1,
        "picture too small": 1,
        "repeated question": 1,
        "bad entry": 1,
    }
    left = questions.left_out()
    assert left["repeated question"] == ["train_data_vqa.json, data 2: question_id 9000: Again?"]
    assert left["bad entry"] == [
        "train_data_vqa.json, data 5: IndexError: expected labels from 0 to 3, got [9]"
    ]
    assert questions.colours() == {
        "train_COCO_train2014_000000000030": [1],
        "train_COCO_train2014_000000000009": [2],
        "val_COCO_val2014_000000000042": [5],
        "test_COCO_test2015_000000000013": [6],
    }
    first = questions.samples["train_COCO_train2014_000000000030"]
    assert first.meta["questions"] == [
        {
            "question": "What is up?",
            "question_id": 30001,
            "dataset": "vqa",
            "scores": {"kite": 1.0, "2": 0.3},
        },
        {"question": "How many cafés, here?", "question_id": 30000, "dataset": "vqa", "scores": {"2": 0.9}},
        {"question": "Why?", "question_id": 30002, "dataset": "vqa", "scores": {}},
    ]
    test = questions.samples["test_COCO_test2015_000000000013"].meta["questions"]
    assert test == [
        {"question": "A cat?", "question_id": 13001, "dataset": "vqa"},
        {"question": "What is it?", "question_id": 13000, "dataset": "vqa"},
    ]
    assert questions.dataset.info["facts"] == {"answers": ANSWERS}
    questions.check()


def test_questions_as_rows_of_a_batch_in_their_pictures_shapes(questions: Prepared) -> None:
    rows = expand(questions.dataset.select("train"), "questions")
    fit = {"resize": "fit", "long": 128, "short": 64, "multiple": 32}
    (batch,) = evaluation_batches(rows, DataConfig.model_validate({"image": fit}), 8)
    assert batch.texts == ["What is up?", "How many cafés, here?", "Why?", "Is it a kite?"]
    assert [entry_scores(entry) for entry in batch.extra["questions"]] == [
        {"kite": 1.0, "2": 0.3},
        {"2": 0.9},
        {},
        {"kite": 0.6},
    ]
    assert batch.image_sizes is not None
    assert batch.image_sizes.tolist() == [[64, 85]] * 4
    assert batch.images is not None
    assert tuple(batch.images.shape) == (4, 3, 64, 96)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"question": "", "question_id": 1}, ValueError),
        ({"question": "x"}, KeyError),
        ({"question": "x", "question_id": [1]}, TypeError),
        ({"question": "x", "question_id": 1, "labels": [0, 1], "scores": [1.0]}, ValueError),
        ({"question": "x", "question_id": 1, "labels": [2], "scores": [1.0]}, IndexError),
        ({"question": "x", "question_id": 1, "labels": [True], "scores": [1.0]}, IndexError),
    ],
)
def test_damaged_questions(asked: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        questions_of({"vqa": [asked]}, ["yes", "no"])
    with pytest.raises(TypeError):
        questions_of({"vqa": asked}, ["yes", "no"])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    make_miniature(load_card("soho-vqa"), tmp_path)
    card = load_card("soho-vqa")
    assert card.facts is not None
    path = tmp_path / "val_data_vqa.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "label2ans": ANSWERS[::-1]}))
    with pytest.raises(DataError, match=r"'label2ans' of train_data_vqa\.json and of val_data_vqa\.json"):
        card.facts(tmp_path, {})
    path.write_text(json.dumps({**content, "label2ans": ["a", "a"]}))
    with pytest.raises(DataError, match="different texts in 'label2ans'"):
        list(card.convert(tmp_path, {"lists": "val"}))
    path.write_text(json.dumps({"data": []}))
    with pytest.raises(DataError, match="label2ans"):
        list(card.convert(tmp_path, {"lists": "val"}))

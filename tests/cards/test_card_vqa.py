"""The card `vqa-v2` on its miniature; rules for answers by hand."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from card_checks import Prepared
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.coco import as_json, unpacked
from diptych.data.miniatures.media import colour
from diptych.data.miniatures.vqa import make
from diptych.data.prepare import load_card
from diptych.data.vqa_answers import answer_list, as_answer_list, normalise_answer, vocabulary_answer
from diptych.errors import DataError
from diptych.metrics.vqa import entry_scores

TRAIN, VAL, TEST = "COCO_train2014_", "COCO_val2014_", "COCO_test2015_"
MINIVAL = f"{VAL}000000900123_minival"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("vqa-v2", tmp_path_factory.mktemp("vqa"), minival="2")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("vqa-v2", tmp_path_factory.mktemp("tree"), "uniperceiver", minival="2")


def questions(made: Prepared, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.samples[key].meta["questions"]
    return found


def test_splits_and_what_is_left_out(made: Prepared) -> None:
    assert made.counts() == {
        "train": 1,
        "val": 3,
        "trainval": 4,
        "minival": 1,
        "train_without_minival": 3,
        "train_vg": 3,
        "vg": 0,
        "test": 2,
        "test_dev": 1,
    }
    assert made.column("split") == {
        f"{TRAIN}000000000042": "train",
        f"{VAL}000000000007": "val",
        f"{VAL}000000900123": "val",
        MINIVAL: "minival",
        f"{TEST}000000000013": "test",
        f"{TEST}000000000077": "test_dev",
    }
    left = made.left_out()
    assert {cause: len(examples) for cause, examples in left.items()} == {
        "missing picture": 1,
        "unreadable picture": 1,
        "no answer": 1,
        "repeated question": 1,
        "bad entry": 1,
    }
    assert left["missing picture"] == [
        "COCO_train2014_000000000009: train2014/COCO_train2014_000000000009.jpg (1 questions)"
    ]
    assert left["no answer"] == ["42005: Nobody answered?"]
    assert left["repeated question"] == ["7000: How many dogs?"]
    made.check()


def test_questions_answers_and_pictures_come_together(made: Prepared) -> None:
    train = questions(made, f"{TRAIN}000000000042")
    assert [entry["question_id"] for entry in train] == [42000, 42001, *range(42010, 42018)]
    assert train[0] == {
        "question": 'What colour, is the "kité"?',
        "question_id": 42000,
        "dataset": "vqa",
        "answers": ["red"] * 6 + ["dark red"] * 3 + ["Red"],
        "question_type": "what color is the",
        "kind": "other",
    }
    assert entry_scores(train[0]) == {"red": 1.0, "dark red": 0.9, "Red": 0.3}
    assert [entry["question_id"] for entry in questions(made, f"{VAL}000000000007")] == [7000, 7001]
    assert [entry["question_id"] for entry in questions(made, f"{VAL}000000900123")] == [900123000]
    assert [entry["question_id"] for entry in questions(made, MINIVAL)] == [900123001, 900123002]
    assert questions(made, f"{TEST}000000000013") == [
        {"question": "What is hidden?", "question_id": 13000, "dataset": "vqa"}
    ]
    assert made.column("questions")[f"{TRAIN}000000000042"] == 10
    assert made.samples[MINIVAL].match_id == made.samples[f"{VAL}000000900123"].match_id == "coco_900123"
    assert made.colours() == {
        f"{TRAIN}000000000042": [42],
        f"{VAL}000000000007": [7],
        f"{VAL}000000900123": [900123 % 4096],
        MINIVAL: [900123 % 4096],
        f"{TEST}000000000013": [13],
        f"{TEST}000000000077": [77],
    }


def test_questions_come_out_of_the_loader(made: Prepared) -> None:
    rows = expand(made.dataset.select("minival"), "questions")
    config = DataConfig.model_validate({"image": {"size": 16}, "text": {"clean": "question"}})
    (batch,) = evaluation_batches(rows, config, 8)
    assert batch.texts == ["what is it", "is it red"]
    assert batch.images is not None
    assert batch.images.float().mean((2, 3))[0].tolist() == pytest.approx(colour(900123 % 4096), abs=4)


def test_the_list_of_answers_is_made_or_given(made: Prepared, tmp_path: Path) -> None:
    # Ten questions: nine "yes", one of them about a broken picture, which counts, and one "Yes.".
    facts = made.dataset.info["facts"]
    assert facts["answers"] == ["yes"]
    assert facts["answers_from"].startswith("annotations")
    make(tmp_path / "raw")
    unpacked(tmp_path / "raw", {"answer_list.json": as_json(["yes", "red"])})
    given = Prepared("vqa-v2", tmp_path)
    assert given.dataset.info["facts"] == {"answers": ["yes", "red"], "answers_from": "answer_list.json"}
    # All of so small a val is minival.
    assert given.counts()["minival"] == given.counts()["val"] == 2
    unpacked(tmp_path / "raw", {"mine.pkl": pickle.dumps({"b": 1, "a": 0}, protocol=2)})
    other = Prepared("vqa-v2", tmp_path, answers="mine.pkl")
    assert other.dataset.info["facts"]["answers"] == ["a", "b"]


def test_visual_genome_with_its_own_pictures(tmp_path: Path) -> None:
    made = Prepared("vqa-v2", tmp_path, vg="own", vg_root="vg", minival="0")
    assert made.counts()["vg"] == 2
    assert made.counts()["train_vg"] == 5
    assert questions(made, "vg_2") == [
        {"question": "What is lit?", "question_id": 700001, "dataset": "vg", "answer": "The sign."}
    ]
    assert made.colours()["vg_2"] == [2]
    assert made.colours()["vg_10"] == [10]
    assert made.samples["vg_10"].match_id == "coco_42"
    assert made.samples["vg_2"].match_id == "vg_2"
    assert made.counts()["minival"] == 0


def test_visual_genome_on_pictures_of_coco(tmp_path: Path) -> None:
    made = Prepared("vqa-v2", tmp_path, vg="coco", vg_root="vg/")
    assert made.colours()["vg_10"] == [42]
    assert made.samples["vg_10"].meta["file"] == "train2014/COCO_train2014_000000000042.jpg"
    assert made.left_out()["no picture of COCO"] == ["vg_2: 1 questions"]


def test_the_tree_of_uniperceiver_has_published_targets(tree: Prepared) -> None:
    assert tree.counts() == {
        "train": 1,
        "val": 3,
        "trainval": 4,
        "minival": 1,
        "train_without_minival": 3,
        "train_vg": 4,
        "vg": 1,
        "test": 2,
        "test_dev": 1,
    }
    train = questions(tree, f"{TRAIN}000000000042")
    assert train[0] == {
        "question": 'What colour, is the "kité"?',
        "question_id": 42000,
        "dataset": "vqa",
        "scores": {"red": 1.0},
    }
    assert questions(tree, MINIVAL)[0]["scores"] == {}
    assert questions(tree, MINIVAL)[1]["scores"] == {"yes": 0.9}
    assert entry_scores(questions(tree, MINIVAL)[1]) == {"yes": 0.9}
    assert questions(tree, "vg_COCO_train2014_000000000042") == [
        {"question": "What is lit?", "question_id": 500, "dataset": "vg", "scores": {"sign": 1.0}}
    ]
    assert tree.colours()["vg_COCO_train2014_000000000042"] == [42]
    assert tree.dataset.info["facts"]["answers"] == ["", "yes", "red", "2", "sign"]
    assert tree.dataset.info["facts"]["answers_from"] == "VQA/trainval_label2ans.pkl"
    tree.check()


def test_the_questions_of_test_dev_alone_and_no_test_at_all(tmp_path: Path) -> None:
    make(tmp_path, "uniperceiver")
    layout = load_card("vqa-v2").layouts["uniperceiver"]
    (tmp_path / "VQA/v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    found = [e.sample for e in layout.convert(tmp_path, {}) if isinstance(e, Unread)]
    assert [sample.split for sample in found if sample.key.startswith(TEST)] == ["test_dev"]
    (tmp_path / "VQA/v2_OpenEnded_mscoco_test-dev2015_questions.json").unlink()
    found = [e.sample for e in layout.convert(tmp_path, {}) if isinstance(e, Unread)]
    assert not any(sample.key.startswith(TEST) for sample in found)


def test_annotations_win_over_published_targets(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "raw", "uniperceiver")
    name = "v2_mscoco_val2014_annotations.json"
    vg = {"annotations": [{"question_id": 500, "answers": [{"answer": "the sign"}]}]}
    unpacked(
        tmp_path / "raw/VQA", {name: (tmp_path / "a" / name).read_bytes(), "VG_annotations.json": as_json(vg)}
    )
    made = Prepared("vqa-v2", tmp_path, "uniperceiver")
    assert questions(made, f"{VAL}000000000007")[1]["answers"] == ["on bench"] * 10
    assert "scores" in questions(made, f"{TRAIN}000000000042")[0]
    assert questions(made, "vg_COCO_train2014_000000000042")[0]["answer"] == "the sign"
    off = Prepared("vqa-v2", tmp_path, "uniperceiver", vg="no")
    assert off.counts()["vg"] == 0


class _Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("called"),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_target.pkl", _Call(), "train_target"),
        ("train_target.pkl", {"a": 1}, "expected a list of targets, got dict"),
        ("trainval_label2ans.pkl", ["a", "a"], "the answer 'a' is there twice"),
        ("trainval_label2ans.pkl", {"a": 1}, "expected a table from answers to the numbers"),
        ("trainval_label2ans.pkl", [1], "expected a list of texts"),
    ],
)
def test_pickles_of_another_form_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "uniperceiver")
    unpacked(tmp_path / "VQA", {name: pickle.dumps(content, protocol=2)})
    with pytest.raises(DataError, match=message):
        list(load_card("vqa-v2").layouts["uniperceiver"].convert(tmp_path, {}))
    assert not (tmp_path / "called").exists()


def test_damaged_targets_are_counted_and_missing_ones_named(tmp_path: Path) -> None:
    make(tmp_path, "uniperceiver")
    layout = load_card("vqa-v2").layouts["uniperceiver"]
    bad = [
        {"question_id": 1, "labels": [9], "scores": [1.0]},
        {"question_id": 2, "labels": [1], "scores": []},
        {"question_id": 3, "labels": [1], "scores": [2.0]},
        {"labels": [], "scores": []},
        7,
    ]
    unpacked(tmp_path / "VQA", {"train_target.pkl": pickle.dumps(bad, protocol=2)})
    found = [entry for entry in layout.convert(tmp_path, {}) if isinstance(entry, LeftOut)]
    assert sum(left.cause == "bad entry" for left in found) == 5
    (tmp_path / "VQA/train_target.pkl").unlink()
    with pytest.raises(DataError, match=r"expected VQA/train_target\.pkl, or VQA/v2_mscoco_train2014"):
        list(layout.convert(tmp_path, {}))


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Cat.", "cat"),
        ("Two", "2"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("U.S.", "us"),
        ("12:35", "12:35"),
        ("yes/no", "yes no"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("(red)", "red"),
        ("$5.00", "$5.00"),
        ("100%", "100%"),
        ("the", ""),
        ("1,000 - 2", "1000 2"),
        ("Mr. Smith's", "mr smith's"),
    ],
)
def test_rules_for_answers_as_measured_on_the_reference(answer: str, normal: str) -> None:
    assert normalise_answer(answer) == normal


def test_answers_to_choose_from() -> None:
    answers = ["Yes"] * 5 + ["yes."] * 4 + ["no"] * 9 + ["the"] * 9 + ["rare"] * 8 + ["a, b"] * 10
    assert answer_list(answers) == ["b", "", "no", "yes"]
    assert answer_list(answers, least=8) == ["b", "", "no", "yes", "rare"]
    assert vocabulary_answer("1,5 , x") == "15 x"
    assert as_answer_list({"b": 1, "": 0}, "x") == ["", "b"]


@given(st.lists(st.sampled_from(["yes", "Yes", "no", "two", "2", "the"]), max_size=30), st.integers(1, 6))
def test_answers_to_choose_from_against_counting(answers: list[str], least: int) -> None:
    plain = [vocabulary_answer(answer) for answer in answers]
    kept = answer_list(answers, least)
    assert set(kept) == {answer for answer in plain if plain.count(answer) >= least}
    assert [plain.count(answer) for answer in kept] == sorted(map(plain.count, kept), reverse=True)

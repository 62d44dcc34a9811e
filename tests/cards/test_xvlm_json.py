"""The cards of fine-tuning annotations, on lists and pictures made here."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.data.cards import xvlm_json_nlvr, xvlm_json_retrieval, xvlm_json_vqa
from diptych.data.cards.base import Card, LeftOut, Split, Unread
from diptych.data.cards.xvlm_json import Keys
from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.index import ShardDataset
from diptych.data.loader import evaluation_batches
from diptych.data.prepare import load_card, prepare
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

RETRIEVAL, VQA, NLVR = xvlm_json_retrieval.CARD, xvlm_json_vqa.CARD, xvlm_json_nlvr.CARD


def picture(path: Path, shade: int) -> bytes:
    """Write a grey picture of one shade and return its bytes."""
    out = io.BytesIO()
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(out, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())
    return out.getvalue()


def listed(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path.name


def converted(card: Card, raw: Path, **options: str) -> tuple[list[Sample], list[LeftOut]]:
    made = list(card.convert(raw, options))
    unread = [m for m in made if isinstance(m, Unread)]
    samples = [replace(m.sample, media={name: ref.read() for name, ref in m.refs.items()}) for m in unread]
    return samples, [m for m in made if isinstance(m, LeftOut)]


def caption(image: str, text: str, number: str | int) -> dict[str, Any]:
    return {"image": image, "caption": text, "image_id": number}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    for shade, name in enumerate(("a/one.jpg", "a/two.png", "b/three.jpg", "b/four.jpeg")):
        picture(tmp_path / "images" / name, 10 * shade)
    train = [
        caption("a/one.jpg", "one", "coco_1"),
        caption("a/two.png", "two", "coco_2"),
        caption("a/one.jpg", "first", "coco_1"),
        caption("a/one.jpg", "one", "coco_1"),
        caption("a/gone.jpg", "gone", 7),
        caption("b/three.jpg", "like two", "coco_2"),
    ]
    listed(tmp_path / "train.json", train[:3])
    listed(tmp_path / "more.json", train[3:])
    listed(tmp_path / "test.json", [{"image": "b/four.jpeg", "caption": ["four", "vier", "four"]}])
    return tmp_path


def test_captions_of_a_picture_become_one_sample(captions: Path) -> None:
    samples, left = converted(
        RETRIEVAL, captions, train="train.json, more.json", test="test.json", images="images"
    )
    assert [(s.key, s.captions, s.match_id, s.split) for s in samples] == [
        ("train_a_one", ("one", "first"), "coco_1", "train"),
        ("train_a_two", ("two",), "coco_2", "train"),
        ("train_b_three", ("like two",), "coco_2", "train"),
        ("test_b_four", ("four", "vier", "four"), "", "test"),
    ]
    assert [list(s.media) for s in samples] == [["jpg"], ["png"], ["jpg"], ["jpeg"]]
    assert samples[1].media["png"] == (captions / "images/a/two.png").read_bytes()
    assert samples[1].meta == {"file": "a/two.png"}
    assert [(problem.cause, problem.key) for problem in left] == [
        ("repeated caption", "train_a_one"),
        ("missing picture", "train_a_gone"),
    ]
    assert left[1].detail == "a/gone.jpg (1 captions)"


def test_preparation_counts_what_is_left_out_and_names_the_splits(captions: Path, tmp_path: Path) -> None:
    options = {"train": "train.json,more.json", "test": "test.json", "images": "images"}
    summary = prepare(load_card("retrieval-json"), captions, tmp_path / "out", options=options)
    assert summary.splits == {"train": 3, "val": 0, "test": 1}
    assert summary.problems == {"missing picture": 1, "repeated caption": 1}
    assert summary.examples["missing picture"] == ["train_a_gone: a/gone.jpg (1 captions)"]
    dataset = ShardDataset.open(tmp_path / "out")
    assert dataset.select("train", "match_id = 'coco_2'").column("file") == ["a/two.png", "b/three.jpg"]
    assert dataset.info["facts"] == {}


def test_changed_annotations_are_another_dataset(captions: Path, tmp_path: Path) -> None:
    options = {"train": "train.json", "images": "images"}
    prepare(RETRIEVAL, captions, tmp_path / "out", options=options)
    assert prepare(RETRIEVAL, captions, tmp_path / "out", options=options).already
    with pytest.raises(DataError, match=r"options is images=images train=train\.json, wanted"):
        prepare(RETRIEVAL, captions, tmp_path / "out", options={**options, "test": "test.json"})
    with pytest.raises(DataError, match=r"-o val=lost.json: .*lost.json is not there"):
        prepare(RETRIEVAL, captions, tmp_path / "new", options={"val": "lost.json"})


def test_pictures_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    picture(tmp_path / "secret.jpg", 1)
    (tmp_path / "images").mkdir()
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "", "\0", "."]
    listed(tmp_path / "train.json", [caption(name or "images", "x", i) for i, name in enumerate(names)])
    samples, left = converted(RETRIEVAL, tmp_path, train="train.json", images="images")
    assert not samples
    assert [problem.cause for problem in left] == ["missing picture"] * 5


def question(number: int, text: str, image: str, **more: Any) -> dict[str, Any]:
    return {"question_id": number, "question": text, "image": image, **more}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    for folder, name, shade in (
        ("coco", "v/1.jpg", 10),
        ("coco", "v/2.jpg", 20),
        ("vg", "v/1.jpg", 30),
        (".", "gqa/3.jpg", 40),
    ):
        picture(tmp_path / folder / name, shade)
    ten = ["red"] * 6 + ["dark red"] * 4
    listed(
        tmp_path / "train.json",
        [
            question(1, "What colour?", "v/1.jpg", answer=ten, dataset="vqa", answer_type="other"),
            question(2, "How many?", "v/2.jpg", answer=["2"] * 10),
            question(1, "What is it?", "v/1.jpg", answer="a dog", dataset="vg"),
            question(3, "Is it left?", "v/1.jpg", answer=["yes"] * 10),
            question(3, "Is it left?", "v/2.jpg", answer=["no"] * 10),
            question(4, "Where?", "gqa/3.jpg", answer="left", dataset="gqa"),
            question(5, "Which?", "v/9.jpg", answer=["x"] * 10),
        ],
    )
    listed(tmp_path / "test.json", [question(9, "And this?", "v/1.jpg")])
    listed(tmp_path / "answers.json", ["red", "2", "a dog", "yes"])
    return tmp_path


def test_questions_about_a_picture_become_one_sample(asked: Path) -> None:
    samples, left = converted(VQA, asked, train="train.json", test="test.json", vqa_root="coco", vg_root="vg")
    assert [s.key for s in samples] == [
        "train_vqa_v_1",
        "train_vqa_v_2",
        "train_vg_v_1",
        "train_gqa_gqa_3",
        "test_vqa_v_1",
    ]
    first = samples[0].meta["questions"]
    assert first[0] == {
        "question": "What colour?",
        "question_id": 1,
        "dataset": "vqa",
        "answers": ["red"] * 6 + ["dark red"] * 4,
        "kind": "other",
    }
    assert [entry["question_id"] for entry in first] == [1, 3]
    assert samples[2].meta["questions"] == [
        {"question": "What is it?", "question_id": 1, "dataset": "vg", "answer": "a dog"}
    ]
    assert samples[2].media["jpg"] == (asked / "vg/v/1.jpg").read_bytes()
    assert samples[4].meta["questions"] == [{"question": "And this?", "question_id": 9, "dataset": "vqa"}]
    assert [(p.cause, p.key) for p in left] == [
        ("repeated question", "train_vqa_v_2"),
        ("missing picture", "train_vqa_v_9"),
    ]


def test_questions_from_lists_to_rows_of_batches(asked: Path, tmp_path: Path) -> None:
    options = {"train": "train.json", "vqa_root": "coco", "vg_root": "vg", "answers": "answers.json"}
    summary = prepare(load_card("vqa-json"), asked, tmp_path / "out", options=options)
    assert summary.problems == {"missing picture": 1, "repeated question": 1}
    dataset = ShardDataset.open(tmp_path / "out")
    assert dataset.info["facts"] == {"answers": ["red", "2", "a dog", "yes"]}
    assert dataset.select().column("questions").tolist() == [2, 1, 1, 1]
    rows = expand(dataset.select("train"), "questions")
    config = DataConfig.model_validate({"image": {"size": 4}, "text": {"clean": "question"}})
    (batch,) = evaluation_batches(rows, config, 8)
    assert batch.texts == ["what colour", "is it left", "how many", "what is it", "where"]
    assert [entry["question_id"] for entry in batch.extra["questions"]] == [1, 3, 2, 1, 4]
    assert batch.images is not None
    np.testing.assert_allclose(batch.images.float().mean((1, 2, 3)), [10, 10, 20, 30, 40], atol=1)


@pytest.mark.parametrize(
    ("answers", "message"),
    [("{}", "expected a list of texts"), ('["a", "b", "a"]', "the answer 'a' is there twice"), ("[", "JSON")],
)
def test_a_bad_list_of_answers_is_refused(asked: Path, tmp_path: Path, answers: str, message: str) -> None:
    (asked / "answers.json").write_text(answers)
    with pytest.raises(DataError, match=message):
        prepare(VQA, asked, tmp_path / "out", options={"test": "test.json", "answers": "answers.json"})


def stated(left: str, right: str, text: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"images": [left, right], "sentence": text, "label": label, **more}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for shade, name in ((10, "a.png"), (20, "b.jpg"), (30, "c.jpg")):
        picture(tmp_path / name, shade)
    listed(
        tmp_path / "train.json",
        [
            stated("a.png", "b.jpg", "Both show it.", "True", identifier="train-1-0"),
            stated("b.jpg", "a.png", "Both show it.", "False"),
            stated("a.png", "b.jpg", "One does.", False),
            stated("b.jpg", "a.png", "Both show it.", "False"),
            stated("a.png", "lost.jpg", "None does.", "true"),
        ],
    )
    listed(tmp_path / "test.json", [{"images": ["c.jpg", "a.png"], "sentence": "Hidden."}])
    return tmp_path


def test_statements_about_a_pair_become_one_sample(pairs: Path) -> None:
    samples, left = converted(NLVR, pairs, train="train.json", test="test.json")
    assert [(s.key, list(s.media), s.meta["statements"]) for s in samples] == [
        (
            "train_a_b",
            ["0.png", "1.jpg"],
            [
                {"statement": "Both show it.", "label": True, "identifier": "train-1-0"},
                {"statement": "One does.", "label": False},
            ],
        ),
        ("train_b_a", ["0.jpg", "1.png"], [{"statement": "Both show it.", "label": False}]),
        ("test_c_a", ["0.jpg", "1.png"], [{"statement": "Hidden."}]),
    ]
    assert [(p.cause, p.key, p.detail) for p in left] == [
        ("repeated statement", "train_b_a", "Both show it."),
        ("missing picture", "train_a_lost", "lost.jpg (1 statements)"),
    ]


def test_statements_from_lists_to_rows_of_batches(pairs: Path, tmp_path: Path) -> None:
    prepare(load_card("nlvr-json"), pairs, tmp_path / "out", options={"train": "train.json"})
    rows = expand(ShardDataset.open(tmp_path / "out").select("train"), "statements")
    config = DataConfig.model_validate({"image": {"size": 4}})
    (batch,) = evaluation_batches(rows, config, 8)
    assert batch.images is not None
    assert tuple(batch.images.shape) == (3, 2, 3, 4, 4)
    np.testing.assert_allclose(batch.images.float().mean((2, 3, 4)), [[10, 20], [10, 20], [20, 10]], atol=1)
    assert [entry["label"] for entry in batch.extra["statements"]] == [True, False, False]


@pytest.mark.parametrize(
    ("card", "content", "message"),
    [
        (RETRIEVAL, {"a": 1}, "expected a list of entries, got dict"),
        (RETRIEVAL, [1], "entry 0: expected an object, got 1"),
        (RETRIEVAL, [{"image": "a"}], "entry 0: expected a text or a list of texts in 'caption', got null"),
        (RETRIEVAL, [caption("a", "b", 1), {"caption": "b"}], "entry 1: expected a text in 'image'"),
        (RETRIEVAL, [{"image": "a", "caption": "b", "image_id": 1.5}], "a text or a whole number in 'image_"),
        (RETRIEVAL, [{"image": "a", "caption": ["b"]}] * 2, "'a' has two lists of captions"),
        (VQA, [question(1, " ", "a")], "entry 0: expected a text in 'question', got \" \""),
        (VQA, [question(1, "b", "a", dataset="cocoqa")], "'dataset' to be one of vqa, vg, gqa"),
        (VQA, [question(1, "b", "a", answer=[1])], "a text or a list of texts in 'answer'"),
        (VQA, [{"question": "b", "image": "a"}], "a text or a whole number in 'question_id'"),
        (NLVR, [stated("a", "b", "c", "maybe")], "'True' or 'False' in 'label', got \"maybe\""),
        (NLVR, [{"images": ["a"], "sentence": "c"}], "two names in 'images'"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path: Path, card: Card, content: Any, message: str) -> None:
    listed(tmp_path / "train.json", content)
    with pytest.raises(DataError, match=message):
        list(card.convert(tmp_path, {"train": "train.json"}))


@pytest.mark.parametrize("card", [RETRIEVAL, VQA, NLVR], ids=lambda card: card.name)
def test_wrong_options_are_refused(tmp_path: Path, card: Card) -> None:
    with pytest.raises(UsageError, match="name a file with -o train="):
        list(card.convert(tmp_path, {}))
    with pytest.raises(UsageError, match=r"has no option 'trian'.*did you mean 'train'"):
        list(card.convert(tmp_path, {"trian": "x"}))
    with pytest.raises(UsageError, match="give their folder with --raw"):
        prepare(card, None, tmp_path / "out", options={"train": "x"})


def test_keys_tell_pictures_apart_whatever_they_are_called() -> None:
    keys = Keys()
    names = ["a/b.jpg", "a_b.jpg", "a b.png", "x" * 300 + ".jpg", "x" * 300 + "y.jpg"]
    made = [keys.make("train", name) for name in names]
    assert made[0] == "train_a_b"
    assert len(set(made)) == len(names)
    assert all(len(key) <= 160 for key in made)
    again = Keys()
    assert [again.make("train", name) for name in names] == made


def test_an_interrupted_preparation_counts_what_is_left_out_once(tmp_path: Path) -> None:
    broken = [True]

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
        for i in range(20):
            if i % 3 == 2:
                yield LeftOut("lost", f"k{i}", "it")
            else:
                yield Sample(f"k{i}", {"bin": bytes([i])}, (f"text {i}",))
            if i == 17 and broken:
                raise RuntimeError("interrupted")

    card = Card("toy", "Toy", "x", "none", convert, {"train": Split("true")}, needs_raw=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        prepare(card, None, tmp_path / "a", shard_size=4)
    broken.clear()
    resumed = prepare(card, None, tmp_path / "a", shard_size=4)
    assert resumed.resumed
    assert resumed.problems == {"lost": 6}
    assert resumed.samples == 14
    whole = prepare(card, None, tmp_path / "b", shard_size=4)
    assert whole.problems == resumed.problems
    assert (tmp_path / "a/dataset.json").read_bytes() == (tmp_path / "b/dataset.json").read_bytes()

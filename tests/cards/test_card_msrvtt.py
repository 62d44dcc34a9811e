"""The cards `msr-vtt`, `msrvtt-qa` and `msrvtt-mc` on miniatures; figures worked out by hand."""

import json
import zipfile
from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.base import LeftOut
from diptych.data.cards.msrvtt_forms import number_of, official_split
from diptych.data.examples import expand
from diptych.data.miniatures.media import video
from diptych.data.miniatures.msrvtt import make_msrvtt
from diptych.data.prepare import load_card
from diptych.errors import DataError, UsageError

ORDER = ["video6512", "video0", "video6513", "video9001", "video7010", "video9999", "video7015"]


@pytest.mark.slow
def test_captions_and_splits(tmp_path: Path) -> None:
    made = Prepared("msr-vtt", tmp_path)
    assert made.counts() == {
        "train": 2,
        "val": 1,
        "test": 4,
        "train_7k": 3,
        "train_9k": 4,
        "test_1k": 2,
    }
    assert list(made.samples) == ORDER
    car, cook = made.samples["video0"], made.samples["video6512"]
    assert car.captions == ("a car is shown", "a red car")
    assert cook.captions == ('a "chef" cooks, très slowly',)
    assert cook.meta == {
        "number": 6512,
        "category": 12,
        "url": "https://video.example/watch?v=6512",
        "start": 137.72,
        "end": 149.0,
        "sen_ids": [101],
        "train_9k": True,
        "test_1k": False,
    }
    paper = made.samples["video9001"]
    assert paper.captions == ("a man folds a paper boat", "somebody folds paper")
    assert paper.meta["retrieval_key"] == "ret1"
    assert made.samples["video9999"].meta["sentence_1k"] == "a small dog, in the snow"
    assert made.colours() == {
        "video6512": [65],
        "video0": [1],
        "video6513": [66],
        "video9001": [91],
        "video7010": [70],
        "video9999": [99],
        "video7015": [75],
    }
    made.check()


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    left = Prepared("msr-vtt", tmp_path).left_out()
    size = len(video(40, seconds=0.5))
    assert left["truncated video"] == [f"video40: mp4: {size - 100} bytes of {size}"]
    del left["truncated video"]
    assert left == {
        "bad entry": [
            "test_videodatainfo.json:sentences[6]: expected `caption`, and `video_id` of one of `videos`, "
            "got {'caption': 'lost', 'video_id': 'video8888', 'sen_id': 999}",
            "lists of 1k-A: video5000: expected a clip of the annotations, got video5000",
        ],
        "empty caption": ["video7010: 1 of 2 left out"],
        "missing video": ["video12: video12 (1 captions)"],
    }


def test_one_sentence_a_clip_for_the_test_of_1k(tmp_path: Path) -> None:
    made = Prepared("msr-vtt", tmp_path, sentences="1k")
    assert {key: sample.captions for key, sample in made.samples.items() if sample.meta["test_1k"]} == {
        "video9001": ("a man folds a paper boat",),
        "video9999": ("a small dog, in the snow",),
    }
    assert made.samples["video0"].captions == ("a car is shown", "a red car")
    (made.raw / "MSRVTT_JSFUSION_test.csv").unlink()
    with pytest.raises(DataError, match=r"MSRVTT_JSFUSION_test\.csv"):
        next(made.card.convert(made.raw, {"sentences": "1k"}))
    with pytest.raises(UsageError, match="sentences=one"):
        next(made.card.convert(made.raw, {"sentences": "one"}))


def test_without_lists_of_splits_nobody_is_in_them(tmp_path: Path) -> None:
    make_msrvtt(tmp_path / "raw")
    for name in ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"):
        (tmp_path / "raw" / name).unlink()
    made = Prepared("msr-vtt", tmp_path)
    assert made.counts() == {"train": 2, "val": 1, "test": 4, "train_7k": 3, "train_9k": 0, "test_1k": 0}


def test_a_list_of_another_form_is_refused(tmp_path: Path) -> None:
    make_msrvtt(tmp_path)
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("video_id\nvideo9999\n")
    with pytest.raises(DataError, match="expected the header key,vid_key,video_id,sentence, got video_id"):
        list(load_card("msr-vtt").convert(tmp_path, {}))


def test_the_merged_file_does_as_well(tmp_path: Path) -> None:
    own = Prepared("msr-vtt", tmp_path / "own")
    make_msrvtt(tmp_path / "raw")
    archive = tmp_path / "raw/train_val_annotation.zip"
    with zipfile.ZipFile(archive) as content:
        merged = json.loads(content.read("train_val_videodatainfo.json"))
    test = json.loads((tmp_path / "raw/test_videodatainfo.json").read_text())
    for name in ("videos", "sentences"):
        merged[name] += test[name]
    archive.unlink()
    (tmp_path / "raw/test_videodatainfo.json").unlink()
    (tmp_path / "raw/msrvtt_data").mkdir()
    (tmp_path / "raw/msrvtt_data/MSRVTT_data.json").write_text(json.dumps(merged))
    found = load_card("msr-vtt").convert(tmp_path / "raw", {})
    samples = [made.sample for made in found if not isinstance(made, LeftOut)]
    # The damage of video40 is found when shards are written.
    assert {s.key: (s.split, s.meta) for s in samples if s.key != "video40"} == {
        key: (sample.split, sample.meta) for key, sample in own.samples.items()
    }


def test_uni_perceivers_tree(tmp_path: Path) -> None:
    made = Prepared("msr-vtt", tmp_path, layout="uniperceiver")
    assert made.counts() == {"train": 2, "val": 1, "test": 3, "train_7k": 3, "train_9k": 4, "test_1k": 2}
    assert made.samples["video9999"].captions == ("a small dog, in the snow",)
    assert made.samples["video0"].captions == ("a car is shown", "a red car")
    assert made.samples["video6512"].split == "train"
    assert made.colours()["video9001"] == [91]
    assert made.left_out()["missing video"] == ["video12: video12 (1 captions)"]


def test_the_lists_of_snps3(tmp_path: Path) -> None:
    made = Prepared("msr-vtt", tmp_path, layout="snps3")
    assert made.counts() == {"train": 2, "val": 1, "test": 3, "train_7k": 3, "train_9k": 4, "test_1k": 2}
    assert made.samples["video9001"].meta == {
        "retrieval_key": "ret1",
        "number": 9001,
        "train_9k": False,
        "test_1k": True,
    }


def test_official_splits() -> None:
    assert [official_split(n) for n in (0, 6512, 6513, 7009, 7010, 9999)] == [
        "train",
        "train",
        "val",
        "val",
        "test",
        "test",
    ]
    assert [number_of(name) for name in ("video12", "video", "12", "video1x", "video²")] == [
        12,
        None,
        None,
        None,
        None,
    ]


def test_questions(tmp_path: Path) -> None:
    made = Prepared("msrvtt-qa", tmp_path, answers="2")
    assert made.counts() == {"train": 2, "val": 1, "test": 2}
    assert [q["question_id"] for q in made.samples["video6512"].meta["questions"]] == [0, 2]
    assert made.samples["video6513"].meta["questions"] == [
        {
            "question": 'what "is" shown, là?',
            "question_id": 3,
            "dataset": "msrvtt-qa",
            "kind": "what",
            "answer": "car",
        }
    ]
    assert made.dataset.info["facts"] == {"answers": ["car", "chef"]}
    assert made.left_out() == {
        "missing video": ["video12: video12 (1 questions)"],
        "repeated entry": ["test_qa.json[3]: question 4 is there already"],
    }
    assert made.colours()["video9999"] == [99]
    made.check()


def test_questions_of_snps3(tmp_path: Path) -> None:
    made = Prepared("msrvtt-qa", tmp_path, layout="snps3", answers="1")
    assert made.counts() == {"train": 2, "val": 1, "test": 2}
    assert made.samples["video0"].meta["questions"][0]["question_id"] == "train_2"
    assert made.dataset.info["facts"] == {"answers": ["car"]}


def test_multiple_choice(tmp_path: Path) -> None:
    made = Prepared("msrvtt-mc", tmp_path)
    assert made.counts() == {"test": 3}
    assert made.samples["video9999"].meta["choices"] == [
        {
            "question": "",
            "question_id": "mc0",
            "dataset": "msrvtt-mc",
            "options": ["a dog", "a car", "people run", "a man folds a paper boat", "a house"],
            "answer": 0,
        }
    ]
    asked = {key: sample.meta["choices"][0] for key, sample in made.samples.items()}
    assert {key: entry["options"][entry["answer"]] for key, entry in asked.items()} == {
        "video9999": "a dog",
        "video7010": "people run",
        "video7015": "a house",
    }
    assert asked["video7010"]["options"][4] == 'a "house", là'
    assert made.summary.problems == {"bad entry": 2, "missing video": 1, "repeated entry": 1}
    assert made.left_out()["bad entry"][0].startswith(
        "mc_test.jsonl:4: expected `qid`, `clip_name`, 5 `options`"
    )
    rows = expand(made.dataset.select("test"), "choices")
    read = {sample.key: sample.captions for sample in map(rows.read, range(len(rows)))}
    assert read == {key: tuple(entry["options"]) for key, entry in asked.items()}
    made.check()

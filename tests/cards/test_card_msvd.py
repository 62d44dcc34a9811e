"""The cards `msvd` and `msvd-qa` on miniatures in every form; figures worked out by hand."""

import json
import tarfile
import warnings
from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.base import LeftOut
from diptych.data.cards.class_sets import MediaKeys
from diptych.data.cards.msvd import clip_meta
from diptych.data.cards.video_qa import question_word
from diptych.data.examples import expand
from diptych.data.miniatures.msvd import make_msvd, make_msvd_qa
from diptych.data.prepare import load_card
from diptych.errors import DataError

with warnings.catch_warnings():
    # The package uses names that newer versions of others deprecate.
    warnings.simplefilter("ignore")
    import webdataset

CLIPS = ["_0nX-El-ySo_83_93", "-AwyG1JcMp8_3_7", "Cz0_a-b9DkQ_1_4", "a_B-c_D1e2F_10_20", "mv89psg6zh4_33_46"]
PAGE = "HtmlHtmlHtm_0_3: avi: a web page, no video; it starts with b'<!DOCTYPE html><html'"
COLOURS = [9, 3, 201, 1970, 311]


def test_sentences_of_a_clip_become_its_captions(tmp_path: Path) -> None:
    made = Prepared("msvd", tmp_path)
    assert made.counts() == {"train": 2, "val": 1, "test": 2, "trainval": 3}
    assert list(made.samples) == CLIPS
    first, second = made.samples[CLIPS[0]], made.samples[CLIPS[1]]
    assert first.captions == ("a man plays a guitar", "a man is playing", "a man is playing")
    assert second.captions == ('the chef\'s café, "chez léo"', "a man is playing")
    assert made.samples[CLIPS[3]].captions == ("a boat sinks", "the boat goes down")
    assert first.match_id == "vid9"
    assert first.meta == {"number": 9, "youtube_id": "_0nX-El-ySo", "start": 83, "end": 93}
    assert [list(sample.media) for sample in made.samples.values()] == [["avi"]] * 5
    assert made.colours() == {key: [colour] for key, colour in zip(CLIPS, COLOURS, strict=True)}
    made.check()


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    assert Prepared("msvd", tmp_path).left_out() == {
        "bad entry": [
            "youtube_mapping.txt:5: expected `clip vidN`, got a line of three words",
            "sents_test_lc_nopunc.txt:4: expected `vidN<TAB>sentence` with a video of youtube_mapping.txt, "
            "got vid5555\tof no known video",
        ],
        "missing video": ["zUbb_Yi7P_E_5_15: zUbb_Yi7P_E_5_15 (1 captions)"],
        "unreadable video": [PAGE],
    }


def test_uni_perceivers_tree_gives_the_same_samples(tmp_path: Path) -> None:
    made = Prepared("msvd", tmp_path / "tree", layout="uniperceiver")
    own = Prepared("msvd", tmp_path / "own")
    assert made.samples == own.samples
    assert made.left_out() == {
        "missing video": ["zUbb_Yi7P_E_5_15: zUbb_Yi7P_E_5_15 (1 captions)"],
        "unreadable video": [PAGE],
    }


def test_the_lists_of_snps3_have_no_numbers_and_no_val(tmp_path: Path) -> None:
    made = Prepared("msvd", tmp_path, layout="snps3")
    assert made.counts() == {"train": 2, "val": 0, "test": 2, "trainval": 2}
    assert made.samples[CLIPS[0]].meta == {"youtube_id": "_0nX-El-ySo", "start": 83, "end": 93}
    assert made.samples[CLIPS[1]].captions == ('the chef\'s café, "chez léo"', "a man is playing")


def test_clips_are_read_inside_the_archive(tmp_path: Path) -> None:
    make_msvd(tmp_path / "raw")
    folder = tmp_path / "raw" / "YouTubeClips"
    with tarfile.open(tmp_path / "raw" / "YoutTubeClips.tar", "w") as tar:
        tar.add(folder, "YouTubeClips")
    folder.rename(tmp_path / "aside")
    converted = list(load_card("msvd").convert(tmp_path / "raw", {}))
    found = [made for made in converted if not isinstance(made, LeftOut)]
    assert [made.sample.key for made in found] == [*CLIPS[:2], "HtmlHtmlHtm_0_3", *CLIPS[2:]]
    assert found[0].refs["avi"].read() == (tmp_path / "aside" / f"{CLIPS[0]}.avi").read_bytes()


# webdataset leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_tools_read_the_shards(tmp_path: Path) -> None:
    made = Prepared("msvd", tmp_path)
    shards = [str(made.out / shard["file"]) for shard in made.dataset.info["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [row["__key__"] for row in rows] == CLIPS
    assert rows[0]["txt"] == b"a man plays a guitar"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_0nX-El-ySo_83_93", {"youtube_id": "_0nX-El-ySo", "start": 83, "end": 93}),
        ("-a_b_c_1_2", {"youtube_id": "-a_b_c", "start": 1, "end": 2}),
        ("__1_2", {"youtube_id": "_", "start": 1, "end": 2}),
        ("a_1_x", {}),
        ("name", {}),
    ],
)
def test_times_are_split_off_from_the_right(name: str, expected: dict[str, object]) -> None:
    assert clip_meta(name) == expected


def test_keys_stay_names_where_they_can() -> None:
    keys = MediaKeys()
    assert keys.make("_a-B_") == "_a-B_"
    first, second = keys.make("a b"), keys.make("a+b")
    assert first.startswith("a_b_")
    assert second.startswith("a_b_")
    assert first != second
    again = keys.make("_a-B_", "folder")
    assert again.startswith("a-B_")
    assert again != "_a-B_"
    assert MediaKeys().make("_a-B_", "folder") == "_a-B_"
    assert len(keys.make("x" * 500)) < 200
    assert keys.make("日本")


def test_questions_are_grouped_by_clip(tmp_path: Path) -> None:
    made = Prepared("msvd-qa", tmp_path, answers="2")
    assert made.counts() == {"train": 2, "val": 1, "test": 2}
    assert list(made.samples) == ["vid9", "vid3", "vid1201", "vid1970", "vid1311"]
    assert made.samples["vid9"].meta["questions"] == [
        {
            "question": "what is a man playing?",
            "question_id": 0,
            "dataset": "msvd-qa",
            "kind": "what",
            "answer": "guitar",
        },
        {
            "question": "how many people play?",
            "question_id": 2,
            "dataset": "msvd-qa",
            "kind": "how",
            "answer": "one",
        },
        {"question": "who plays?", "question_id": 3, "dataset": "msvd-qa", "kind": "who", "answer": "man"},
    ]
    assert made.samples["vid9"].meta["youtube_id"] == "_0nX-El-ySo"
    assert made.colours()["vid1970"] == [1970]
    # man twice; guitar, one and somebody once each, the first of the alphabet counts.
    assert made.dataset.info["facts"] == {"answers": ["man", "guitar"]}
    assert made.left_out() == {
        "bad entry": [
            "youtube_mapping.txt:5: expected `clip vidN`, got a line of three words",
            "val_qa.json[1]: expected texts `question` and `answer`, numbers `id` and `video_id`, "
            "got {'answer': None, 'id': 999, 'question': 'what?', 'video_id': 1201}",
        ],
        "missing video": ["vid12: vid12 (1 questions)"],
    }
    rows = expand(made.dataset.select("train"), "questions")
    assert [row.captions for row in (rows.read(i) for i in range(len(rows)))] == [
        ("what is a man playing?",),
        ("how many people play?",),
        ("who plays?",),
        ("who is cooking?",),
    ]
    made.check()


def test_questions_of_snps3_with_texts_as_labels(tmp_path: Path) -> None:
    made = Prepared("msvd-qa", tmp_path, layout="snps3", answers="1")
    assert list(made.samples) == [CLIPS[0], CLIPS[1], CLIPS[3], CLIPS[4]]
    assert [q["question_id"] for q in made.samples[CLIPS[0]].meta["questions"]] == [
        "train_1",
        "train_3",
        "train_4",
    ]
    assert made.dataset.info["facts"] == {"answers": ["man"]}


def test_labels_of_snps3_may_be_numbers(tmp_path: Path) -> None:
    make_msvd_qa(tmp_path / "raw", "snps3")
    lines = [
        {"caption": "what runs?", "clip_name": CLIPS[0], "label": 2},
        {"caption": "who runs?", "clip_name": CLIPS[0], "label": 0},
        {"caption": "who runs?", "clip_name": CLIPS[0], "label": -1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "no JSON\n"
    (tmp_path / "raw/msvd_qa/msvd_train_qa.jsonl").write_text(text)
    (tmp_path / "raw/answers.json").write_text('["man", "dog", "boat"]')
    plain = Prepared("msvd-qa", tmp_path, layout="snps3")
    assert plain.dataset.info["facts"] == {"answers": ["0", "1", "2"]}
    assert [q["answer"] for q in plain.samples[CLIPS[0]].meta["questions"]] == ["2", "0"]
    assert plain.summary.problems["bad entry"] == 2
    layout = plain.card.layouts["snps3"]
    named = [
        m for m in layout.convert(plain.raw, {"answer_list": "answers.json"}) if not isinstance(m, LeftOut)
    ]
    assert [q["answer"] for q in named[0].sample.meta["questions"]] == ["boat", "man"]
    assert layout.facts(plain.raw, {"answer_list": "answers.json"}) == {"answers": ["man", "dog", "boat"]}
    (tmp_path / "raw/answers.json").write_text('["man", "man"]')
    with pytest.raises(DataError, match="there twice"):
        layout.facts(plain.raw, {"answer_list": "answers.json"})


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What is it?", "what"),
        ("whose is it", "other"),
        ("  when", "when"),
        ("", "other"),
        ("is it", "other"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    make_msvd_qa(tmp_path)
    (tmp_path / "train_qa.json").write_text('{"questions": []}')
    with pytest.raises(DataError, match=r"train_qa\.json"):
        list(load_card("msvd-qa").convert(tmp_path, {}))

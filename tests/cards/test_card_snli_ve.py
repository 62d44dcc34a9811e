"""The card `snli-ve` on its miniature."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from card_checks import Prepared

from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.media import colour
from diptych.data.miniatures.snli_ve import entry, make_snli_ve
from diptych.data.prepare import load_card
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("snli-ve", tmp_path_factory.mktemp("snli"))


def test_splits_and_what_is_left_out(made: Prepared) -> None:
    assert made.counts() == {"train": 2, "val": 1, "test": 1}
    assert made.summary.problems == {
        "bad entry": 2,
        "missing picture": 1,
        "no gold label": 1,
        "repeated entry": 1,
        "unreadable picture": 1,
    }
    left = made.left_out()
    assert left["missing picture"] == ["9999: 9999.jpg (1 hypotheses)"]
    assert left["no gold label"] == ["1417.jpg#4r1n: its annotators do not agree"]
    assert left["repeated entry"] == ["3705.jpg#2r1c: Nobody is there."]
    assert left["bad entry"][1] == ("12.jpg#0r1x: expected entailment, neutral or contradiction, got 'maybe'")
    assert made.dataset.info["facts"] == {"answers": ["contradiction", "neutral", "entailment"]}
    made.check()


def test_hypotheses_reach_their_photographs(made: Prepared) -> None:
    first = made.samples["3705"]
    assert first.meta == {
        "file": "3705.jpg",
        "questions": [
            {
                "question": 'A man, say "José", is outside.',
                "question_id": "3705.jpg#2r1n",
                "dataset": "snli-ve",
                "answer": "neutral",
            },
            {
                "question": "Nobody is there.",
                "question_id": "3705.jpg#2r1c",
                "dataset": "snli-ve",
                "answer": "contradiction",
            },
        ],
    }
    assert (first.captions, first.match_id, first.split) == ((), "flickr30k_3705", "train")
    assert made.colours() == {"3705": [1], "1417": [2], "88": [3], "12": [4]}
    answers = {key: [q["answer"] for q in sample.meta["questions"]] for key, sample in made.samples.items()}
    assert answers == {
        "3705": ["neutral", "contradiction"],
        "1417": ["entailment", "contradiction"],
        "88": ["entailment"],
        "12": ["neutral"],
    }


def test_the_loader_makes_a_row_of_each_hypothesis(made: Prepared) -> None:
    config = DataConfig.model_validate(
        {"image": {"size": 16}, "examples": "questions", "text": {"clean": "question"}}
    )
    rows = expand(made.dataset.select("train"), "questions")
    (batch,) = evaluation_batches(rows, config, 8)
    assert batch.images is not None
    means = batch.images.float().mean((-1, -2)).tolist()
    assert means == [pytest.approx(colour(i), abs=4) for i in (1, 1, 2, 2)]


def test_photographs_in_an_archive_and_lists_in_a_folder(made: Prepared, tmp_path: Path) -> None:
    make_snli_ve(tmp_path)
    (tmp_path / "annotations").mkdir()
    for path in list(tmp_path.glob("*.jsonl")):
        shutil.move(path, tmp_path / "annotations")
    with zipfile.ZipFile(tmp_path / "flickr30k-images.zip", "w") as archive:
        for path in sorted((tmp_path / "flickr30k-images").iterdir()):
            archive.write(path, f"flickr30k-images/{path.name}")
    shutil.rmtree(tmp_path / "flickr30k-images")
    found = [f for f in load_card("snli-ve").convert(tmp_path, {}) if hasattr(f, "refs")]
    assert [f.sample.key for f in found] == ["3705", "1417", "88", "12", "5"]
    assert [f.refs["jpg"].read() for f in found[:4]] == [s.media["jpg"] for s in made.samples.values()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (3, "expected an object"),
        ({**entry(88, "9r1e", "x", "neutral"), "Flikr30kID": None}, "the number of a photograph"),
        ({**entry(88, "9r1e", "x", "neutral"), "Flikr30kID": "../88"}, "the number of a photograph"),
        ({**entry(88, "9r1e", "x", "neutral"), "sentence2": 4}, "a text in 'sentence2'"),
    ],
)
def test_damaged_lines_are_counted(line: object, words: str, tmp_path: Path) -> None:
    make_snli_ve(tmp_path)
    good = json.dumps(entry(88, "1r1e", "Good.", "neutral"))
    (tmp_path / "snli_ve_dev.jsonl").write_text(f"{good}\n\n{json.dumps(line)}\n")
    left = [f for f in load_card("snli-ve").convert(tmp_path, {}) if hasattr(f, "cause")]
    assert any(f.cause == "bad entry" and words in f.detail for f in left)


def test_files_that_are_not_there_or_of_another_form(tmp_path: Path) -> None:
    card = load_card("snli-ve")
    with pytest.raises(UsageError, match="needs its raw files"):
        list(card.convert(None, {}))
    with pytest.raises(DataError, match=r"expected snli_ve_train\.jsonl"):
        list(card.convert(tmp_path, {}))
    make_snli_ve(tmp_path)
    (tmp_path / "snli_ve_test.jsonl").write_text("\n")
    with pytest.raises(DataError, match="Flikr30kID"):
        list(card.convert(tmp_path, {}))

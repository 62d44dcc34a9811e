"""The card `nlvr2` on its miniature."""

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
from diptych.data.miniatures.nlvr2 import entry, make_nlvr2
from diptych.data.prepare import load_card
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("nlvr2", tmp_path_factory.mktemp("nlvr2"))


def test_splits_and_what_is_left_out(made: Prepared) -> None:
    assert made.counts() == {"train": 2, "val": 2, "test": 1}
    left = made.left_out()
    assert made.summary.problems == {"bad entry": 2, "missing picture": 1, "unreadable picture": 1}
    assert left["missing picture"] == ["train-30-1: train-30-1-img1.png (1 statements)"]
    assert left["bad entry"][0] == "train-17-0-1: expected 'True' or 'False' in 'label', got 'true'"
    assert left["bad entry"][1].startswith("train-line-6: no JSON")
    assert left["unreadable picture"][0].startswith("test1-5-0: ")
    made.check()


def test_statements_reach_their_pictures(made: Prepared) -> None:
    first = made.samples["train-9010-2"]
    assert first.meta["statements"] == [
        {"statement": 'Two "cafés", one dog.', "label": True, "identifier": "train-9010-2-0"},
        {"statement": "No dog is seen.", "label": False, "identifier": "train-9010-2-1"},
    ]
    assert (first.captions, first.split, first.meta["synset"]) == ((), "train", "dog")
    assert first.meta["file"] == "train/55/train-9010-2-img0.png"
    assert made.colours() == {
        "train-9010-2": [1, 2],
        "train-17-0": [3, 4],
        "dev-9001-0": [7, 8],
        "dev-850-3": [9, 10],
        "test1-4-2": [13, 14],
    }
    assert made.column("set_id") == {
        "train-9010-2": "9010",
        "train-17-0": "17",
        "dev-9001-0": "9001",
        "dev-850-3": "850",
        "test1-4-2": "4",
    }


def test_the_loader_shows_left_and_right(made: Prepared) -> None:
    config = DataConfig.model_validate(
        {"image": {"size": 16}, "examples": "statements", "text": {"clean": "caption"}}
    )
    rows = expand(made.dataset.select("val"), "statements")
    assert len(rows) == 2
    (batch,) = evaluation_batches(rows, config, 4)
    assert batch.images is not None
    means = batch.images.float().mean((-1, -2)).reshape(-1, 3).tolist()
    assert means == [pytest.approx(colour(i), abs=4) for i in (7, 8, 9, 10)]


def test_archives_and_the_folder_of_the_repository(made: Prepared, tmp_path: Path) -> None:
    make_nlvr2(tmp_path)
    (tmp_path / "nlvr2/data").mkdir(parents=True)
    for name in ("train", "dev", "test1"):
        shutil.move(tmp_path / f"{name}.json", tmp_path / "nlvr2/data")
        with zipfile.ZipFile(tmp_path / f"{name}_img.zip", "w") as archive:
            for path in sorted((tmp_path / "images" / name).rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path / "images").as_posix())
    shutil.rmtree(tmp_path / "images")
    found = list(load_card("nlvr2").convert(tmp_path, {}))
    plain = list(load_card("nlvr2").convert(made.raw, {}))
    assert [str(getattr(f, "sample", f)) for f in found] == [str(getattr(p, "sample", p)) for p in plain]
    assert [{n: r.read() for n, r in f.refs.items()} for f in found if hasattr(f, "refs")] == [
        {n: r.read() for n, r in p.refs.items()} for p in plain if hasattr(p, "refs")
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "expected an object"),
        ({**entry("dev-1-0-0", "x", "True"), "identifier": "dev-1"}, "split-set-pair-sentence"),
        ({**entry("dev-1-0-0", "x", "True"), "sentence": " "}, "a text in 'sentence'"),
        ({**entry("dev-1-0-0", "x", "True"), "label": None}, "got None"),
        ({**entry("dev-1-0-0", "x", "True"), "label": ["True"]}, "got "),
    ],
)
def test_damaged_lines_are_counted(line: object, words: str, tmp_path: Path) -> None:
    make_nlvr2(tmp_path)
    good = json.dumps(entry("dev-850-3-0", "Good.", "True"))
    (tmp_path / "dev.json").write_text(f"{good}\n\n{json.dumps(line)}\n{good}\n")
    left = [f for f in load_card("nlvr2").convert(tmp_path, {}) if getattr(f, "cause", "") != ""]
    causes = {f.key: (f.cause, f.detail) for f in left}
    assert causes["dev-850-3-0"] == ("repeated statement", "Good.")
    assert any(cause == "bad entry" and words in detail for cause, detail in causes.values())


def test_files_that_are_not_there_or_of_another_form(tmp_path: Path) -> None:
    card = load_card("nlvr2")
    with pytest.raises(UsageError, match="needs its raw files"):
        list(card.convert(None, {}))
    with pytest.raises(DataError, match=r"expected train\.json"):
        list(card.convert(tmp_path, {}))
    make_nlvr2(tmp_path)
    (tmp_path / "test1.json").write_text("[]\n")
    with pytest.raises(DataError, match=r"test1\.json: expected JSON lines"):
        list(card.convert(tmp_path, {}))

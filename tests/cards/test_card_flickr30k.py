"""The card `flickr30k` on its miniature, in every form of its captions."""

import json
from pathlib import Path

import pytest
from card_checks import Prepared

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.flickr30k import JSONLINES
from diptych.data.config import DataConfig
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.coco import unpacked
from diptych.data.miniatures.flickr30k import jsonline, make
from diptych.data.miniatures.media import colour
from diptych.data.prepare import load_card
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module", params=["", "uniperceiver"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("flickr30k", tmp_path_factory.mktemp("flickr"), request.param)


@pytest.mark.slow
def test_splits_and_what_is_left_out(made: Prepared) -> None:
    assert made.counts() == {"train": 2, "val": 1, "test": 1, "trainval": 3, "everything": 4}
    left = made.left_out()
    assert set(left) == {"missing picture", "unreadable picture"}
    assert left["missing picture"] == ["10002456: 10002456.jpg (1 captions)"]
    assert [example.partition(":")[0] for example in left["unreadable picture"]] == ["981"]
    assert made.column("split") == {"1000092795": "train", "36979": "val", "65567": "test", "4411": "train"}
    made.check()


def test_captions_reach_their_pictures(made: Prepared) -> None:
    first = made.samples["1000092795"]
    assert first.captions == ('Two young men, one "tall", near a café.', "Friends enjoy time together .")
    assert (first.match_id, first.meta) == ("flickr30k_1000092795", {"file": "1000092795.jpg"})
    assert made.samples["4411"].captions[0] == made.samples["65567"].captions[0] == "A dog jumps."
    assert made.colours() == {
        "1000092795": [1000092795 % 4096],
        "36979": [36979 % 4096],
        "65567": [65567 % 4096],
        "4411": [315],
    }
    rows = made.dataset.select("test")
    config = DataConfig.model_validate({"image": {"size": 16}, "text": {"clean": "caption"}})
    (batch,) = evaluation_batches(rows, config, 4)
    assert batch.images is not None
    assert batch.images.float().mean((0, 2, 3)).tolist() == pytest.approx(colour(65567 % 4096), abs=4)


def test_the_other_forms_give_the_same_samples(tmp_path: Path) -> None:
    karpathy = Prepared("flickr30k", tmp_path)
    lines = Prepared("flickr30k", tmp_path, annotations="jsonline")
    assert lines.samples == karpathy.samples
    token = Prepared("flickr30k", tmp_path, annotations="token")
    assert token.counts() == {"train": 0, "val": 0, "test": 0, "trainval": 0, "everything": 5}
    assert set(token.samples) == {*karpathy.samples, "555"}
    assert token.samples["4411"].captions == ("A dog jumps .", "A brown dog leaps .")
    assert token.samples["555"].split == "all"


def test_uniperceiver_reads_the_jsonline_files_where_its_own_are_not_there(tmp_path: Path) -> None:
    make(tmp_path / "raw", "uniperceiver")
    for split, name in JSONLINES.items():
        (tmp_path / f"raw/flickr30k/captions_{split}.json").unlink()
        unpacked(tmp_path / "raw/flickr30k", {name: jsonline(split)})
    assert Prepared("flickr30k", tmp_path, "uniperceiver").counts()["everything"] == 4


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    make(tmp_path)
    good = json.dumps({"id": "x", "img_path": "4411.jpg", "sentences": ["a"]})
    bad = [
        "{",
        '{"id": 1}',
        '{"id": 1, "img_path": "4411.jpg", "sentences": "a"}',
        '{"id": 1, "img_path": "../4411.jpg", "sentences": ["a"]}',
    ]
    for name in JSONLINES.values():
        unpacked(tmp_path, {name: b""})
    unpacked(tmp_path, {JSONLINES["test"]: "\r\n".join([good, *bad]).encode()})
    card = load_card("flickr30k")
    found = list(card.convert(tmp_path, {"annotations": "jsonline"}))
    assert isinstance(found[0], Unread)
    assert [left.cause for left in found[1:] if isinstance(left, LeftOut)] == [
        "bad entry",
        "bad entry",
        "bad entry",
        "missing picture",
    ]
    unpacked(tmp_path, {"results_20130124.token": b"4411.jpg#0\tA dog .\n4411.jpg A dog .\n\n"})
    found = list(card.convert(tmp_path, {"annotations": "token"}))
    assert [type(entry) for entry in found] == [LeftOut, Unread]


def test_options_and_files_that_are_not_there(tmp_path: Path) -> None:
    card = load_card("flickr30k")
    with pytest.raises(DataError, match=r"expected dataset_flickr30k\.json or caption_datasets\.zip"):
        list(card.convert(tmp_path, {}))
    with pytest.raises(UsageError, match="annotations=tokens; did you mean 'token'"):
        list(card.convert(tmp_path, {"annotations": "tokens"}))

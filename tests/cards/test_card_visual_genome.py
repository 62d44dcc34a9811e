"""The card `visual-genome` on its miniature."""

from pathlib import Path
from typing import Any

import pytest
from card_checks import Prepared

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.coco import as_json, unpacked, zipped
from diptych.data.miniatures.media import colour
from diptych.data.miniatures.visual_genome import make
from diptych.data.prepare import load_card
from diptych.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("visual-genome", tmp_path_factory.mktemp("vg"))


def test_counts_and_what_is_left_out(made: Prepared) -> None:
    assert made.counts() == {"train": 3, "clean_train": 2, "without_coco": 2}
    left = made.left_out()
    assert {cause: len(examples) for cause, examples in left.items()} == {
        "missing picture": 1,
        "unreadable picture": 1,
        "no region left": 1,
        "empty caption": 1,
    }
    assert left["missing picture"] == ["15: VG_100K/15.jpg (1 captions)"]
    assert left["no region left"] == ["10: none of 1 regions has 16384 pixels and a phrase"]
    assert left["empty caption"] == ["1: region 699951 has an empty phrase"]
    made.check()


def test_phrases_of_large_regions_once_each_in_their_order(made: Prepared) -> None:
    assert {key: sample.captions for key, sample in made.samples.items()} == {
        "2": ("a lit sign", 'a "red" café, open'),
        "1": ("flat", "sky"),
        "2415000": ("a lit sign",),
    }
    assert made.samples["1"].meta == {
        "file": "VG_100K_2/1.jpg",
        "coco": "yes",
        "coco_id": 900123,
        "karpathy": "test",
    }
    assert made.samples["2"].meta == {"file": "VG_100K/2.jpg", "coco": "no", "karpathy": "none"}
    assert made.samples["2"].match_id == "vg_2"
    assert made.colours() == {"2": [2], "1": [1], "2415000": [2415000 % 4096]}
    rows = expand(made.dataset.select("train"), "captions")
    config = DataConfig.model_validate({"image": {"size": 16}, "text": {"clean": "caption"}})
    (batch,) = evaluation_batches(rows, config, 8)
    assert batch.texts == ["a lit sign", "a red café open", "flat", "sky", "a lit sign"]
    assert batch.images is not None
    assert batch.images.float().mean((2, 3))[2].tolist() == pytest.approx(colour(1), abs=4)


def test_all_regions_with_boxes_and_questions(tmp_path: Path) -> None:
    made = Prepared("visual-genome", tmp_path, min_area="0", regions="yes", questions="yes")
    assert made.counts() == {"train": 4, "clean_train": 3, "without_coco": 2}
    assert made.samples["2"].captions == ("a lit sign", "too small", 'a "red" café, open', "no height")
    assert made.samples["2"].meta["regions"][2] == {
        "region_id": 699979,
        "phrase": 'a "red" café, open',
        "x": -3,
        "y": -1,
        "width": 128,
        "height": 128,
    }
    assert len(made.samples["2"].meta["regions"]) == 5
    assert made.samples["2"].meta["questions"] == [
        {"question": "What is lit?", "question_id": 700001, "dataset": "vg", "answer": "The sign."}
    ]
    assert made.column("questions") == {"2": 1, "1": 0, "10": 1, "2415000": 0}
    assert [example.partition(":")[0] for example in made.left_out()["bad entry"]] == ["2"]


def test_a_picture_with_questions_stays_without_phrases(tmp_path: Path) -> None:
    made = Prepared("visual-genome", tmp_path, questions="yes")
    assert made.samples["10"].captions == ()
    assert made.samples["10"].meta["questions"][0]["answer"] == "On the bench."


def test_pictures_of_coco_are_excluded(tmp_path: Path) -> None:
    make(tmp_path / "raw")
    unpacked(tmp_path / "raw", {"ids.txt": b"900123, 5"})
    made = Prepared("visual-genome", tmp_path, exclude="ids.txt")
    assert set(made.samples) == {"2", "2415000"}
    assert made.left_out()["excluded"] == ["1: COCO id 900123 is in the list of -o exclude="]
    (tmp_path / "raw/image_data.json").unlink()
    with pytest.raises(DataError, match=r"expected image_data\.json"):
        list(made.card.convert(tmp_path / "raw", {"exclude": "ids.txt"}))
    unknown = Prepared("visual-genome", tmp_path)
    assert unknown.counts() == {"train": 3, "clean_train": 0, "without_coco": 0}
    assert set(unknown.column("coco").values()) == {"unknown"}


def test_the_tree_of_uniperceiver(tmp_path: Path) -> None:
    made = Prepared("visual-genome", tmp_path, "uniperceiver")
    assert made.counts()["train"] == 3
    assert {key: set(sample.captions) for key, sample in made.samples.items()} == {
        "2": {"a lit sign", 'a "red" café, open'},
        "1": {"flat", "sky"},
        "2415000": {"a lit sign"},
    }
    assert made.left_out()["empty caption"] == ["1: an empty phrase"]
    assert made.colours() == {"2": [2], "1": [1], "2415000": [2415000 % 4096]}
    # Another area needs the regions themselves.
    small = Prepared("visual-genome", tmp_path, "uniperceiver", min_area="600")
    assert small.samples["10"].captions == ("a small bench",)
    (tmp_path / "raw/visual_genome/annotations/vg_captions_128filter.json").unlink()
    regions = list(made.card.layouts["uniperceiver"].convert(tmp_path / "raw", {}))
    assert next(u.sample.captions for u in regions if isinstance(u, Unread)) == (
        "a lit sign",
        'a "red" café, open',
    )


def test_one_merged_flat_zip_is_read(tmp_path: Path) -> None:
    make(tmp_path / "raw", "uniperceiver")
    images = tmp_path / "raw/visual_genome/images"
    members = {path.name: path.read_bytes() for path in sorted(images.rglob("*.jpg"))}
    zipped(images / "images.zip", members)
    for folder in ("VG_100K", "VG_100K_2"):
        for path in (images / folder).iterdir():
            path.unlink()
    made = Prepared("visual-genome", tmp_path, "uniperceiver")
    assert made.colours() == {"2": [2], "1": [1], "2415000": [2415000 % 4096]}


@pytest.mark.parametrize(
    ("regions", "details"),
    [
        ([{"id": 2}], ["an object with 'id' and a list 'regions'"]),
        ([{"id": 2, "regions": [{"phrase": "x"}]}], ["a region with whole numbers", "none of 1 regions"]),
        (
            [{"id": 2, "regions": [{"phrase": 3, "x": 1, "y": 1, "width": 200, "height": 200}]}],
            ["a text in 'phrase'", "none of 1 regions"],
        ),
    ],
)
def test_damaged_regions_are_counted(tmp_path: Path, regions: Any, details: list[str]) -> None:
    unpacked(tmp_path, {"region_descriptions.json": as_json(regions)})
    found = list(load_card("visual-genome").convert(tmp_path, {}))
    assert all(isinstance(left, LeftOut) for left in found)
    assert all(d in left.detail for d, left in zip(details, found, strict=True) if isinstance(left, LeftOut))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "is no JSON"),
        ('{"phrase": {}}', "expected an object with the objects 'phrase' and 'subset'"),
        ('{"phrase": {"a": []}, "subset": {}}', "expected numbers and lists of texts"),
    ],
)
def test_a_filtered_file_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    place = "visual_genome/annotations/vg_captions_128filter.json"
    unpacked(tmp_path, {place: content.encode()})
    with pytest.raises(DataError, match=message):
        list(load_card("visual-genome").layouts["uniperceiver"].convert(tmp_path, {}))

"""The cards `coco-caption` and `coco-2017` on their miniatures."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from card_checks import Prepared
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.cards.coco_files import coco_style, squeeze
from diptych.data.config import DataConfig
from diptych.data.loader import evaluation_batches
from diptych.data.miniatures.coco import as_json, make_2017, make_caption, unpacked
from diptych.data.miniatures.media import colour
from diptych.data.prepare import load_card
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import json_fields
from diptych.errors import DataError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import webdataset


@pytest.fixture(scope="module", params=["", "uniperceiver"])
def captions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("coco-caption", tmp_path_factory.mktemp("caption"), request.param)


@pytest.mark.slow
def test_captions_splits_and_what_is_left_out(captions: Prepared) -> None:
    assert captions.counts() == {"train": 4, "val": 1, "test": 1, "trainval": 5, "train_2014": 2}
    left = captions.left_out()
    assert set(left) == {"missing picture", "unreadable picture"}
    assert left["missing picture"] == [
        "COCO_train2014_000000100009: train2014/COCO_train2014_000000100009.jpg (2 captions)"
    ]
    assert [example.partition(":")[0] for example in left["unreadable picture"]] == [
        "COCO_train2014_000000000301"
    ]
    assert captions.column("split") == {
        "COCO_val2014_000000900123": "test",
        "COCO_train2014_000000000042": "train",
        "COCO_val2014_000000000007": "train",
        "COCO_val2014_000000581929": "val",
        "COCO_train2014_000000000025": "train",
        "COCO_val2014_000000000008": "train",
    }
    captions.check()


def test_captions_reach_their_pictures(captions: Prepared) -> None:
    sample = captions.samples["COCO_val2014_000000900123"]
    assert sample.captions == ("A kite flies.", 'a red kite, in a "blue" sky over Zürich')
    assert sample.match_id == "coco_900123"
    assert sample.meta == {
        "file": "val2014/COCO_val2014_000000900123.jpg",
        "owner_split": "test",
        "coco_id": 900123,
        "caption_ids": [800000, 800003],
    }
    restval = captions.samples["COCO_val2014_000000000007"]
    assert restval.meta["owner_split"] == "restval"
    assert restval.captions == ("Two dogs run.", "a", "b c", "d e.", "f g h", "A sixth sentence.")
    assert restval.captions[0] == captions.samples["COCO_train2014_000000000042"].captions[0]
    assert captions.colours() == {
        "COCO_val2014_000000900123": [900123 % 4096],
        "COCO_train2014_000000000042": [42],
        "COCO_val2014_000000000007": [7],
        "COCO_val2014_000000581929": [581929 % 4096],
        "COCO_train2014_000000000025": [25],
        "COCO_val2014_000000000008": [8],
    }
    assert captions.column("width")["COCO_val2014_000000000007"] == 24
    assert captions.column("height")["COCO_val2014_000000000007"] == 32


def test_both_layouts_give_the_same_samples(tmp_path: Path) -> None:
    ours = Prepared("coco-caption", tmp_path / "a")
    theirs = Prepared("coco-caption", tmp_path / "b", "uniperceiver")
    assert ours.samples == theirs.samples


def test_pictures_come_out_of_the_loader_with_their_captions(captions: Prepared) -> None:
    rows = captions.dataset.select("test")
    config = DataConfig.model_validate({"image": {"size": 16}, "text": {"clean": "caption"}})
    (batch,) = evaluation_batches(rows, config, 4)
    assert batch.images is not None
    pixels = batch.images.float().mean((0, 2, 3)).tolist()
    assert pixels == pytest.approx(colour(900123 % 4096), abs=4)
    assert batch.texts[0] == "a kite flies"


def test_webdataset_reads_the_shards(captions: Prepared) -> None:
    tars = [str(tar) for tar in sorted(captions.out.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert {row["__key__"]: row["txt"].decode() for row in read} == {
        key: sample.captions[0] for key, sample in captions.samples.items()
    }
    assert all(row["jpg"] == captions.samples[row["__key__"]].media["jpg"] for row in read)


def test_the_small_example_tree_is_read_too(tmp_path: Path) -> None:
    make_caption(tmp_path / "raw", "uniperceiver")
    (tmp_path / "raw/mscoco_dataset").rename(tmp_path / "raw/mscoco_caption")
    (tmp_path / "raw/mscoco_caption/new_annotations").rename(tmp_path / "raw/mscoco_caption/annotations")
    assert Prepared("coco-caption", tmp_path, "uniperceiver").counts()["train"] == 4


def test_entries_that_are_damaged_are_counted_and_other_files_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_caption(raw)
    (raw / "caption_datasets.zip").unlink()
    good = {"filename": "COCO_val2014_000000000008.jpg", "filepath": "val2014", "split": "val", "cocoid": 8}
    sentence = {"raw": "fine", "sentid": 1}
    images = [
        {**good, "sentences": [sentence]},
        {**good, "filename": "b.jpg", "split": "dev", "sentences": [sentence]},
        {**good, "filename": "c.jpg", "sentences": [{"raw": None}]},
        {**good, "filename": "../../secret.jpg", "sentences": [sentence]},
        "text",
    ]
    unpacked(raw, {"dataset_coco.json": as_json({"images": images})})
    made = Prepared("coco-caption", tmp_path)
    assert made.counts()["val"] == 1
    assert made.left_out() == {
        "bad entry": [
            "b.jpg: expected 'split' to be one of train, restval, val, test, got \"dev\"",
            "c.jpg: expected a list of 'sentences' with 'raw' texts, got [{\"raw\": null}]",
            "dataset_coco.json, image 4: expected an object with 'filename', got \"text\"",
        ],
        "missing picture": ["secret: val2014/../../secret.jpg (1 captions)"],
    }
    unpacked(raw, {"dataset_coco.json": as_json({"pictures": []})})
    with pytest.raises(DataError, match=r"dataset_coco\.json"):
        list(made.card.convert(raw, {}))
    with pytest.raises(UsageError, match="no option 'split'"):
        list(made.card.convert(raw, {"split": "x"}))
    with pytest.raises(UsageError, match="give their folder with --raw"):
        list(made.card.convert(None, {}))


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("coco-2017", tmp_path_factory.mktemp("coco2017"))


def test_2017_splits_and_what_is_left_out(objects: Prepared) -> None:
    assert objects.counts() == {"train": 3, "val": 2, "test": 2, "clean_train": 2, "clean_val": 1}
    assert objects.summary.problems == {"bad entry": 2, "missing picture": 1, "unreadable picture": 1}
    left = objects.left_out()
    assert left["missing picture"] == ["000000100009: train2017/000000100009.jpg"]
    assert all("expected a known 'category_id'" in example for example in left["bad entry"])
    assert objects.column("karpathy") == {
        "000000900123": "test",
        "000000000042": "train",
        "000000000025": "train",
        "000000000007": "restval",
        "000000581929": "val",
        "000000004001": "none",
        "000000001201": "none",
    }
    objects.check()


def test_2017_objects_captions_and_licences(objects: Prepared) -> None:
    kite = objects.samples["000000900123"]
    assert kite.captions == ("A kite flies.", 'a red kite, in a "blue" sky over Zürich')
    assert kite.match_id == "coco_900123"
    assert kite.meta == {
        "coco_id": 900123,
        "file": "train2017/000000900123.jpg",
        "karpathy": "test",
        "caption_ids": [70000, 70001],
        "licence_id": 1,
        "flickr_url": "http://farm.example.org/900123_z.jpg",
        "objects": [
            {
                "id": 5000,
                "category": "kite",
                "category_id": 38,
                "bbox": [1.5, 2.0, 10.25, 4.0],
                "area": 41.0,
                "iscrowd": False,
            },
            {
                "id": 4999,
                "category": "person",
                "category_id": 1,
                "bbox": [0.0, 0.0, 28.4, 3.0],
                "area": pytest.approx(85.2),
                "iscrowd": False,
            },
        ],
        "labels": ["person", "kite"],
        "object_count": 2,
    }
    # A box of no width, and a crowd.
    assert [(o["bbox"][2], o["iscrowd"]) for o in objects.samples["000000000007"].meta["objects"]] == [
        (0.0, False),
        (24.0, True),
    ]
    assert objects.samples["000000000025"].meta["labels"] == []
    assert objects.samples["000000004001"].captions == ()
    assert "objects" not in objects.samples["000000004001"].meta
    assert objects.dataset.info["facts"]["classes"] == ["person", "dog", "kite", "clock"]
    assert [entry["id"] for entry in objects.dataset.info["facts"]["licences"]] == [4, 1]
    assert objects.colours() == {
        "000000900123": [900123 % 4096],
        "000000000042": [42],
        "000000000025": [25],
        "000000000007": [7],
        "000000581929": [581929 % 4096],
        "000000004001": [4001],
        "000000001201": [1201],
    }


def test_2017_ids_are_excluded_and_outlines_kept(tmp_path: Path) -> None:
    make_2017(tmp_path / "raw")
    unpacked(tmp_path / "raw", {"a.txt": b"42\n7\n", "b.json": b"[25, 1]"})
    made = Prepared("coco-2017", tmp_path, exclude="a.txt,b.json", objects="segmentation")
    assert set(made.samples) == {"000000900123", "000000581929", "000000004001", "000000001201"}
    assert made.summary.problems["excluded"] == 3
    assert made.left_out()["excluded"][0] == "000000000042: COCO id 42 is in the list of -o exclude="
    outline = made.samples["000000581929"].meta["objects"][0]["segmentation"]
    assert outline == [[0.0, 0.0, 5.0, 0.0, 5.0, 5.0]]
    unpacked(tmp_path / "raw", {"a.txt": b"42 no"})
    with pytest.raises(DataError, match="expected COCO ids"):
        list(made.card.convert(tmp_path / "raw", {"exclude": "a.txt"}))


def test_2017_without_the_files_of_objects_and_of_karpathy(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_2017(raw)
    with zipfile.ZipFile(raw / "annotations_trainval2017.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist() if "captions" in name}
    (raw / "annotations_trainval2017.zip").unlink()
    (raw / "dataset_coco.json").unlink()
    unpacked(raw, members)
    with pytest.raises(DataError, match=r"instances_train2017.json.*-o objects=no"):
        list(load_card("coco-2017").convert(raw, {}))
    made = Prepared("coco-2017", tmp_path, objects="no")
    assert made.counts() == {"train": 3, "val": 2, "test": 2, "clean_train": 0, "clean_val": 0}
    assert set(made.column("karpathy").values()) == {"unknown"}
    assert "objects" not in made.samples["000000900123"].meta


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ({"images": [{"id": 1}, {"id": 1}, {"no": 2}], "annotations": []}, ["another 'id'", "with 'id'"]),
        (
            {"annotations": [{"image_id": 5, "id": 1, "caption": "x"}], "images": [{"id": 1}]},
            ["among the im"],
        ),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 1, "id": 1, "caption": None}]}, ["a text in"]),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}, ["a number 'id'"]),
    ],
)
def test_damaged_entries_of_coco_files_are_told(
    tmp_path: Path, content: dict[str, Any], wrong: list[str]
) -> None:
    unpacked(tmp_path, {"x.json": as_json(content)})
    found = coco_style(RawFolder(tmp_path), "x.json")
    assert len(found.wrong) == len(wrong)
    assert all(part in left.detail for part, left in zip(wrong, found.wrong, strict=True))


def test_a_coco_file_without_images_is_refused(tmp_path: Path) -> None:
    unpacked(tmp_path, {"x.json": b'{"annotations": []}'})
    with pytest.raises(DataError, match="expected a list 'images'"):
        coco_style(RawFolder(tmp_path), "x.json")


def test_texts_become_one_line_that_utf_8_can_hold() -> None:
    assert squeeze(" a\r\n\tb\u00a0 c ") == "a b c"
    assert squeeze("half \ud83d pair \U0001f600") == "half \ufffd pair \U0001f600"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["images", "annotations", "info", "licenses"]),
        st.lists(_VALUES, max_size=4) | _VALUES,
    ),
    st.sampled_from([None, 1]),
)
def test_arrays_of_an_object_against_parsing_it_whole(content: dict[str, Any], indent: int | None) -> None:
    wanted = ("images", "annotations")
    stream = io.StringIO(json.dumps(content, indent=indent))
    if all(isinstance(content.get(name, []), list) for name in wanted):
        expected = [(name, item) for name, items in content.items() if name in wanted for item in items]
        assert list(json_fields(stream, "x.json", wanted)) == expected
    else:
        with pytest.raises(DataError, match=r"x\.json: expected a JSON list, which begins with '\['"):
            list(json_fields(stream, "x.json", wanted))


@pytest.mark.parametrize("text", ["", "[]", '{"images": [1, 2', '{"images": [1] "a": 2}', '{"images": [1,]}'])
def test_arrays_of_what_is_no_object_are_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"x\.json"):
        list(json_fields(io.StringIO(text), "x.json", ("images",)))

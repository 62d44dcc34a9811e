"""The cards `imagenet-1k` and `imagenet-21k` on miniatures; figures worked out by hand."""

import random
import tarfile
from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.class_sets import draw_order
from diptych.data.cards.imagenet_devkit import wnids_of_devkit
from diptych.data.config import DataConfig
from diptych.data.loader import Loader
from diptych.data.miniatures.imagenet import DEVKIT, make_imagenet_1k, make_imagenet_21k, mat_file
from diptych.data.prepare import load_card
from diptych.data.raw.refs import FileRef
from diptych.data.sources import open_sources
from diptych.errors import DataError

VAL = "ILSVRC2012_val_0000000"


def meta(label: int, name: str, wnid: str) -> dict[str, object]:
    return {"label": label, "class_name": name, "wnid": wnid}


def test_tars_in_tars_and_labels_from_the_development_kit(tmp_path: Path) -> None:
    made = Prepared("imagenet-1k", tmp_path)
    # Of the classes with 2, 3 and 1 pictures one each, that is int(n / 10) + 1.
    assert made.counts() == {"train": 6, "val": 3, "test": 2, "train_1pct": 3, "train_10pct": 3}
    assert made.colours() == {
        "n01440764_10026": [1],
        "n01440764_18": [2],
        "n01443537_10007": [11],
        "n01443537_2": [12],
        "n01443537_999": [13],
        "n15075141_77": [31],
        f"{VAL}1": [101],
        f"{VAL}2": [102],
        f"{VAL}4": [104],
        "ILSVRC2012_test_00000001": [201],
        "ILSVRC2012_test_00000003": [203],
    }
    assert list(made.samples) == list(made.colours())
    tench = made.samples["n01440764_18"]
    draw = tench.meta["draw"]
    assert tench.meta == {**meta(0, "tench", "n01440764"), "draw": draw, "drawn_of": 2}
    assert {draw, made.samples["n01440764_10026"].meta["draw"]} == {0, 1}
    assert made.samples[f"{VAL}1"].meta == {
        **meta(999, "toilet paper", "n15075141"),
        "draw": -1,
        "drawn_of": 0,
    }
    assert [made.samples[f"{VAL}{n}"].meta["label"] for n in (1, 2, 4)] == [999, 0, 1]
    assert "label" not in made.samples["ILSVRC2012_test_00000001"].meta
    assert made.left_out() == {"missing picture": [f"{VAL}3: {VAL}3.JPEG"]}
    made.check()


def test_the_first_thousand_classes_have_998_names() -> None:
    from diptych.data.targets.names import class_ids, class_names

    assert len(set(class_names("imagenet-1k"))) == 998
    assert list(class_ids("imagenet-1k")) == sorted(class_ids("imagenet-1k"))
    assert class_ids("imagenet-21k")[:1000] == class_ids("imagenet-1k")


def test_uni_perceivers_tree(tmp_path: Path) -> None:
    made = Prepared("imagenet-1k", tmp_path, layout="uniperceiver")
    assert made.counts() == {"train": 5, "val": 3, "test": 2, "train_1pct": 2, "train_10pct": 2}
    assert list(made.samples)[:5] == [
        "n01443537_10007",
        "n01443537_2",
        "n01443537_999",
        "n01440764_10026",
        "n01440764_18",
    ]
    # Only pictures that are there are drawn from.
    assert made.samples["n01440764_18"].meta["drawn_of"] == 2
    assert made.samples[f"{VAL}1"].meta["label"] == 999
    assert made.left_out() == {
        "bad entry": [
            "imagenet/meta/train.txt:7: expected `path label` with a label from 0 to 999, "
            "got n01440764/n01440764_18.JPEG"
        ],
        "missing picture": [
            "n01440764_5: n01440764/n01440764_5.JPEG",
            f"{VAL}3: {VAL}3.JPEG",
        ],
    }
    made.check()


def test_labels_of_another_order_are_refused(tmp_path: Path) -> None:
    make_imagenet_1k(tmp_path, "uniperceiver")
    (tmp_path / "imagenet/meta/train.txt").write_text("n01440764/n01440764_18.JPEG 449\n")
    with pytest.raises(DataError, match=r"train\.txt:1: .* has label 449; expected 0"):
        list(load_card("imagenet-1k").layouts["uniperceiver"].convert(tmp_path, {}))


def labels(raw: Path) -> dict[str, int]:
    made = load_card("imagenet-1k").convert(raw, {})
    return {
        u.sample.key: u.sample.meta["label"]
        for u in made
        if isinstance(u, Unread) and u.sample.split == "val"
    }


def test_labels_for_validation_in_other_forms(tmp_path: Path) -> None:
    make_imagenet_1k(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12"
    expected = {f"{VAL}1": 999, f"{VAL}2": 0, f"{VAL}4": 1}
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(kit, kit.name)
    kit.rename(tmp_path / "aside")
    assert labels(tmp_path) == expected
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(DataError, match="nothing tells the labels"):
        labels(tmp_path)
    rows = (
        "n15075141 1 2 3 4",
        "n01440764 5 6 7 8 n01440764 1 1 2 2",
        "n01443537 1 1 1 1",
        "n01443537 9 9 9 9",
    )
    text = "".join(f"{VAL}{i + 1},{row} \n" for i, row in enumerate(rows))
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{text}{VAL}9,n99999999 1\n")
    assert labels(tmp_path) == expected
    (tmp_path / "val.txt").write_text(f"{VAL}4.JPEG 7\n{VAL}2.JPEG 1000\n\n")
    made = list(load_card("imagenet-1k").convert(tmp_path, {}))
    assert labels(tmp_path) == {f"{VAL}4": 7}
    assert [(m.cause, m.key) for m in made if isinstance(m, LeftOut)] == [
        ("bad entry", "val.txt:2"),
        ("no label", f"{VAL}1"),
        ("no label", f"{VAL}2"),
    ]


def test_unpacked_folders_do_as_well(tmp_path: Path) -> None:
    make_imagenet_1k(tmp_path / "raw")
    unpacked = tmp_path / "unpacked"
    with tarfile.open(tmp_path / "raw/ILSVRC2012_img_train.tar") as tar:
        tar.extractall(unpacked / "train", filter="data")
    with tarfile.open(tmp_path / "raw/ILSVRC2012_img_val.tar") as tar:
        tar.extractall(unpacked / "flat", filter="data")
    with tarfile.open(unpacked / "train/n01443537.tar") as tar:
        tar.extractall(unpacked / "train/n01443537", filter="data")
    (unpacked / "train/n01443537.tar").unlink()
    for number, wnid in ((1, "n15075141"), (2, "n01440764"), (4, "n01443537")):
        (unpacked / "val" / wnid).mkdir(parents=True)
        name = f"{VAL}{number}.JPEG"
        (unpacked / "flat" / name).rename(unpacked / "val" / wnid / name)
    card = load_card("imagenet-1k")
    own = [u for u in card.convert(tmp_path / "raw", {}) if isinstance(u, Unread)]
    made = [u for u in card.convert(unpacked, {}) if isinstance(u, Unread)]
    assert [u.sample for u in made] == [u.sample for u in own if u.sample.split != "test"]
    assert [u.refs["jpg"].read() for u in made] == [u.refs["jpg"].read() for u in own[:9]]


def test_folders_that_are_no_class_are_listed(tmp_path: Path) -> None:
    make_imagenet_1k(tmp_path)
    for name in ("n00000001", "cats"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="2 names are no class of card 'imagenet-1k': 'cats', 'n00000001'"):
        list(load_card("imagenet-1k").convert(tmp_path, {}))
    with pytest.raises(DataError, match="neither train nor val nor test"):
        list(load_card("imagenet-1k").convert(tmp_path / "train/cats", {}))


def test_draws_depend_on_names_class_and_seed_alone() -> None:
    names = [f"n{i}" for i in range(250)]
    first, again = draw_order(names, "c", 1), draw_order(names[::-1], "c", 1)
    assert [first(n) for n in names] == [again(n) for n in names]
    assert sorted(first(n)["draw"] for n in names) == list(range(250))
    assert [first(n) for n in names] != [draw_order(names, "c", 2)(n) for n in names]
    assert [first(n) for n in names] != [draw_order(names, "d", 1)(n) for n in names]
    assert first("n0")["drawn_of"] == 250


def test_whole_numbers_cut_as_the_published_rule() -> None:
    assert all(n // 100 + 1 == int(n * 0.01) + 1 for n in range(20_000))
    assert all(n * 10 // 100 + 1 == int(n * 0.1) + 1 for n in range(20_000))


def test_all_synsets(tmp_path: Path) -> None:
    made = Prepared("imagenet-21k", tmp_path)
    assert made.counts() == {"train": 4, "classes_of_1k": 1}
    assert made.colours() == {
        "n00004475_26": [52],
        "n00004475_6590": [51],
        "n01440764_10074": [53],
        "n15102894_1": [54],
    }
    assert made.samples["n01440764_10074"].meta == meta(0, "tench", "n01440764")
    assert made.samples["n00004475_26"].meta["class_name"] == "organism"
    assert made.summary.problems == {"unreadable picture": 1}
    assert made.left_out()["unreadable picture"][0].startswith("n00004475_7: ")
    made.check()


def test_all_synsets_in_one_tar(tmp_path: Path) -> None:
    make_imagenet_21k(tmp_path / "apart")
    (tmp_path / "whole").mkdir()
    with tarfile.open(tmp_path / "whole/fall11_whole.tar", "w") as tar:
        for path in sorted((tmp_path / "apart").glob("n*.tar")):
            tar.add(path, path.name)
    made = load_card("imagenet-21k").convert(tmp_path / "whole", {})
    assert [u.sample.key for u in made if isinstance(u, Unread)] == [
        "n00004475_26",
        "n00004475_6590",
        "n00004475_7",
        "n01440764_10074",
    ]


def test_the_list_of_uni_perceiver(tmp_path: Path) -> None:
    made = Prepared("imagenet-21k", tmp_path, layout="uniperceiver")
    assert list(made.samples) == ["n01440764_10074", "n00004475_26", "n15102894_1"]
    assert made.samples["n15102894_1"].meta["listed_label"] == 21840
    assert made.left_out() == {
        "bad entry": [
            "imagenet_22k_filelist_short.txt:5: "
            "expected `wnid number class` with a known wnid, got n00004475 26"
        ],
        "missing picture": ["n15102894_99: n15102894/n15102894_99.JPEG"],
    }


def test_synsets_that_are_none_are_listed(tmp_path: Path) -> None:
    for name in ("n00000001", "notes", "meta"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="1 names are no class of card 'imagenet-21k': 'n00000001';"):
        list(load_card("imagenet-21k").convert(tmp_path, {}))
    with pytest.raises(DataError, match="expected folders or tars of synsets"):
        list(load_card("imagenet-21k").convert(tmp_path / "n00000001", {}))


def test_a_run_reads_the_pictures(tmp_path: Path) -> None:
    made = Prepared("imagenet-1k", tmp_path)
    config = DataConfig.model_validate({"path": str(made.out), "split": "train", "image": {"size": 16}})
    config = config.with_(batch_size=6) if "batch_size" in DataConfig.model_fields else config
    batch = next(iter(Loader(open_sources(config), config, None, seed=1)))
    assert set(batch.keys) <= {key for key, sample in made.samples.items() if sample.split == "train"}
    assert batch.images.shape[1:] == (3, 16, 16)


def test_classes_of_the_development_kit(tmp_path: Path) -> None:
    path = tmp_path / "meta.mat"
    path.write_bytes(mat_file(DEVKIT))
    assert wnids_of_devkit(FileRef(path)) == DEVKIT


def test_damaged_development_kits_are_errors(tmp_path: Path) -> None:
    whole, path = mat_file(DEVKIT), tmp_path / "meta.mat"
    draws = random.Random(5)
    damaged = [whole[:n] for n in (0, 100, 128, 140, 200, len(whole) - 9)]
    for _ in range(200):
        place = draws.randrange(128, len(whole))
        damaged.append(whole[:place] + bytes([draws.randrange(256)]) + whole[place + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = wnids_of_devkit(FileRef(path))
        except DataError:
            refused += 1
        else:
            assert found == DEVKIT  # the damage is in what is not read
    assert refused > 100
    with pytest.raises(DataError, match="missing"):
        wnids_of_devkit(FileRef(tmp_path / "none"))

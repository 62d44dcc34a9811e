"""The cards of pictures by address (CC3M, CC12M, SBU) on their miniatures; what download tools write."""

import io
import json
import math
import re
import shutil
import tarfile
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from url_checks import captions, prepared

from diptych.data.acquire.job import fetch
from diptych.data.acquire.options import NetOptions, PictureOptions
from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.fetched import fetched
from diptych.data.cards.fetched_own import Own
from diptych.data.config import DataConfig
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader
from diptych.data.miniatures import url_sets
from diptych.data.miniatures.media import colour_of, picture
from diptych.data.prepare import load_card, prepare
from diptych.data.raw.arrow import arrow_rows
from diptych.data.raw.url_lists import url_list
from diptych.data.sample import Sample
from diptych.data.sources import open_sources
from diptych.errors import DataError, UsageError


def colours(samples: dict[str, Sample]) -> dict[str, int]:
    """Return the colour of each sample's picture."""
    return {key: colour_of(next(iter(sample.media.values()))) for key, sample in samples.items()}


SQUEEZED = '"look , an éclair" said somebody .'


def test_cc3m_pairs_lines_with_the_pictures_of_their_number(tmp_path: Path) -> None:
    summary, samples = prepared("cc3m", tmp_path)
    assert summary.splits == {"train": 5, "val": 2, "sized": 7}
    assert summary.problems == {"missing picture": 1, "unreadable picture": 1}
    assert summary.examples["missing picture"] == ["train_00000002: train_image/00000002.jpg"]
    assert summary.examples["unreadable picture"][0].startswith("train_00000006: ")
    assert captions(samples) == {
        "train_00000000": ("a dog runs on the beach .",),
        "train_00000001": (SQUEEZED,),
        "train_00000003": ("actor arrives at the premiere",),
        "train_00000005": ("a dog runs on the beach .",),
        "train_00000007": ("a person's flag with a tab",),
        "val_00000000": ("a kite in the sky",),
        "val_00000001": ("a second kite",),
    }
    assert list(colours(samples).values()) == [0, 1, 3, 4, 6, 100, 101]
    # Pictures are called what they are, whatever their files are called.
    assert list(samples["train_00000001"].media) == ["webp"]
    # The address that the last line ends with is whole, although no line end follows it.
    assert samples["train_00000007"].meta == {"url": "http://host0.example/pictures/6.jpg?w=640,h=480"}
    assert samples["val_00000000"].split == "val"


def test_cc3m_in_archives_and_one_split_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    url_sets.make_cc3m(raw)
    folder = raw / "train_image"
    url_sets.write_tar(raw / "train_image.tar", [(p.name, p.read_bytes()) for p in sorted(folder.iterdir())])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    (raw / "val_image").rename(raw / "elsewhere")
    with pytest.raises(DataError, match=r"list of the split 'val' but none of val_image, .*-o splits="):
        prepared("cc3m", tmp_path)
    summary, samples = prepared("cc3m", tmp_path, splits="train")
    assert summary.splits == {"train": 5, "val": 0, "sized": 5}
    assert colours(samples)["train_00000005"] == 4


def test_cc3m_from_the_shards_of_a_download_tool(tmp_path: Path) -> None:
    summary, samples = prepared("cc3m", tmp_path, "fetched")
    assert summary.splits == {"train": 5, "val": 2, "sized": 7}
    assert summary.problems == {"missing picture": 1, "unreadable picture": 1}
    assert summary.examples["missing picture"] == [
        "train_000000002: cc3m-train-0000.tar: failed_to_download: HTTP Error 404: Not Found "
        "http://host2.example/pictures/2.jpg?w=640,h=480"
    ]
    # In the order in which the tool wrote them.
    assert colours(samples) == {
        "train_000000003": 3,
        "train_000000001": 1,
        "train_000000000": 0,
        "train_000000006": 6,
        "train_000000004": 4,
        "val_000000001": 101,
        "val_000000000": 100,
    }
    assert samples["train_000000001"].captions == (SQUEEZED,)
    assert samples["train_000000001"].meta == {
        "url": "http://host1.example/pictures/1.jpg?w=640,h=480",
        "original_width": 640,
        "original_height": 480,
    }


def test_cc3m_in_the_tree_of_uniperceiver(tmp_path: Path) -> None:
    summary, samples = prepared("cc3m", tmp_path, "uniperceiver")
    assert summary.splits == {"train": 6, "val": 2, "sized": 8}
    assert summary.problems == {"missing picture": 1}
    assert colours(samples) == {
        **{f"train_0000000{i}": i for i in (0, 1, 3, 4, 5, 6)},
        "val_00000000": 100,
        "val_00000001": 101,
    }
    assert samples["train_00000001"].captions == (SQUEEZED,)
    assert samples["train_00000006"].captions == ("a person's flag with a tab",)


def test_cc3m_through_the_loader(tmp_path: Path) -> None:
    prepared("cc3m", tmp_path)
    config = DataConfig.model_validate(
        {"path": str(tmp_path / "out"), "split": "val", "image": {"size": 16}, "loader": {"batch_size": 2}}
    )
    batch = next(iter(Loader(open_sources(config), config, None, seed=1)))
    assert sorted(batch.texts) == ["a kite in the sky", "a second kite"]
    assert tuple(batch.images.shape) == (2, 3, 16, 16)


def test_cc12m_sees_the_address_by_its_content(tmp_path: Path) -> None:
    summary, samples = prepared("cc12m", tmp_path)
    assert summary.splits == {"train": 4, "sized": 4}
    assert summary.problems == {"missing picture": 1}
    assert captions(samples) == {
        "train_00000000": ("A Dog Runs &amp; Jumps",),
        "train_00000001": ('<PERSON> said "hello, café"',),
        "train_00000003": ("http://looks.example/like-an-address",),
        "train_00000004": ("A Dog Runs &amp; Jumps",),
    }
    assert list(colours(samples).values()) == [200, 201, 203, 204]
    assert samples["train_00000003"].meta["url"] == "http://host2.example/pictures/203.jpg?w=640,h=480"


def test_cc12m_with_its_columns_turned_around(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_text(
        "caption\turl\nA dog\thttp://a.example/1.jpg\nno address\there\nA cat\thttps://a.example/2.jpg\r\n"
    )
    rows = list(url_list("cc12m", tmp_path))
    assert [(row["id"], row["caption"], row["url"]) for row in rows] == [
        ("train_00000000", "A dog", "http://a.example/1.jpg"),
        ("train_00000001", "no address here", ""),
        ("train_00000002", "A cat", "https://a.example/2.jpg"),
    ]
    assert rows[1]["problem"] == "cc12m.tsv, line 3: no address in 'no address\\there'"
    assert rows[2]["file"] == "train_image/00000002.jpg"


def test_cc12m_from_folders_of_a_download_tool(tmp_path: Path) -> None:
    summary, samples = prepared("cc12m", tmp_path, "fetched")
    assert summary.problems == {"missing picture": 1}
    # The column `id` of our own list is the key.
    assert colours(samples) == {f"train_0000000{i}": 200 + i for i in (0, 1, 3, 4)}


def test_cc12m_in_the_tree_of_uniperceiver(tmp_path: Path) -> None:
    summary, samples = prepared("cc12m", tmp_path, "uniperceiver")
    assert summary.splits["train"] == 4
    assert colours(samples) == {f"train_0000000{i}": 200 + i for i in (0, 1, 3, 4)}


def test_sbu_leaves_out_the_picture_for_photos_that_are_gone(tmp_path: Path) -> None:
    summary, samples = prepared("sbu", tmp_path)
    assert summary.splits == {"train": 3, "sized": 3}
    assert summary.problems == {"missing picture": 1, "placeholder picture": 10, "repeated picture": 1}
    assert captions(samples) == {
        "2034112233_00aa11bb22": ("my café &amp; I :-) in May",),
        "0900000009_9876543210": ("A boat, “moored” on the lake",),
        "4385058960_b0f291553e": ("the later caption of the first photo",),
    }
    assert list(colours(samples).values()) == [301, 303, 300]
    assert summary.examples["placeholder picture"][0] == (
        "1000000001_0123456789: http://static.flickr.com/1000/1000000001_0123456789.jpg"
    )


def test_sbu_keeps_placeholders_on_request(tmp_path: Path) -> None:
    summary, samples = prepared("sbu", tmp_path, placeholders="11")
    assert summary.splits["train"] == len(samples) == 13
    with pytest.raises(UsageError, match="placeholders=x"):
        list(load_card("sbu").convert(tmp_path / "raw", {"placeholders": "x"}))


@pytest.mark.parametrize("form", ["json", "tar.gz", "folder"])
def test_sbu_lists_in_every_form_are_the_same(tmp_path: Path, form: str) -> None:
    url_sets.make_sbu(tmp_path)
    expected = list(url_list("sbu", tmp_path))
    assert len(expected) == 15
    if form == "folder":
        (tmp_path / "dataset").rename(tmp_path / "SBUCaptionedPhotoDataset")
    else:
        urls, texts = (
            (tmp_path / f"dataset/SBU_captioned_photo_dataset_{half}.txt").read_text().splitlines()
            for half in ("urls", "captions")
        )
        if form == "json":
            content = {"user_ids": ["x"], "image_urls": urls, "captions": texts}
            (tmp_path / "sbu-captions-all.json").write_text(json.dumps(content))
        else:
            with tarfile.open(tmp_path / "SBUCaptionedPhotoDataset.tar.gz", "w:gz") as tar:
                tar.add(tmp_path / "dataset", "dataset")
        for path in (tmp_path / "dataset").iterdir():
            path.unlink()
    assert list(url_list("sbu", tmp_path)) == expected


def test_sbu_halves_of_different_length_are_refused(tmp_path: Path) -> None:
    url_sets.make_sbu(tmp_path)
    path = tmp_path / "dataset/SBU_captioned_photo_dataset_captions.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(DataError, match="the captions end after 13 rows"):
        list(url_list("sbu", tmp_path))


def test_sbu_from_shards_and_from_the_tree(tmp_path: Path) -> None:
    summary, samples = prepared("sbu", tmp_path / "a", "fetched")
    assert summary.problems == {"missing picture": 1, "placeholder picture": 10}
    assert colours(samples)["2034112233_00aa11bb22"] == 301
    summary, samples = prepared("sbu", tmp_path / "b", "uniperceiver")
    assert summary.problems == {"missing picture": 1, "placeholder picture": 10}
    assert samples["4385058960_b0f291553e"].captions == ("the later caption of the first photo",)


def test_arrow_files_of_eve(tmp_path: Path) -> None:
    summary, samples = prepared("cc3m", tmp_path, "arrow")
    assert summary.splits == {"train": 6, "val": 0, "sized": 6}
    assert summary.examples == {"missing picture": ["train_cc3m_2_000002: cc3m_2.arrow, row 2"]}
    # File 2 before file 10, rows counted over the batches of a file.
    assert colours(samples) == {
        "train_cc3m_2_000000": 0,
        "train_cc3m_2_000001": 1,
        "train_cc3m_2_000003": 3,
        "train_cc3m_10_000000": 4,
        "train_cc3m_10_000001": 5,
        "train_cc3m_10_000002": 6,
    }
    assert samples["train_cc3m_2_000001"].captions == (SQUEEZED,)
    assert samples["train_cc3m_10_000002"].captions == ("a person's flag with a tab", "more")
    assert samples["train_cc3m_2_000000"].meta == {"url": "http://host0.example/pictures/0.jpg?w=640,h=480"}


@pytest.mark.parametrize(("card", "count"), [("cc12m", 4), ("sbu", 14)])
def test_arrow_files_of_other_sets(tmp_path: Path, card: str, count: int) -> None:
    summary, _ = prepared(card, tmp_path, "arrow")
    assert summary.splits["train"] == count


def test_damaged_arrow_files_are_named(tmp_path: Path) -> None:
    convert = load_card("cc12m").layouts["arrow"].convert
    with pytest.raises(DataError, match=r"expected cc12m_0.arrow"):
        list(convert(tmp_path, {}))
    url_sets.make_cc12m(tmp_path, "arrow")
    with pytest.raises(
        DataError, match=r"cc12m_10.arrow: no column 'picture'; it has image, caption, image_id"
    ):
        list(arrow_rows(tmp_path / "cc12m_10.arrow", "picture", ()))
    data = (tmp_path / "cc12m_2.arrow").read_bytes()
    (tmp_path / "cc12m_2.arrow").write_bytes(data[:-50])
    with pytest.raises(DataError, match=r"cc12m_2.arrow cannot be read as an Arrow file"):
        list(convert(tmp_path, {}))


def test_our_own_shards_keep_keys_and_splits(tmp_path: Path) -> None:
    _, first = prepared("cc3m", tmp_path)
    # What `diptych data fetch` tells of each row.
    told = {"key": ["val_00000000", "val_00000007"], "status": ["success", "failed_to_download"]}
    told |= {"cause": ["", "http 404"], "detail": ["", ""], "url": ["http://a.example", "http://b.example"]}
    pq.write_table(pa.table(told), tmp_path / "out/rows.parquet")
    again = prepare(load_card("cc3m"), tmp_path / "out", tmp_path / "again", layout="fetched")
    assert again.splits == {"train": 5, "val": 2, "sized": 7}
    assert again.examples == {"missing picture": ["val_00000007: http 404 http://b.example"]}
    samples = ShardDataset.open(tmp_path / "again").select()
    assert {s.key: s.captions for s in map(samples.read, range(7))} == captions(first)
    (tmp_path / "out/index.parquet").write_bytes(b"PAR1")
    assert found_in(tmp_path / "out")[0] == ("cc3m-000000.tar", "damaged shard")


def test_what_our_own_folder_tells(tmp_path: Path) -> None:
    assert Own.at(tmp_path) is None
    prepared("cc3m", tmp_path)
    own = Own.at(tmp_path / "out")
    assert own is not None
    assert own.splits("cc3m-000000.tar") == {
        **{f"train_0000000{i}": "train" for i in (0, 1, 3, 5, 7)},
        **{f"val_0000000{i}": "val" for i in (0, 1)},
    }
    assert list(own.failed("picture")) == []
    (tmp_path / "out/rows.parquet").write_bytes(b"PAR1")
    assert [problem.cause for problem in own.failed("picture")] == ["damaged shard"]
    prepared("cc12m", tmp_path / "other")
    other = Own.at(tmp_path / "other/out")
    assert other is not None
    assert other.splits("cc12m-000000.tar") == {"": "train"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Serve a folder on the loopback address; the file `address` beside it says where."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    (tmp_path / "address").write_text(f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.slow
def test_from_the_published_list_over_fetching_to_shards(tmp_path: Path, site: Path) -> None:
    raw = tmp_path / "raw"
    url_sets.make_cc3m(raw)
    shutil.rmtree(raw / "train_image")
    address = (tmp_path / "address").read_text()
    for name in ("Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"):
        text = (raw / name).read_text(encoding="utf-8")
        (raw / name).write_text(re.sub(r"http://\S+/pictures", address, text), encoding="utf-8")
    for colour in (0, 1, 3, 4, 6, 100, 101):
        (site / f"{colour}.jpg").write_bytes(picture(colour, (300, 200)))
    (site / "5.jpg").write_bytes(url_sets.HTML)
    fetch(
        str(raw),
        tmp_path / "fetched",
        form="cc3m",
        net=NetOptions(allow_private=True, retries=0),
        pictures=PictureOptions(size=32),
        workers=1,
    )
    summary = prepare(load_card("cc3m"), tmp_path / "fetched", tmp_path / "out", layout="fetched")
    assert summary.splits == {"train": 5, "val": 2, "sized": 7}
    assert summary.problems == {"missing picture": 2}
    found = ShardDataset.open(tmp_path / "out").select()
    samples = {sample.key: sample for sample in map(found.read, range(len(found)))}
    # What was fetched has the keys and captions that the published naming gives.
    assert colours(samples) == {
        "train_00000000": 0,
        "train_00000001": 1,
        "train_00000003": 3,
        "train_00000005": 4,
        "train_00000007": 6,
        "val_00000000": 100,
        "val_00000001": 101,
    }
    assert samples["train_00000001"].captions == (SQUEEZED,)
    assert list(found.column("original_width")) == [300] * 7


def test_our_shards_in_webdataset(tmp_path: Path) -> None:
    prepared("cc3m", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        tars = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
        theirs = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in theirs][:2] == ["train_00000000", "train_00000001"]
    assert theirs[1]["txt"].decode() == SQUEEZED
    assert [key for sample in theirs for key in sample if key in ("jpg", "webp", "gif")] == [
        *("jpg", "webp", "gif"),
        *["jpg"] * 4,
    ]
    assert [colour_of(theirs[i]["jpg"]) for i in (0, 3, 4, 5, 6)] == [0, 4, 6, 100, 101]


def found_in(raw: Path, kind: str = "picture") -> list[tuple[str, str]]:
    """Return (key, its medium or the cause) of what `fetched` yields."""
    return [
        (found.key, found.cause if isinstance(found, LeftOut) else found.medium[0])
        for found in fetched(raw, kind)
    ]


def test_samples_without_media_are_counted_once(tmp_path: Path) -> None:
    row = url_sets.Row("00000001", "http://a.example/1.mp4", "x")
    url_sets.image_shard(tmp_path / "00000.tar", [row])
    url_sets.write_tar(tmp_path / "00000.tar", [("00000001.json", json.dumps(row.side()).encode())])
    assert found_in(tmp_path) == [("train_00000001", "missing picture")]


def test_shards_in_several_folders_keep_their_samples_apart(tmp_path: Path) -> None:
    members = [
        ("0.jpg", picture(1)),
        ("0.txt", b"a"),
        ("x/1.png", picture(2, format="png")),
        ("x/1.txt", b"b"),
    ]
    for place in ("train/0.tar", "train/more/0.tar", "validation/0.tar", "_tmp/0.tar"):
        url_sets.write_tar(tmp_path / place, members)
    assert found_in(tmp_path) == [
        ("train_0", "jpg"),
        ("train_x_1", "png"),
        ("train_more_0", "jpg"),
        ("train_more_x_1", "png"),
        ("val_0", "jpg"),
        ("val_x_1", "png"),
    ]


def test_damaged_shards_are_named_and_give_what_is_whole(tmp_path: Path) -> None:
    members = [
        (f"{i}.{part}", picture(i) if part == "jpg" else b"{}") for i in range(3) for part in ("jpg", "json")
    ]
    url_sets.write_tar(tmp_path / "00000.tar", members)
    data = (tmp_path / "00000.tar").read_bytes()
    end = data.index(b"1.jpg\0")
    (tmp_path / "00000.tar").write_bytes(data[:end])
    (tmp_path / "00001.tar").write_bytes(data[: end + 512 + 20])
    (tmp_path / "00002.tar").write_bytes(b"")
    (tmp_path / "00003.tar").write_bytes(b"<html>" * 1000)
    assert found_in(tmp_path) == [
        ("train_0", "jpg"),
        ("00000.tar", "damaged shard"),
        ("train_0", "jpg"),
        ("00001.tar", "damaged shard"),
        ("00002.tar", "damaged shard"),
        ("00003.tar", "damaged shard"),
    ]


@pytest.mark.parametrize("side", [b"{", b"[]", b'{"caption": 1e999999}', b"\xff\xfe", b"[" * 10**5])
def test_damaged_json_costs_its_sample_only(tmp_path: Path, side: bytes) -> None:
    url_sets.write_tar(
        tmp_path / "00000.tar", [("0.jpg", b"x"), ("0.json", side), ("1.jpg", b"x"), ("1.json", b"{}")]
    )
    keys = [key for key, cause in found_in(tmp_path) if cause == "jpg"]
    assert keys[-1] == "train_1"


def test_no_shards_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards of a download tool"):
        list(fetched(tmp_path, "picture"))
    with pytest.raises(UsageError, match="card 'cc3m' needs its raw files"):
        list(load_card("cc3m").convert(None, {}))


def test_further_columns_are_kept_on_request(tmp_path: Path) -> None:
    row = url_sets.Row(
        "0",
        "http://a.example/1.jpg",
        "x",
        picture(1),
        more={"similarity": 0.25, "lang": "en", "nan": math.nan},
    )
    url_sets.image_shard(tmp_path / "00000.tar", [row])
    made = list(
        load_card("cc3m").layouts["fetched"].convert(tmp_path, {"columns": "similarity, absent, nan"})
    )
    assert isinstance(made[0], Unread)
    assert made[0].sample.meta["similarity"] == 0.25
    assert not {"lang", "nan", "absent"} & set(made[0].sample.meta)


def test_a_list_that_is_cut_off_is_named(tmp_path: Path) -> None:
    import gzip

    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(b"http://a.example/1.jpg\tx\n" * 5000)
    (tmp_path / "cc12m.tsv.gz").write_bytes(packed.getvalue()[:-20])
    with pytest.raises(DataError, match=r"cc12m.tsv.gz is damaged"):
        list(url_list("cc12m", tmp_path))

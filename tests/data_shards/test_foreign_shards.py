"""Our shards in the `webdataset` package, its shards in ours, and other plain tars."""

import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from toy_card import png, toy_card, toy_sample, tree

from diptych.data.index import ShardDataset
from diptych.data.prepare import prepare
from diptych.data.shards import ShardWriter
from diptych.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import webdataset


def read_with_webdataset(*tars: Path) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path, shard_size=8)
    ours = ShardDataset.open(tmp_path).select()
    theirs = read_with_webdataset(*sorted(tmp_path.glob("*.tar")))
    assert len(theirs) == len(ours) == 31
    for i, sample in enumerate(theirs):
        own = ours.read(i)
        assert sample["__key__"] == own.key
        assert sample["png"] == own.media["png"]
        assert sample["txt"].decode() == own.captions[0]
        side = json.loads(sample["json"])
        assert side["captions"] == list(own.captions)
        assert (side["match_id"], side["split"], side["meta"]) == (own.match_id, own.split, own.meta)


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    path = tmp_path / "plain-000000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(5):
            writer.write(
                {
                    "__key__": f"sub.dir/{i:03d}",
                    "png": png(i, width=i + 1),
                    "seg.png": png(i + 100),
                    "txt": f"text {i}",
                    "json": {
                        "caption": f"caption {i}",
                        "aesthetic": i / 2,
                        "key": f"{i:09d}",
                        "status": "success",
                    },
                    "cls": i,
                }
            )
    dataset = ShardDataset.open(path)
    assert (dataset.size, dataset.name, list(dataset.splits)) == (5, "plain-000000", ["all"])
    chosen = dataset.select("all", "aesthetic >= 1 and width < 5")
    assert list(chosen.column("width")) == [3, 4]
    assert [chosen.read(i).key for i in range(2)] == ["sub.dir/002", "sub.dir/003"]
    sample = chosen.read(0)
    assert sample.captions == ("caption 2",)
    assert (sample.match_id, sample.split) == ("", "all")
    assert sample.media == {"png": png(2, width=3), "seg.png": png(102), "cls": b"2"}
    # `key` is a column of ours: the JSON's stays among the facts
    assert sample.meta == {"aesthetic": 1.0, "key": "000000002", "status": "success"}


def test_samples_equal_those_of_webdataset(tmp_path: Path) -> None:
    """Odd names, a folder, upper case, long names in all formats: the package decides what a sample is."""
    long = "d" * 60 + "/" + "n" * 90
    members = [
        ("a/b.c/000.png", png(1)), ("a/b.c/000.seg.PNG", png(2)), ("a/b.c/000.txt", b"one"),
        ("img.v2.jpg", b"x"), ("noext", b"skipped"), (".hidden", b"skipped"),
        ("img.txt", b"two"), (f"{long}.png", png(3)), (f"{long}.txt", b"three"), ("./z.TXT", b"four"),
    ]  # fmt: skip
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / f"f{form}.tar", members, form)
        theirs = {
            s["__key__"]: {name: data for name, data in s.items() if not name.startswith("__")}
            for s in read_with_webdataset(path)
        }
        selection = ShardDataset.open(path).select()
        ours = {}
        for i in range(len(selection)):
            sample = selection.read(i)
            ours[sample.key] = {**sample.media, "txt": sample.captions[0].encode()}
        assert ours == theirs
        assert len(ours) == 4


def test_our_plain_shards_keep_splits(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "own", shard_size=4) as writer:
        for i in range(10):
            writer.write(toy_sample(i))
    dataset = ShardDataset.open(tmp_path)
    assert {name: len(dataset.select(name)) for name in dataset.splits} == {"all": 10, "test": 2, "train": 8}
    assert [dataset.select("test").read(i) for i in range(2)] == [toy_sample(4), toy_sample(9)]


def test_captions_and_lone_sidecars(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "d.tar",
        [
            ("a.bin", b"1"), ("a.json", b'{"captions": ["x", " ", "y"]}'),
            ("failed.json", b'{"status": "failed_to_download"}'),
            ("b.bin", b"2"), ("b.json", b'{"caption": null}'), ("b.txt", b" from text "),
            ("bad.bin", b"3"), ("bad.json", b"{no json"),
            ("list.bin", b"3"), ("list.json", b"[1]"),
            ("p.png", b"no picture"), ("p.txt", b"kept, though"),
            ("t.txt", b"only text"),
            ("twice.bin", b"4"), ("twice.bin", b"5"),
        ],
    )  # fmt: skip
    dataset = ShardDataset.open(path)
    selection = dataset.select()
    samples = [selection.read(i) for i in range(len(selection))]
    assert [s.key for s in samples] == ["a", "b", "p", "t", "twice"]
    assert [s.captions for s in samples] == [
        ("x", "y"),
        ("from text",),
        ("kept, though",),
        ("only text",),
        (),
    ]
    assert samples[4].media == {"bin": b"4"}
    assert dataset.info["problems"] == {
        "empty sample": 1, "repeated member": 1, "unreadable JSON": 2, "unreadable picture": 1,
    }  # fmt: skip


def test_columns_of_mixed_types_become_text(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.bin", b"1"), ("a.json", b'{"v": 1, "w": 1}')])
    write_tar(
        tmp_path / "b.tar",
        [
            ("b.bin", b"1"),
            ("b.json", b'{"v": "x", "w": 2.5}'),
            ("c.bin", b"1"),
            ("c.json", b'{"v": true, "w": 3}'),
        ],
    )
    dataset = ShardDataset.open(tmp_path)
    assert dataset.select().column("v") == ["1", "x", "True"]
    assert list(dataset.select().column("w")) == [1.0, 2.5, 3.0]


def test_index_lies_beside_and_is_renewed_when_tars_change(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.txt", b"one")])
    assert ShardDataset.open(tmp_path).size == 1
    index = tmp_path / ".diptych" / "index.parquet"
    made = index.stat().st_mtime_ns
    assert ShardDataset.open(tmp_path).size == 1
    assert index.stat().st_mtime_ns == made
    write_tar(tmp_path / "b.tar", [("b.txt", b"two"), ("c.txt", b"three")])
    assert ShardDataset.open(tmp_path).size == 3
    assert not [name for name in tree(tmp_path) if "parts-" in name]
    assert ShardDataset.open(tmp_path / "b.tar").size == 2


def test_index_of_a_folder_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / "a.tar", [("a.txt", b"one")])
    (folder / ".diptych").write_text("a file where the folder would be")
    dataset = ShardDataset.open(folder)
    assert cache in dataset.index.parents
    assert dataset.select().read(0).captions == ("one",)
    cache.rename(tmp_path / "moved")
    cache.write_text("no folder either")
    with pytest.raises(DataError, match="no place for the index of"):
        ShardDataset.open(folder)


def test_truncated_plain_tar_names_the_last_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", [(f"{i}.bin", bytes(2000)) for i in range(5)])
    whole = path.read_bytes()
    path.write_bytes(whole[: 2560 * 3 + 600])  # headers of 512 and contents of 2048 bytes: inside the fourth
    with pytest.raises(DataError, match=r"d\.tar is no readable tar \(at the member after '3\.bin'"):
        ShardDataset.open(path)


def test_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", [(f"{i}.bin", bytes(2000)) for i in range(5)])
    whole = bytearray(path.read_bytes())
    whole[2560 * 2 + 10] ^= 1  # the name in the third header
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"d\.tar is damaged \(header of the member after '1\.bin'\)"):
        ShardDataset.open(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.tar", b"", "no readable tar|no sample"),
        ("d.tar", bytes(10240), "no sample in 1 tar"),
        ("d.tar", b"\x1f\x8b compressed", "no readable tar .*unpack a compressed one"),
        ("other.txt", b"hello", "no readable tar"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        ShardDataset.open(tmp_path / name)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected a prepared dataset"):
        ShardDataset.open(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no dataset: expected dataset\.json"):
        ShardDataset.open(tmp_path)

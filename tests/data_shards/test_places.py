"""The memory-mapped table of places and what a selection of a large dataset holds."""

import errno
import fcntl
import json
import multiprocessing
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_card import toy_card, toy_sample

from diptych.data import derived as derived_module
from diptych.data import index as index_module
from diptych.data import places as places_module
from diptych.data.columns import FIXED, file_hash
from diptych.data.index import ShardDataset
from diptych.data.locking import locked
from diptych.data.places import PLACES, Place, Places, write_places
from diptych.data.prepare import prepare
from diptych.data.shards import ShardWriter
from diptych.errors import DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    prepare(toy_card(), None, out, shard_size=7)
    return out


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def without_places(folder: Path) -> Path:
    """Turn a dataset into one of an earlier version."""
    (folder / PLACES).unlink()
    info = json.loads((folder / "dataset.json").read_text())
    del info["places"]
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def test_places_by_hand(tmp_path: Path) -> None:
    """Two shards, a sample without a picture, keys outside ASCII, two splits."""
    rows = [
        ("a", "x.tar", "train", 0, 2048, 1, 512, 7, 1536, 3),
        ("grün", "x.tar", "test", 2048, 1024, 4294967295, None, None, 2560, 5),
        ("", "y.tar", "train", 0, 1536, 3, 512, 1, 1024, 2),
    ]
    names = ["key", "shard", "split", "sample_offset", "sample_size", "crc32"]
    names += ["jpg_offset", "jpg_size", "seg.png_offset", "seg.png_size"]
    columns = [list(values) for values in zip(*rows, strict=True)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "i.parquet", row_group_size=2)
    write_places(tmp_path / "i.parquet", "abc", ["y.tar", "x.tar"], ["jpg", "seg.png"], tmp_path / "p")
    places = Places(tmp_path / "p")
    assert (places.size, places.index, places.shards) == (3, "abc", 2)
    assert [places.at(i) for i in range(3)] == [
        Place("a", 1, "train", 0, 2048, 1, {"jpg": (512, 7), "seg.png": (1536, 3)}),
        Place("grün", 1, "test", 2048, 1024, 4294967295, {"seg.png": (512, 5)}),
        Place("", 0, "train", 0, 1536, 3, {"jpg": (512, 1), "seg.png": (1024, 2)}),
    ]
    assert places.shard_numbers(np.array([2, 0, 1])).tolist() == [0, 1, 1]
    with pytest.raises(IndexError):
        places.at(3)
    footer = 16 + 3 * (36 + 2 * 8) + len("agrün".encode())
    assert json.loads((tmp_path / "p").read_bytes()[footer:-24])["splits"] == ["train", "test"]


@settings(max_examples=20, deadline=None)
@given(
    samples=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            st.integers(0, 2),
            st.sampled_from(["train", "test"]),
            st.integers(0, 1 << 40),
            st.integers(1, 1 << 33),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
    group=st.integers(1, 5),
    step=st.integers(1, 5),
)
def test_places_equal_the_table(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[tuple[str, int, str, int, int, bool]],
    group: int,
    step: int,
) -> None:
    """Any keys, sizes beyond 4 GiB, row groups of any size, written in pieces of any size."""
    folder = tmp_path_factory.mktemp("p")
    table = pa.table(
        {
            "key": [key for key, *_ in samples],
            "shard": [f"s{shard}" for _, shard, *_ in samples],
            "split": [split for _, _, split, *_ in samples],
            "sample_offset": pa.array([s[3] for s in samples], pa.int64()),
            "sample_size": pa.array([s[4] for s in samples], pa.int64()),
            "crc32": pa.array([i * 7 for i in range(len(samples))], pa.int64()),
            "bin_offset": pa.array([s[3] + 512 if s[5] else None for s in samples], pa.int64()),
            "bin_size": pa.array([s[4] - 1 if s[5] else None for s in samples], pa.int64()),
        }
    )
    pq.write_table(table, folder / "i", row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places_module, "STEP", step)
        patch.setattr(places_module, "HOLD", 3)
        write_places(folder / "i", "d", ["s0", "s1", "s2"], ["bin"], folder / "p")
        places = Places(folder / "p")
        found = [places.at(i) for i in range(len(samples))]
    assert found == [
        Place(key, shard, split, start, size, i * 7, {"bin": (512, size - 1)} if there else {})
        for i, (key, shard, split, start, size, there) in enumerate(samples)
    ]


def test_prepared_datasets_have_places(prepared: Path) -> None:
    dataset = ShardDataset.open(prepared)
    assert dataset.info["places"] == {"sha256": file_hash(prepared / PLACES)}
    assert dataset.places.path == prepared / PLACES
    table = dataset.take(["key", "shard", "sample_offset", "png_offset"]).to_pylist()
    for i, row in enumerate(table):
        place = dataset.places.at(i)
        assert (place.key, dataset.shards[place.shard]) == (row["key"], row["shard"])
        assert place.members["png"][0] == row["png_offset"] - row["sample_offset"]


def test_datasets_without_places_get_them_once(tmp_path: Path, cache: Path) -> None:
    prepare(toy_card(), None, tmp_path / "d", shard_size=7)
    kept = [ShardDataset.open(tmp_path / "d").select().read(i) for i in range(31)]
    folder = without_places(tmp_path / "d")
    selection = ShardDataset.open(folder).select()
    assert [selection.read(i) for i in range(31)] == kept
    made = selection.dataset.places.path
    assert made == folder / ".diptych" / PLACES
    written = made.stat().st_mtime_ns
    assert ShardDataset.open(folder).places.path.stat().st_mtime_ns == written
    # One that is cut off, or of another index, is made again.
    for damage in (made.read_bytes()[:-1], b"", made.read_bytes()[: -places_module._END.size - 16]):
        made.write_bytes(damage)
        assert ShardDataset.open(folder).select().read(3) == kept[3]
    # A folder that cannot be written: the user's cache.
    made.unlink()
    (folder / ".diptych" / "lock").unlink()
    (folder / ".diptych").rmdir()
    (folder / ".diptych").write_text("a file where the folder would be")
    dataset = ShardDataset.open(folder)
    assert dataset.select().read(4) == kept[4]
    assert cache in dataset.places.path.parents
    cache.rename(tmp_path / "moved")
    cache.write_text("no folder either")
    with pytest.raises(DataError, match=r"no place for places\.bin: neither .*can be written"):
        _ = ShardDataset.open(folder).places


def test_places_of_another_index_are_not_used(tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path / "a", shard_size=7)
    prepare(toy_card(20), None, tmp_path / "b", shard_size=7)
    (tmp_path / "a" / PLACES).write_bytes((tmp_path / "b" / PLACES).read_bytes())
    dataset = ShardDataset.open(tmp_path / "a")
    assert dataset.select().read(30).key == "toy_029"
    assert dataset.places.path.parent.name == ".diptych"
    info = {**dataset.info, "samples": 30}
    with pytest.raises(DataError, match="do not belong together; prepare the dataset again"):
        _ = ShardDataset(dataset.root, dataset.index, info).places


def test_damaged_records_are_named(prepared: Path, tmp_path: Path) -> None:
    data = bytearray((prepared / PLACES).read_bytes())
    data[16 + 12] = 200  # the shard number of the first sample
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(DataError, match="is damaged or cut off; delete it"):
        Places(tmp_path / "p").at(0)
    with pytest.raises(DataError, match=r"names the shard toy-000000\.tar, dataset\.json does not"):
        write_places(prepared / "index.parquet", "d", ["other.tar"], ["png"], tmp_path / "q")
    (tmp_path / "broken").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="broken cannot be read"):
        write_places(tmp_path / "broken", "d", [], [], tmp_path / "q")
    with pytest.raises(DataError, match="cannot write"):
        write_places(prepared / "index.parquet", "d", [], [], tmp_path / "no" / "q")


def test_plain_tars_keep_their_places_beside_the_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "own", shard_size=4) as writer:
        for i in range(10):
            writer.write(toy_sample(i))
    dataset = ShardDataset.open(tmp_path)
    assert dataset.select("test").read(1) == toy_sample(9)
    assert dataset.places.path == tmp_path / ".diptych" / PLACES
    with ShardWriter(tmp_path, "own", shard_size=4, first=3) as writer:
        writer.write(toy_sample(10))
    assert ShardDataset.open(tmp_path).select().read(10) == toy_sample(10)


def _open_and_read(folder: Path) -> str:
    return ShardDataset.open(folder).select().read(2).key


def test_processes_that_open_at_once_agree(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "own", shard_size=4) as writer:
        for i in range(10):
            writer.write(toy_sample(i))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_open_and_read, [tmp_path] * 8, chunksize=1) == ["toy_002"] * 8
    assert sorted(p.name for p in (tmp_path / ".diptych").iterdir()) == [
        "dataset.json", "index.parquet", "lock", "places.bin",
    ]  # fmt: skip


def test_a_selection_of_everything_holds_nothing(prepared: Path) -> None:
    dataset = ShardDataset.open(prepared)
    everything = dataset.select()
    some = dataset.select(where="number >= 5 and number < 9")
    assert dataset.select("train", " TRUE ")._rows is not None
    assert everything._rows is None
    assert dataset.select(where="true")._rows is None
    assert everything.rows.tolist() == list(range(31))
    assert everything.rows_of(slice(3, 5)).tolist() == [3, 4]
    assert everything.rows_of(np.array([7, 2])).tolist() == [7, 2]
    assert some.rows_of(np.array([2, 0])).tolist() == some.rows[[2, 0]].tolist()
    assert some.place(1).key == "toy_006"
    assert some.address(1) == str(prepared / "toy-000000.tar")
    assert len(pickle.dumps(everything)) < 3000
    slow = dataset.select(where="key <> ''")
    assert slow._rows is not None
    assert slow.fingerprint == everything.fingerprint
    assert everything.column("number")[:2] == [0, 1]


def test_rows_of_large_datasets_are_kept_in_a_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(toy_card(), None, tmp_path / "d", shard_size=7)
    dataset = ShardDataset.open(tmp_path / "d")
    plain = dataset.select("train", "number > 3")
    monkeypatch.setattr(index_module, "KEEP_ROWS", 31)
    kept = dataset.select("train", "number > 3")
    assert isinstance(kept._rows, np.memmap)
    assert kept._rows.dtype == np.uint32
    assert kept.rows.tolist() == plain.rows.tolist()
    assert kept.fingerprint == plain.fingerprint
    assert [kept.read(i) for i in range(len(kept))] == [plain.read(i) for i in range(len(plain))]
    again = pickle.loads(pickle.dumps(kept))
    assert isinstance(again._rows, np.memmap)
    assert again.read(2) == plain.read(2)
    assert kept.column("number").tolist() == plain.column("number").tolist()

    def fail(self: ShardDataset, conditions: list[str]) -> np.ndarray:
        raise AssertionError("asked again")

    monkeypatch.setattr(ShardDataset, "_matching", fail)
    assert len(dataset.select("train", "number > 3")) == len(plain)
    with pytest.raises(AssertionError, match="asked again"):
        dataset.select("train", "number > 4")
    with pytest.raises(AssertionError, match="asked again"):
        dataset.select(where="random() < 0.5")
    assert len(list((tmp_path / "d" / ".diptych").glob("rows-*.npy"))) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """200 000 samples: opening and reading allocate less than a byte a sample (Python and numpy)."""
    n = 200_000
    with ShardWriter(tmp_path, "own") as writer:
        row = writer.write(toy_sample(0))
    columns = {field.name: pa.nulls(n, field.type) for field in FIXED}
    constant = {"shard": "own-000000.tar", **row}
    for name, value in constant.items():
        columns[name] = pa.repeat(pa.scalar(value), n) if value is not None else pa.nulls(n, pa.int32())
    columns["key"] = pa.array([f"k{i}" for i in range(n)])
    pq.write_table(pa.table(columns), tmp_path / "index.parquet", row_group_size=5000)
    shard = {"file": "own-000000.tar", "samples": n, "bytes": 0, "sha256": "0"}
    info = {
        "name": "big",
        "format": 1,
        "samples": n,
        "splits": {},
        "shards": [shard],
        "members": ["json", "png", "txt"],
        "index": {"sha256": "1"},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    assert ShardDataset.open(tmp_path).select().read(n - 1).key == f"k{n - 1}"
    tracemalloc.start()
    try:
        selection = ShardDataset.open(tmp_path).select()
        keys = [selection.read(i).key for i in (0, 77_777, n - 1)]
        _ = selection.fingerprint
        selection.will_need(np.arange(100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert keys == ["k0", "k77777", f"k{n - 1}"]
    assert peak < n


def test_reading_imports_neither_sql_nor_parquet(prepared: Path) -> None:
    code = (
        "import sys; from diptych.data.index import ShardDataset;"
        "s = ShardDataset.open(sys.argv[1]).select(); s.read(0); s.fingerprint;"
        "print([m for m in ('pyarrow', 'duckdb', 'fsspec', 'aiohttp') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(prepared)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise DataError("full")

    with pytest.raises(DataError, match="full"):
        derived_module.derived_file([tmp_path], "x", fail, lambda path: path.is_file())
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / "l") as first, locked(tmp_path / "l", wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "l", wait=False) as third:
        assert third

    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "l") as held:
        assert held

"""Opening, SQL, reading by offset."""

import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_card import toy_card, toy_samples

from diptych.data import store as store_module
from diptych.data.index import Selection, ShardDataset
from diptych.data.members import is_key
from diptych.data.prepare import prepare
from diptych.data.sample import Sample
from diptych.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    out = tmp_path_factory.mktemp("toy")
    prepare(toy_card(), None, out, shard_size=7)
    return ShardDataset.open(out)


def expected() -> list[Sample]:
    """What `toy_samples` should leave, found the slow way."""
    kept: dict[str, Sample] = {}
    for sample in toy_samples():
        if is_key(sample.key) and sample.key not in kept and sample.media and sample.key != "broken":
            kept[sample.key] = sample
        if sample.key == "with space":
            kept["with_space"] = Sample("with_space", sample.media, ("rewritten",), split="train")
    return list(kept.values())


def test_reads_back_what_was_written(dataset: ShardDataset) -> None:
    selection = dataset.select()
    assert dataset.size == len(selection) == 31
    assert [selection.read(i) for i in range(31)] == expected()


def test_splits_and_conditions(dataset: ShardDataset) -> None:
    def numbers(split: str | None, where: str | None) -> list[int]:
        return [int(v) for v in dataset.select(split, where).column("number")]

    assert list(dataset.splits) == ["train", "odd_test"]
    assert dataset.splits["odd_test"].note == "odd numbers"
    assert numbers("odd_test", None) == [9, 19, 29]
    assert numbers("odd_test", "number > 10 or number < 5") == [19, 29]
    assert numbers(None, "number < 3 -- a comment") == [0, 1, 2]
    assert numbers(None, "score between 1 and 1.5;") == [4, 5, 6]
    assert numbers("train", "parity = 'even' and width = 5") == [10, 16, 22, 28]
    assert len(dataset.select(where="number > 1000")) == 0
    assert len(dataset.select(where="  ")) == 31


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(low=st.integers(-1, 31), high=st.integers(-1, 31))
def test_selection_equals_a_loop(dataset: ShardDataset, low: int, high: int) -> None:
    chosen = dataset.select(where=f"number >= {low} and number < {high}")
    assert [chosen.read(i).meta["number"] for i in range(len(chosen))] == list(
        range(max(low, 0), min(high, 30))
    )
    assert np.all(np.diff(chosen.rows) > 0)


def test_columns(dataset: ShardDataset) -> None:
    some = dataset.select(where="key in ('toy_001', 'with_space')")
    assert some.column("key") == ["toy_001", "with_space"]
    assert some.column("match_id") == ["pair0", "with_space"]
    assert some.column("number") == [1, None]
    captions = some.column("captions")
    assert isinstance(captions, np.ndarray)
    assert list(captions) == [2, 1]
    score = dataset.select(where="number = 3").column("score")
    assert isinstance(score, np.ndarray)
    assert score.dtype == np.float64
    assert dataset.select(where="number > 1000").column("key") == []


def test_index_holds_the_documented_columns(dataset: ShardDataset) -> None:
    assert dataset.columns == [
        "key", "shard", "split", "match_id", "captions", "text_chars", "width", "height", "duration",
        "frames", "sha256", "sample_offset", "sample_size", "crc32", "json_offset", "json_size", "number",
        "parity", "png_offset", "png_size", "score", "txt_offset", "txt_size",
    ]  # fmt: skip


def test_query(dataset: ShardDataset) -> None:
    table = dataset.query(
        "SELECT parity, count(*) AS n FROM samples WHERE number IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert table.to_pylist() == [{"parity": "even", "n": 15}, {"parity": "odd", "n": 15}]
    assert dataset.query("describe samples").num_rows == len(dataset.columns)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "widht > 3",
            r"no column 'widht' in `widht > 3`; did you mean 'width'\? \(columns: key, shard, split",
        ),
        ('parity = "odd"', "no column 'odd' in .*; texts stand in single quotes: 'odd'"),
        ("number >", r"cannot run `number >`: syntax error"),
        ("number > 3 limit 2", 'cannot run .* syntax error at or near "limit"'),
        ("number > 'a'", "cannot run .* Could not convert string 'a'"),
        ("nosuch(number)", "Function with name nosuch does not exist"),
        ("sum(number) > 3", "cannot contain aggregates"),
        ("number = (select count(*) from '/etc/passwd')", "cannot run"),
    ],
)
def test_wrong_conditions_take_one_line(dataset: ShardDataset, where: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataset.select(where=where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select widht from samples", "no column 'widht' .* did you mean 'width'"),
        ("select * from sample", 'Table with name sample does not exist; did you mean "samples"'),
        ("", "gives no table; expected SELECT"),
        ("select content from read_text('/etc/hostname')", "Cannot access file"),
        ("copy (select 1) to 'x.csv'", "Cannot access file"),
        ("set enable_external_access=true", "cannot run"),
    ],
)
def test_wrong_queries_take_one_line(dataset: ShardDataset, sql: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataset.query(sql)
    assert "\n" not in str(caught.value)


def test_queries_see_no_variables_of_the_program(dataset: ShardDataset) -> None:
    secret = dataset.query("select 1 as a")
    with pytest.raises(DataError, match="secret does not exist"):
        dataset.query("select * from secret")
    assert secret.num_rows == 1


def test_wrong_names(dataset: ShardDataset) -> None:
    with pytest.raises(
        DataError, match=r"no split 'trian' in toy; did you mean 'train'\? \(known: train, odd_test\)"
    ):
        dataset.select("trian")
    with pytest.raises(DataError, match="no column 'widht' in toy; did you mean 'width'"):
        dataset.select().column("widht")
    with pytest.raises(IndexError, match="sample 31 of a selection of 31"):
        dataset.select().read(31)
    with pytest.raises(IndexError, match="sample -1 of"):
        dataset.select().read(-1)


def test_fingerprint(dataset: ShardDataset, tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path / "moved", shard_size=7)
    prepare(toy_card(), None, tmp_path / "other", shard_size=8)
    elsewhere = ShardDataset.open(tmp_path / "moved")
    other = ShardDataset.open(tmp_path / "other")
    assert dataset.select("train").fingerprint == elsewhere.select(where="split = 'train'").fingerprint
    assert dataset.select("train").fingerprint != dataset.select("train", "number <> 3").fingerprint
    assert dataset.select("train").fingerprint != other.select("train").fingerprint


def test_pickles_small_and_reads_after(dataset: ShardDataset) -> None:
    selection = dataset.select("train").prefetch()
    selection.read(0)
    packed = pickle.dumps(selection)
    assert len(packed) < 5000
    again = pickle.loads(packed)
    assert again.fingerprint == selection.fingerprint
    assert again.read(5) == selection.read(5)


def _read_all(selection: Selection) -> list[str]:
    return [selection.read(i).key for i in range(len(selection))]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_reads_in_other_processes(dataset: ShardDataset, method: str) -> None:
    selection = dataset.select().prefetch()
    here = _read_all(selection)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_read_all, [selection, selection]) == [here, here]


def test_threads_share_few_open_files(dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 1)
    selection = ShardDataset.open(dataset.root).select()
    order = [i * 11 % 31 for i in range(31)] * 4  # jumps between the five shards
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: selection.read(i).key, order))
    here = _read_all(selection)
    assert found == [here[i] for i in order]


@pytest.fixture
def damaged(tmp_path: Path) -> ShardDataset:
    prepare(toy_card(), None, tmp_path, shard_size=7)
    return ShardDataset.open(tmp_path)


@pytest.mark.parametrize("extension", ["png", "txt", "json"])
def test_flipped_byte_is_named_on_reading(damaged: ShardDataset, extension: str) -> None:
    row = damaged.query(
        f"select shard, {extension}_offset as at from samples where key = 'toy_008'"
    ).to_pylist()[0]
    path = damaged.root / row["shard"]
    data = bytearray(path.read_bytes())
    data[row["at"] + 3] ^= 0x10
    path.write_bytes(data)
    selection = damaged.select()
    keys = selection.column("key")
    for i, key in enumerate(keys):
        if key == "toy_008":
            with pytest.raises(DataError, match=rf"{row['shard']}: sample 'toy_008' is damaged"):
                selection.read(i)
        else:
            selection.read(i)


def test_truncated_and_missing_shards_are_named_on_reading(damaged: ShardDataset) -> None:
    selection = damaged.select(where="shard in ('toy-000000.tar', 'toy-000001.tar')")
    first, second = damaged.root / "toy-000000.tar", damaged.root / "toy-000001.tar"
    first.write_bytes(first.read_bytes()[:5000])
    second.unlink()
    with pytest.raises(
        DataError,
        match=r"toy-000000\.tar: sample 'toy_001' is cut off: expected bytes 3072 to 6144, the file .* 5000",
    ):
        selection.read(1)
    assert selection.read(0).key == "toy_000"
    with pytest.raises(DataError, match=r"toy-000001\.tar: sample 'toy_007' cannot be read: No such file"):
        selection.read(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", r"dataset\.json cannot be read"),
        ('{"name": "x"}', r"dataset\.json is not a dataset's: it lacks format, members"),
        ("[]", "lacks everything"),
    ],
)
def test_damaged_info(damaged: ShardDataset, change: str, message: str) -> None:
    (damaged.root / "dataset.json").write_text(change)
    with pytest.raises(DataError, match=message):
        ShardDataset.open(damaged.root)


def test_newer_format_and_missing_index(damaged: ShardDataset) -> None:
    path = damaged.root / "dataset.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "format": 99}))
    with pytest.raises(DataError, match="has format 99, this Diptych reads 1"):
        ShardDataset.open(damaged.root)
    path.write_text(json.dumps(info))
    damaged.index.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"index\.parquet cannot be read: .*prepare the dataset again"):
        ShardDataset.open(damaged.root).select(where="number > 1")
    damaged.index.unlink()
    with pytest.raises(DataError, match=r"index\.parquet cannot be read"):
        ShardDataset.open(damaged.root).select(where="number > 1")

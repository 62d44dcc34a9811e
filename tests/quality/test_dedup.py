"""Duplicates: the search misses nothing, and the first of what is alike stays."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from quality_sets import encoded, make_set, pattern
from typer.testing import CliRunner, Result

from diptych.cli import data as commands
from diptych.data.acquire.pictures import difference_hash, hash_distance
from diptych.data.dedup import NamedSet, find_duplicates
from diptych.data.dedup_files import condition
from diptych.data.dedup_search import MAX_DISTANCE, leaders, near_pairs
from diptych.data.index import ShardDataset
from diptych.data.miniatures.media import video
from diptych.data.phash import hashes_of, kept, picture_hash, tells_much, video_hash
from diptych.data.sample import Sample
from diptych.errors import UsageError


def call(*arguments: str | Path, fails: type[Exception] | None = None) -> Result:
    app = typer.Typer()
    commands.register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, fails or SystemExit), result.output
    return result


def slow_pairs(hashes: np.ndarray, distance: int, border: int | None = None) -> list[tuple[int, int, int]]:
    """Each compared with each."""
    found = []
    for i, j in combinations(range(len(hashes)), 2):
        bits = (int(hashes[i]) ^ int(hashes[j])).bit_count()
        if bits <= distance and (border is None or i < border <= j):
            found.append((i, j, bits))
    return found


def fast_pairs(hashes: np.ndarray, distance: int, border: int | None = None) -> list[tuple[int, int, int]]:
    pairs = near_pairs(hashes, distance, border)
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist(), strict=True))


def similar_hashes(seed: int, count: int) -> np.ndarray:
    """Some random hashes, and others that differ from them in a few bits anywhere."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    for i in range(count // 2):
        flips = random.choice(64, random.integers(0, 14), replace=False).astype(np.uint64)
        hashes[count // 2 + i] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    return random.permutation(hashes)


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 5, 8, MAX_DISTANCE])
@pytest.mark.parametrize("border", [None, 60])
def test_no_pair_is_missed(distance: int, border: int | None) -> None:
    hashes = similar_hashes(distance, 150)
    expected = slow_pairs(hashes, distance, border)
    assert expected
    assert fast_pairs(hashes, distance, border) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=25),
    st.integers(0, MAX_DISTANCE),
    st.integers(0, 25) | st.none(),
)
def test_any_hashes(values: list[int], distance: int, border: int | None) -> None:
    hashes = np.array(values, dtype=np.uint64)
    border = None if border is None else min(border, len(values))
    assert fast_pairs(hashes, distance, border) == slow_pairs(hashes, distance, border)


def test_pairs_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.arange(60, dtype=np.uint64)
    expected = slow_pairs(hashes, 3)
    monkeypatch.setattr("diptych.data.dedup_search._BLOCK", 50)
    assert fast_pairs(hashes, 3) == expected


@pytest.mark.slow
def test_a_million_hashes() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64))
    near = hashes[:1000] ^ np.uint64(0b1001 << 30)
    pairs = near_pairs(np.concatenate([hashes, near]), 3)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert {(i, len(hashes) + i) for i in range(1000)} <= found
    # By chance, 10^12 / 2 pairs times 43,745 of 2^64 hashes within three bits make 0.001 pairs.
    assert len(found) < 1010


@pytest.mark.parametrize("distance", [-1, MAX_DISTANCE + 1])
def test_a_distance_out_of_range(distance: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 12 bits"):
        near_pairs(np.zeros(2, dtype=np.uint64), distance)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=20, unique=True), st.integers(0, 3))
def test_what_goes_is_near_to_what_stays(values: list[int], distance: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    leader, bits = leaders(near_pairs(hashes, distance), len(hashes))
    stay: list[int] = []
    for i, value in enumerate(values):
        near = [j for j in stay if (value ^ values[j]).bit_count() <= distance]
        assert leader[i] == (near[0] if near else i)
        assert bits[i] == ((value ^ values[near[0]]).bit_count() if near else 0)
        if not near:
            stay.append(i)


def samples_with_duplicates() -> list[Sample]:
    one, two = encoded(pattern(1)), encoded(pattern(2))
    similar = encoded(pattern(1, side=200, change=4), "JPEG", quality=80)
    return [
        Sample("a", {"png": one}, ("a cat",)),
        Sample("b", {"png": two}, ("a dog",)),
        Sample("c", {"png": one}, ("a cat",)),
        Sample("d", {"png": one}, ("ein Hund",)),
        Sample("e", {"jpg": similar}, ("a similar cat",)),
        Sample("f", {"png": encoded(pattern(3))}, ("a bird",), split="test"),
        Sample("g", {"jpg": similar}, ("a similar cat",), split="test"),
        # Plain fields look alike whatever they are.
        Sample("h", {"png": encoded(pattern(5, side=1))}, ("white",)),
        Sample("i", {"png": encoded(pattern(6, side=1))}, ("black",)),
        Sample("j", {}, ("only text",)),
        Sample("k", {}, ("only text",)),
        Sample("l", {}, ("other text",)),
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "pets", samples_with_duplicates())


def short(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(row["kept_key"], row["key"], row["kind"], row["distance"]) for row in rows]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sample", [("a", "c", "sample", 0), ("e", "g", "sample", 0), ("j", "k", "sample", 0)]),
        (
            "media",
            [
                ("a", "c", "sample", 0),
                ("a", "d", "media", 0),
                ("e", "g", "sample", 0),
                ("j", "k", "sample", 0),
            ],
        ),
        (
            "near",
            [
                ("a", "c", "sample", 0),
                ("a", "d", "media", 0),
                ("a", "e", "near", 0),
                # e goes: g is like a, and not more alike than e is.
                ("a", "g", "near", 0),
                ("j", "k", "sample", 0),
            ],
        ),
    ],
)
def test_duplicates_of_a_dataset(dataset: Path, kind: str, expected: list[tuple[object, ...]]) -> None:
    found = find_duplicates([NamedSet.open(str(dataset))], kind=kind)
    assert short(found.table.to_pylist()) == expected
    assert found.samples == 12
    assert (found.plain, found.unhashed) == ((2, 0) if kind == "near" else (0, 0))


def test_groups_name_sets_and_splits(dataset: Path) -> None:
    rows = find_duplicates([NamedSet.open(str(dataset))]).table.to_pylist()
    assert [row["group"] for row in rows] == [0, 0, 0, 0, 1]
    assert rows[3] == {
        "group": 0,
        "kind": "near",
        "distance": 0,
        "set": "pets",
        "key": "g",
        "split": "test",
        "kept_set": "pets",
        "kept_key": "a",
        "kept_split": "train",
    }


def test_leakage_of_a_split(dataset: Path, tmp_path: Path) -> None:
    other = make_set(tmp_path / "big", [Sample("x", {"png": encoded(pattern(3, side=90))}, ("a crow",))])
    train, test = NamedSet.open(f"{dataset}:train"), NamedSet.open(f"{dataset}:test")
    found = find_duplicates([train, NamedSet.open(str(other))], [test])
    assert [(row["set"], *short([row])[0]) for row in found.table.to_pylist()] == [
        ("big", "f", "x", "near", 0),
        ("pets:train", "g", "a", "near", 0),
        ("pets:train", "g", "c", "near", 0),
        ("pets:train", "g", "d", "near", 0),
        ("pets:train", "g", "e", "sample", 0),
    ]
    # Nothing of the test split is looked for in itself.
    assert find_duplicates([NamedSet.open(str(other))], [train]).table.num_rows == 0


def test_the_nearest_leak_is_named(tmp_path: Path) -> None:
    near = pattern(4)
    near.putpixel((0, 0), (0, 0, 0))
    changed = pattern(4)
    changed.paste((255, 255, 255), (0, 0, 8, 8))
    theirs = make_set(
        tmp_path / "t", [Sample("far", {"png": encoded(changed)}), Sample("near", {"png": encoded(near)})]
    )
    ours = make_set(tmp_path / "o", [Sample("mine", {"png": encoded(pattern(4))})])
    distances = [
        hash_distance(difference_hash(x.convert("L")), difference_hash(pattern(4).convert("L")))
        for x in (changed, near)
    ]
    assert distances == [1, 0]
    found = find_duplicates([NamedSet.open(str(ours))], [NamedSet.open(str(theirs))])
    assert short(found.table.to_pylist()) == [("near", "mine", "near", 0)]
    assert (
        find_duplicates([NamedSet.open(str(ours))], [NamedSet.open(str(theirs))], kind="media").table.num_rows
        == 0
    )


def test_statements_about_two_pictures(tmp_path: Path) -> None:
    """Half of a pair is no duplicate of another pair, but it leaks."""
    one, two, three = (encoded(pattern(n)) for n in (1, 2, 3))
    pairs = make_set(
        tmp_path / "pairs",
        [
            Sample("p", {"0.png": one, "1.png": two}, ("p",)),
            Sample("q", {"0.png": two, "1.png": three}, ("q",)),
        ],
    )
    single = make_set(tmp_path / "single", [Sample("s", {"png": three}, ("s",))])
    assert find_duplicates([NamedSet.open(str(pairs))]).table.num_rows == 0
    found = find_duplicates([NamedSet.open(str(pairs))], [NamedSet.open(str(single))])
    assert short(found.table.to_pylist()) == [("s", "q", "near", 0)]


@pytest.mark.slow
def test_hashes_are_kept_shard_by_shard(dataset: Path, tmp_path: Path) -> None:
    out = make_set(tmp_path / "d", samples_with_duplicates(), shard_size=4)
    opened = ShardDataset.open(out)
    assert not kept(opened)
    first = hashes_of(opened.select(where="shard = 'd-000000.tar'"))
    assert len(list((out / ".diptych").glob("dhash-*.parquet"))) == 1
    told: list[tuple[int, int]] = []
    all_hashes = hashes_of(
        opened.select(), workers=2, progress=lambda done, total: told.append((done, total))
    )
    assert kept(opened)
    assert told[-1] == (12, 12)
    assert all_hashes.owners.tolist() == list(range(9))
    assert all_hashes.hashes[: len(first.hashes)].tolist() == first.hashes.tolist()
    # Nothing is decoded again: the shards may be gone.
    for path in out.glob("*.tar"):
        path.unlink()
    again = hashes_of(ShardDataset.open(out).select("test"))
    assert again.owners.tolist() == [0, 1]
    assert again.hashes.tolist() == all_hashes.hashes[5:7].tolist()


def test_a_column_of_hashes_is_used(tmp_path: Path) -> None:
    samples = [
        Sample(f"s{n}", {"png": encoded(pattern(n))}, meta={"dhash": -6148914691236517206 ^ flip})
        for n, flip in enumerate((0, 1, 255))
    ]
    named = NamedSet.open(str(make_set(tmp_path / "d", samples)))
    assert short(find_duplicates([named], levels=255).table.to_pylist()) == [("s0", "s1", "near", 1)]
    # They show other things, whatever the column says.
    assert find_duplicates([named]).table.num_rows == 0


def test_colours_count(tmp_path: Path) -> None:
    grey = pattern(1)
    warm = Image.merge("RGB", [grey.getchannel(0).point(lambda value: value * 1.2), *grey.split()[1:]])
    red = Image.merge("RGB", [grey.getchannel(0), grey.getchannel(1), Image.new("L", grey.size)])
    samples = [
        Sample(name, {"png": encoded(image)}) for name, image in (("a", grey), ("b", warm), ("c", red))
    ]
    # The copies of c are found, though c itself is not like a.
    samples += [Sample("d", {"png": samples[2].media["png"]}, ("other text",))]
    named = NamedSet.open(str(make_set(tmp_path / "d", samples)))
    # One channel of three differs by a fifth of about 126, so all of them by about 8.
    assert [row[:3] for row in short(find_duplicates([named]).table.to_pylist())] == [
        ("a", "b", "near"),
        ("c", "d", "media"),
    ]
    assert [row[:2] for row in short(find_duplicates([named], levels=5).table.to_pylist())] == [("c", "d")]
    assert len(find_duplicates([named], levels=255).table) == 3


def test_damaged_pictures_are_counted(tmp_path: Path) -> None:
    whole = encoded(pattern(1, side=720), "JPEG")
    out = make_set(
        tmp_path / "d", [Sample("cut", {"jpg": whole[: len(whole) // 2]}), Sample("ok", {"jpg": whole})]
    )
    found = find_duplicates([NamedSet.open(str(out))])
    assert (found.unhashed, found.table.num_rows) == (1, 0)


def test_pictures_of_any_kind_have_the_hash_of_what_they_show() -> None:
    expected = difference_hash(pattern(1).convert("L"))
    assert picture_hash(encoded(pattern(1))) == expected
    large = encoded(pattern(1, side=1440), "JPEG", quality=90)
    assert hash_distance(picture_hash(large), expected) <= 1
    turned = pattern(1).transpose(2)  # ROTATE_90: counterclockwise
    file = encoded(
        turned,
        "JPEG",
        quality=95,
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    )
    assert hash_distance(picture_hash(file), expected) <= 1


def test_plain_pictures_tell_nothing() -> None:
    hashes = np.array([0, 2**64 - 1, 2**7 - 1, 2**8 - 1, 2**57 - 1, 2**56 - 1], dtype=np.uint64)
    assert tells_much(hashes).tolist() == [False, False, False, True, False, True]
    assert video_hash(video(7)) == 0


def test_the_command(dataset: Path, tmp_path: Path) -> None:
    table, yml, sql, keys = (tmp_path / name for name in ("t.json", "w.yaml", "w.sql", "w.txt"))
    shown = call("dedup", dataset, "--out", table, "--where-out", yml, "--workers", "1").output
    assert shown.startswith("pets: 5 of 12 samples that are there already\n")
    assert "  pets: 2 like others of pets: look alike\n" in shown
    assert "  2 pictures show too little to be compared by their looks\n" in shown
    assert f"pets: {yml} leaves out 5 samples\n" in shown
    assert short(json.loads(table.read_text()))[0] == ("a", "c", "sample", 0)
    where = yaml.safe_load(yml.read_text())["data"]["where"]
    opened = ShardDataset.open(dataset)
    assert opened.select("train", where).column("key") == ["a", "b", "h", "i", "j", "l"]
    call("dedup", f"{dataset}:train", "--against", f"{dataset}:test", "--where-out", sql, "--workers", "1")
    assert opened.select(where=sql.read_text()).column("key") == ["b", "f", "g", "h", "i", "j", "k", "l"]
    call("dedup", dataset, "--kind", "sample", "--where-out", keys, "--out", tmp_path / "t.parquet")
    assert keys.read_text() == "c\ng\nk\n"
    assert pq.read_table(tmp_path / "t.parquet").column("kept_key").to_pylist() == ["a", "e", "j"]


def test_each_of_several_datasets_gets_its_file(dataset: Path, tmp_path: Path) -> None:
    other = make_set(tmp_path / "more", [Sample("x", {"png": encoded(pattern(2))}, ("a wolf",))])
    shown = call("dedup", dataset, other, "--kind", "media", "--where-out", tmp_path / "w.txt").output
    assert "  more: 1 like others of pets: equal media\n" in shown
    assert (tmp_path / "w-more.txt").read_text() == "x\n"
    assert (tmp_path / "w-pets.txt").read_text() == "c\nd\ng\nk\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "close"], "--kind close: expected sample, media, near"),
        (["--out", "x.csv"], "--out x.csv: expected a name that ends with .parquet or .json"),
        (["--where-out", "x"], "--where-out x: expected a name that ends with .yaml or .sql or .txt"),
        (["--distance", "13"], "distance: expected 0 to 12 bits, got 13"),
    ],
)
def test_wrong_arguments(dataset: Path, arguments: list[str], message: str) -> None:
    result = call("dedup", dataset, *arguments, fails=UsageError)
    assert str(result.exception) == message


def test_conditions_of_odd_keys(tmp_path: Path) -> None:
    assert condition([]) == "true"
    assert condition(["a", "it's"]) == "key not in (select unnest(string_split('a it''s', ' ')))"
    assert condition(["a b", "c"]) == "key not in (select unnest(string_split('a b|c', '|')))"

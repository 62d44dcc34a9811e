"""Every kind of damage is found and named."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_card import toy_card, toy_sample

from diptych.data.index import ShardDataset
from diptych.data.prepare import prepare
from diptych.data.shards import ShardWriter
from diptych.data.verify import verify


@pytest.fixture
def out(tmp_path: Path) -> Path:
    prepare(toy_card(), None, tmp_path / "d", shard_size=7)
    return tmp_path / "d"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(data)


def place_of(out: Path, key: str, column: str) -> tuple[Path, int]:
    row = (
        ShardDataset.open(out)
        .query(f"select shard, {column} as at from samples where key = '{key}'")
        .to_pylist()[0]
    )
    return out / row["shard"], row["at"]


def test_a_sound_dataset(out: Path) -> None:
    progress: list[tuple[int, int]] = []
    verdict = verify(out, lambda done, total: progress.append((done, total)))
    assert verdict.sound
    assert (verdict.samples, verdict.shards) == (31, 5)
    # 7 samples of 3072 bytes and the end fill three records of 10240; the second shard lacks the picture that
    # cannot be read, the last has 4 samples: two records each.
    assert verdict.bytes == 3 * 30720 + 2 * 20480
    assert [done for done, _ in progress] == [30720, 51200, 81920, 112640, 133120]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "shift", "problem"),
    [
        ("png_offset", 20, "its media are damaged"),
        ("txt_offset", 2, "its texts, headers or padding are damaged"),
        ("json_offset", 0, "its JSON is damaged"),
        ("png_offset", -500, "png: its header is damaged"),
        ("json_offset", -1, "json: its header is damaged"),
        ("txt_offset", 400, "its texts, headers or padding are damaged"),
    ],
)
def test_a_flipped_bit_names_file_and_key(out: Path, column: str, shift: int, problem: str) -> None:
    path, at = place_of(out, "toy_010", column)
    flip(path, at + shift)
    verdict = verify(out)
    assert {(d.file, d.key) for d in verdict.damages} == {(path.name, "toy_010")}
    assert problem in str(verdict.damages[0])


def test_a_flipped_bit_in_the_end_names_the_file(out: Path) -> None:
    flip(out / "toy-000002.tar", 30719)
    assert [str(d) for d in verify(out).damages] == [
        "toy-000002.tar: differs from what was written (SHA-256), but no sample does: its end is damaged"
    ]


def test_a_truncated_shard_names_the_lost_samples(out: Path) -> None:
    path = out / "toy-000004.tar"
    keys = ShardDataset.open(out).select(where="shard = 'toy-000004.tar'").column("key")
    path.write_bytes(path.read_bytes()[: 3072 + 1000])
    damages = verify(out).damages
    assert str(damages[0]) == "toy-000004.tar: has 4072 bytes, 20480 were written"
    assert {d.key for d in damages[1:]} == set(keys[1:])
    assert "toy-000004.tar: toy_027: is cut off: 1000 of 3072 bytes are there" in [str(d) for d in damages]


def _lose_shard(out: Path) -> None:
    (out / "toy-000002.tar").unlink()


def _add_shard(out: Path) -> None:
    (out / "toy-000009.tar").write_bytes(b"")


def _leave_partial(out: Path) -> None:
    (out / "toy-000005.tar.partial").write_bytes(b"")


def _damage_index(out: Path) -> None:
    flip(out / "index.parquet", 400)


def _damage_index_and_shard(out: Path) -> None:
    flip(out / "index.parquet", 400)
    flip(out / "toy-000003.tar", 2000)


def _damage_places(out: Path) -> None:
    flip(out / "places.bin", 100)


def _lose_places(out: Path) -> None:
    (out / "places.bin").unlink()


def _lose_index(out: Path) -> None:
    (out / "index.parquet").unlink()


def _edit(change: Callable[[dict], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(out: Path) -> None:
        info = json.loads((out / "dataset.json").read_text())
        change(info)
        (out / "dataset.json").write_text(json.dumps(info))

    return apply


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "lines"),
    [
        (
            _lose_shard,
            ["toy-000002.tar: cannot be read: No such file or directory; prepare the dataset again"],
        ),
        (_add_shard, ["toy-000009.tar: is not part of the dataset"]),
        (_leave_partial, ["toy-000005.tar.partial: is left from an interrupted run"]),
        (
            _damage_index,
            ["index.parquet: differs from what was written (SHA-256); prepare the dataset again"],
        ),
        (
            _damage_index_and_shard,
            [
                "index.parquet: differs from what was written (SHA-256); prepare the dataset again",
                "toy-000003.tar: differs from what was written (SHA-256), in which sample is unknown",
            ],
        ),
        (
            _damage_places,
            ["places.bin: differs from what was written (SHA-256); delete it, the index replaces it"],
        ),
        (_lose_places, []),
        (
            _lose_index,
            ["index.parquet: cannot be read: No such file or directory; prepare the dataset again"],
        ),
        (
            _edit(lambda info: info.update(samples=30)),
            ["index.parquet: has 31 samples, dataset.json says 30"],
        ),
        (
            _edit(lambda info: info["splits"]["odd_test"].update(count=4)),
            ["index.parquet: split 'odd_test' has 3 samples, dataset.json says 4"],
        ),
        (
            _edit(lambda info: info["shards"][0].update(samples=6)),
            ["toy-000000.tar: has 7 samples in the index, 6 in dataset.json"],
        ),
    ],
)
def test_damage_to_the_whole(out: Path, damage: Callable[[Path], None], lines: list[str]) -> None:
    damage(out)
    assert [str(d) for d in verify(out).damages] == lines


def test_a_shard_of_another_preparation_does_not_fit(out: Path, tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path / "other", shard_size=8)
    (tmp_path / "other" / "toy-000001.tar").rename(out / "toy-000001.tar")
    damages = verify(out).damages
    assert len(damages) >= 7
    assert {d.file for d in damages} == {"toy-000001.tar"}
    assert "its header says 'toy_008.png'" in " ".join(str(d) for d in damages)


def test_plain_tars_are_checked_against_their_first_use(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "plain") as writer:
        writer.write(toy_sample(0))
        writer.write(toy_sample(1))
    path = tmp_path / "plain-000000.tar"
    times = path.stat()
    assert verify(tmp_path).sound
    flip(path, 3072 + 520)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # silent damage leaves the time as it was
    assert [(d.file, d.key) for d in verify(tmp_path).damages] == [("plain-000000.tar", "toy_001")]

"""Preparation: what it writes, counts and refuses; kills and full disks."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_card import BAD, png, toy_card, toy_sample, tree

from diptych.data.cards.base import Source, Split, Unread
from diptych.data.index import ShardDataset
from diptych.data.prepare import load_card, prepare
from diptych.data.raw.refs import FileRef
from diptych.data.sample import Sample
from diptych.data.workspace import Workspace
from diptych.errors import DataError, UsageError

HERE = Path(__file__).parent


def test_dataset_json_by_hand(tmp_path: Path) -> None:
    progress: list[tuple[int, int | None]] = []
    summary = prepare(
        toy_card(), None, tmp_path, shard_size=8, progress=lambda n, total: progress.append((n, total))
    )
    info = json.loads((tmp_path / "dataset.json").read_text())
    names = ("card", "card_version", "format", "samples", "options", "problems")
    assert {name: info[name] for name in names} == {
        "card": "toy", "card_version": "1", "format": 1, "samples": 31, "options": {}, "problems": BAD,
    }  # fmt: skip
    assert info["created_by"].startswith("diptych ")
    # Eight pictures each; the one that cannot be read leaves a gap.
    assert [shard["samples"] for shard in info["shards"]] == [8, 7, 8, 8]
    # A group for each shard: neither writing nor reading the index needs more than one of them in memory.
    groups = pq.read_metadata(tmp_path / "index.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [8, 7, 8, 8]
    for shard in info["shards"]:
        content = (tmp_path / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert info["splits"]["odd_test"] == {
        "where": "split = 'test' AND parity = 'odd'", "expected": 3, "note": "odd numbers", "count": 3,
    }  # fmt: skip
    assert (summary.samples, summary.shards, summary.splits) == (31, 4, {"train": 25, "odd_test": 3})
    assert summary.problems == BAD
    assert summary.examples["repeated key"] == ["toy_001: the key is already in the dataset"]
    assert summary.examples["rewritten key"] == ["with space: stored as with_space"]
    assert summary.examples["empty caption"] == ["with space: 1 of 2 left out"]
    assert (summary.already, summary.resumed, summary.warnings) == (False, 0, [])
    assert [total for _, total in progress] == [None] * len(progress)
    # 30 pictures and four that are bad or odd.
    assert progress[-1] == (34, None)
    assert sorted(progress) == progress
    assert sorted(tree(tmp_path)) == [
        "dataset.json",
        "index.parquet",
        "places.bin",
        *(f"toy-00000{i}.tar" for i in range(4)),
    ]


def test_every_bad_sample_is_counted_and_five_are_named(tmp_path: Path) -> None:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        for i in range(20):
            yield Sample(f"s{i}", {"png": b""} if i % 2 else {"bin": b"x"}, ("c", "")[: 1 + i % 4])

    summary = prepare(toy_card(convert=convert, splits={}), None, tmp_path)
    assert summary.samples == 10
    assert summary.problems == {"empty caption": 5, "unreadable picture": 10}
    assert [text.split(":")[0] for text in summary.examples["unreadable picture"]] == [
        "s1",
        "s3",
        "s5",
        "s7",
        "s9",
    ]


def test_a_finished_dataset_is_left_alone(tmp_path: Path) -> None:
    first = prepare(toy_card(), None, tmp_path)
    before = tree(tmp_path)
    again = prepare(toy_card(), None, tmp_path)
    assert again.already
    assert (again.samples, again.splits, again.problems) == (first.samples, first.splits, first.problems)
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"version": "2"}, {}, "card version is 1, wanted 2"),
        ({}, {"options": {"count": "5"}}, "options is none, wanted count=5"),
        ({}, {"shard_size": 6}, "shard size is 5000, wanted 6"),
        ({"name": "other"}, {}, "card is toy, wanted other"),
    ],
)
def test_another_dataset_needs_force(
    tmp_path: Path, changes: dict[str, object], arguments: dict[str, object], message: str
) -> None:
    prepare(toy_card(), None, tmp_path / "out")
    before = tree(tmp_path / "out")
    card = toy_card(**changes)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"holds another dataset: {message}; choose another folder.*--force"):
        prepare(card, None, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert tree(tmp_path / "out") == before
    (tmp_path / "out" / "report.html").write_text("mine")
    prepare(card, None, tmp_path / "out", force=True, **arguments)  # type: ignore[arg-type]
    prepare(card, None, tmp_path / "fresh", **arguments)  # type: ignore[arg-type]
    assert tree(tmp_path / "out") == {**tree(tmp_path / "fresh"), "report.html": b"mine"}


def test_unexpected_counts_warn(tmp_path: Path) -> None:
    splits = {"all": Split("true", 40), "train": Split("split = 'train'", 25)}
    progress: list[int | None] = []
    summary = prepare(
        toy_card(splits=splits), None, tmp_path, progress=lambda n, total: progress.append(total)
    )
    assert summary.warnings == ["split 'all' has 31 samples, 40 were expected"]
    assert set(progress) == {40}


def test_wrong_arguments(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    card = toy_card(needs_raw=True, sources=(Source("a.tgz", "there"), Source("b", "there", required=False)))
    with pytest.raises(UsageError, match="card 'toy' has no option 'cuont'; did you mean 'count'"):
        prepare(card, raw, tmp_path / "out", options={"cuont": "1"})
    with pytest.raises(UsageError, match="needs its raw files: give their folder with --raw"):
        prepare(card, None, tmp_path / "out")
    with pytest.raises(UsageError, match=r"--raw .* does not exist"):
        prepare(card, tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"lacks a\.tgz of card 'toy' .*diptych data show toy"):
        prepare(card, raw, tmp_path / "out")
    with pytest.raises(UsageError, match="at least 1 sample a shard, got 0"):
        prepare(toy_card(), None, tmp_path / "out", shard_size=0)
    with pytest.raises(UsageError, match="unknown dataset card 'emoij'; did you mean 'emoji'"):
        load_card("emoij")
    (raw / "other.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds other files \(other\.txt, \.\.\.\) and no dataset"):
        prepare(toy_card(), None, raw, force=True)
    with pytest.raises(DataError, match=r"other\.txt is a file; expected a folder"):
        prepare(toy_card(), None, raw / "other.txt")
    assert not (tmp_path / "out").exists()


def test_nothing_usable_leaves_no_trace(tmp_path: Path) -> None:
    card = toy_card(convert=lambda raw, options: iter([Sample("a", {})]))
    with pytest.raises(DataError, match=r"card 'toy' gave no usable sample \(empty sample 1\), for example "):
        prepare(card, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fact_of_two_types_names_the_shards(tmp_path: Path) -> None:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        for i in range(4):
            yield Sample(f"s{i}", {"bin": b"x"}, meta={"v": i if i < 2 else "two"})

    card = toy_card(convert=convert, splits={})
    with pytest.raises(DataError, match=r"'v' is int64 in toy-000000\.tar and string in toy-000001\.tar"):
        prepare(card, None, tmp_path / "a", shard_size=2)
    with pytest.raises(
        DataError, match=r"shard toy-000000\.tar: the column 'v' does not hold values of one type"
    ):
        prepare(card, None, tmp_path / "b")


def test_whole_numbers_and_fractions_share_a_column(tmp_path: Path) -> None:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        for i, value in enumerate([1, 2.5, None, 2**40]):
            yield Sample(f"s{i}", {"bin": b"x"}, meta={} if value is None else {"v": value})

    for size in (1, 4):
        prepare(toy_card(convert=convert, splits={}), None, tmp_path / str(size), shard_size=size)
        assert ShardDataset.open(tmp_path / str(size)).select().column("v") == [1.0, 2.5, None, float(2**40)]


def interrupted(out: Path, raw: Path | None = None, **changes: object) -> None:
    """Prepare until an error of the card after 20 samples; two shards of 7 are finished."""

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        for i in range(20):
            yield toy_sample(i)
        raise OSError("the raw file ends here")

    with pytest.raises(OSError, match="the raw file ends here"):
        prepare(toy_card(convert=convert, **changes), raw, out, shard_size=7)  # type: ignore[arg-type]


def test_an_unfinished_dataset_says_so(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == [
        ".prepare",
        "toy-000000.tar",
        "toy-000001.tar",
    ]
    with pytest.raises(DataError, match="is not finished; run the same `diptych data prepare` again"):
        ShardDataset.open(tmp_path / "out")
    with pytest.raises(
        DataError, match="unfinished preparation with other arguments: shard size is 7, wanted 8"
    ):
        prepare(toy_card(), None, tmp_path / "out", shard_size=8)
    prepare(toy_card(), None, tmp_path / "out", shard_size=8, force=True)
    prepare(toy_card(), None, tmp_path / "fresh", shard_size=8)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_changed_raw_files_are_noticed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "list.txt").write_text("one")
    sources = (Source("list.txt", "here"),)
    interrupted(tmp_path / "out", raw, sources=sources)
    (raw / "list.txt").write_text("other")
    with pytest.raises(DataError, match=r"the raw files changed \(list\.txt\)"):
        prepare(toy_card(sources=sources), raw, tmp_path / "out", shard_size=7)


def test_what_the_card_now_yields_otherwise_is_written_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")

    # The first shard is as it was; the second has the same keys in another order.
    card = toy_card(
        convert=lambda raw, options: (toy_sample(i) for i in [*range(7), *reversed(range(7, 18))])
    )
    assert prepare(card, None, tmp_path / "out", shard_size=7).resumed == 1
    prepare(card, None, tmp_path / "fresh", shard_size=7)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_fewer_samples_than_before_leave_no_shards_behind(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    card = toy_card(convert=lambda raw, options: (toy_sample(i) for i in range(7)))
    summary = prepare(card, None, tmp_path / "out", shard_size=7)
    assert (summary.resumed, summary.shards, summary.samples) == (1, 1, 7)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["toy-000000.tar"]


def test_a_damaged_finished_shard_is_made_again(tmp_path: Path) -> None:
    card = toy_card(convert=lambda raw, options: (toy_sample(i) for i in range(20)), splits={})
    interrupted(tmp_path / "out", splits={})
    (tmp_path / "out" / "toy-000001.tar").write_bytes(b"cut")
    summary = prepare(card, None, tmp_path / "out", shard_size=7)
    prepare(card, None, tmp_path / "fresh", shard_size=7)
    assert summary.resumed == 1
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_media_may_be_there_and_in_raw_files(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(2))
    sample = Sample("k", {"0.png": png(1)}, ("c",))
    card = toy_card(
        convert=lambda raw, options: iter([Unread(sample, {"1.png": FileRef(tmp_path / "b.png")})]), splits={}
    )
    prepare(card, None, tmp_path / "out")
    stored = ShardDataset.open(tmp_path / "out").select().read(0)
    assert dict(stored.media) == {"0.png": png(1), "1.png": png(2)}


def test_two_preparations_at_once(tmp_path: Path) -> None:
    with (
        Workspace(tmp_path, {"card": "toy"}),
        pytest.raises(DataError, match=r"another process is preparing .*; wait until it ends"),
    ):
        prepare(toy_card(), None, tmp_path)


def run(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=environment, cwd=HERE
    ).stdout


def killed_everywhere(tmp_path: Path, steps: list[int]) -> None:
    reference = tmp_path / "reference"
    prepare(toy_card(), None, reference, shard_size=7)
    lines = run("toy_card.py", str(tmp_path), *map(str, steps)).split("\n")[:-1]
    assert lines == [f"{step} 9" for step in steps]  # 9: ended by SIGKILL
    for step in steps:
        out = tmp_path / str(step)
        assert tree(out) != tree(reference) or step >= STEPS - 3, step
        summary = prepare(toy_card(), None, out, shard_size=7)
        assert summary.problems == BAD, step
        assert tree(out) == tree(reference), step


# Each file takes six steps (before and after: sync, rename, sync of the folder), in this order: state, then
# shard and part of the index five times, index, places, dataset.json; then the work folder goes (two steps),
# and the dataset's would if it were empty.
STEPS = 14 * 6 + 2 + 1


@pytest.mark.slow
def test_killed_at_some_steps_the_result_is_the_same(tmp_path: Path) -> None:
    """A shard without its part; a part before its rename; the index alone; after dataset.json."""
    killed_everywhere(tmp_path, [9, 26, 71, 76, 83])


@pytest.mark.slow
def test_killed_at_every_step_the_result_is_the_same(tmp_path: Path) -> None:
    killed_everywhere(tmp_path, list(range(STEPS)))


SLOW = """
import sys, time
from pathlib import Path
from toy_card import toy_card
from diptych.data.prepare import prepare
print("go", flush=True)
prepare(toy_card(), None, Path(sys.argv[1]), shard_size=3, progress=lambda n, total: time.sleep(0.004))
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_from_outside_again_and_again(tmp_path: Path) -> None:
    prepare(toy_card(), None, tmp_path / "reference", shard_size=3)
    out = tmp_path / "out"
    for wait in (0.03, 0.05, 0.07, 0.09, 0.11):
        child = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(out)], stdout=subprocess.PIPE, text=True, cwd=HERE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate()
    summary = prepare(toy_card(), None, out, shard_size=3)
    assert summary.samples == 31
    assert tree(out) == tree(tmp_path / "reference")


FULL = """
import resource, sys
from pathlib import Path
from toy_card import toy_card
from diptych.data.prepare import prepare
from diptych.errors import DataError
def limit(n, total):
    if n == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    prepare(toy_card(), None, Path(sys.argv[1]), shard_size=7, progress=limit)
except DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_full_disk_is_said_and_the_rest_follows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("-c", FULL, str(out))
    assert said == (
        f"cannot write {out / 'toy-000002.tar'}: File too large; the 2 finished shards stay: "
        "make room, then run the same command again\n"
    )
    assert sorted(p.name for p in out.glob("*.tar*")) == ["toy-000000.tar", "toy-000001.tar"]
    summary = prepare(toy_card(), None, out, shard_size=7)
    prepare(toy_card(), None, tmp_path / "fresh", shard_size=7)
    assert summary.resumed == 2
    assert tree(out) == tree(tmp_path / "fresh")

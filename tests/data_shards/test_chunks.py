"""How what a card yields is cut into chunks, and when two chunks count as the same."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data import chunks
from diptych.data.cards.base import LeftOut, Unread
from diptych.data.chunks import Chunk, cut, sample_of
from diptych.data.raw.refs import FileRef, TarRef
from diptych.data.sample import Sample


def unread(key: str, size: int | None = None) -> Unread:
    return Unread(Sample(key, {}, ("c",)), {"jpg": FileRef(Path("raw") / key, size)})


def keys(found: Iterable[Chunk]) -> list[list[str]]:
    return [[sample_of(item).key for item in chunk.items] for chunk in found]


def test_chunks_by_hand() -> None:
    left = LeftOut("missing picture", "m", "gone")
    drawn = [
        unread("a"), unread("b"), left, left,  # behind its last sample: still of the chunk
        unread("c"), unread("a"), unread("d"),
        unread("?"), unread("e f"), Sample("empty", {}, ("  ",)), unread("e_f"),
    ]  # fmt: skip
    found = list(cut(drawn, 2))
    assert keys(found) == [["a", "b"], ["c", "d"], ["e f"]]
    assert [(chunk.number, chunk.drawn) for chunk in found] == [(0, 4), (1, 4), (2, 3)]
    assert [dict(chunk.tally.problems) for chunk in found] == [
        {"missing picture": 2},
        {"repeated key": 1, "bad key": 1},
        {"empty sample": 1, "repeated key": 1},
    ]
    assert found[1].tally.examples == {
        "repeated key": ["a: the key is already in the dataset"],
        "bad key": ["?: a key has 1 to 200 letters, digits, '_' and '-'"],
    }
    assert found[2].tally.examples["repeated key"] == ["e_f: the key is already in the dataset"]


def test_sizes_of_media_end_chunks() -> None:
    drawn = [unread("a", 40), unread("b", 60), unread("c", 1), unread("d", 500), unread("e"), unread("f", 99)]
    # One byte of caption each: 41 + 61 > 101. What is too large gets its own chunk; unknown sizes are 0.
    assert keys(cut(drawn, 10, max_bytes=101)) == [["a"], ["b", "c"], ["d"], ["e", "f"]]


def test_what_is_in_memory_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_HELD", 10)
    drawn = [Sample(f"s{i}", {"bin": bytes(4)}, ("c",)) for i in range(5)]
    assert keys(cut(drawn, 10)) == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert keys(cut([unread(f"s{i}", 4) for i in range(5)], 10)) == [["s0", "s1", "s2", "s3", "s4"]]


def test_only_what_is_left_out() -> None:
    assert list(cut([], 5)) == []
    (chunk,) = cut([LeftOut("bad entry", "line 3", "no url")] * 7, 5)
    assert (chunk.items, chunk.drawn, chunk.tally.problems) == ((), 7, {"bad entry": 7})
    assert chunk.tally.examples == {"bad entry": ["line 3: no url"] * 5}


BASE = Unread(
    Sample("k", {"png": b"p"}, ("one", "two"), "m", "val", {"n": 1, "q": [{"question": "?"}]}),
    {"jpg": TarRef(Path("/raw/a.tar"), "x.jpg", 512, 9)},
)
CHANGES = [
    replace(BASE, sample=replace(BASE.sample, key="l")),
    replace(BASE, sample=replace(BASE.sample, media={"png": b"q"})),
    replace(BASE, sample=replace(BASE.sample, media={"bin": b"p"})),
    replace(BASE, sample=replace(BASE.sample, captions=("one two",))),
    replace(BASE, sample=replace(BASE.sample, captions=("two", "one"))),
    replace(BASE, sample=replace(BASE.sample, match_id="")),
    replace(BASE, sample=replace(BASE.sample, split="train")),
    replace(BASE, sample=replace(BASE.sample, meta={"n": 1, "q": [{"question": "!"}]})),
    replace(BASE, sample=replace(BASE.sample, meta={"n": True, "q": [{"question": "?"}]})),
    replace(BASE, refs={"jpeg": BASE.refs["jpg"]}),
    replace(BASE, refs={"jpg": TarRef(Path("/raw/a.tar"), "x.jpg", 1024, 9)}),
    replace(BASE, refs={"jpg": TarRef(Path("/raw/b.tar"), "x.jpg", 512, 9)}),
    LeftOut("missing picture", "k", "x.jpg"),
]


def fingerprint(*drawn: Sample | Unread | LeftOut, home: str = "") -> str:
    (chunk,) = cut(drawn, 10, home=home)
    return chunk.fingerprint


def test_whatever_changes_a_shard_changes_the_fingerprint() -> None:
    prints = [fingerprint(BASE), *(fingerprint(change) for change in CHANGES)]
    prints += [fingerprint(BASE, LeftOut("c", "k", "d")), fingerprint(BASE, unread("z"))]
    prints += [fingerprint(unread("z"), BASE)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(replace(BASE, sample=replace(BASE.sample))) == prints[0]


def test_raw_files_may_be_moved() -> None:
    moved = replace(BASE, refs={"jpg": TarRef(Path("/elsewhere/raw/a.tar"), "x.jpg", 512, 9)})
    assert fingerprint(BASE, home="/raw") == fingerprint(moved, home="/elsewhere/raw")


def test_facts_that_are_no_json_are_left_to_the_writer() -> None:
    for value in (object, {1, 2}, {(1, 2): 3}, "\ud800"):
        assert fingerprint(Sample("k", {}, ("c",), meta={"v": value}))
    loop: list[object] = []
    loop.append(loop)
    assert fingerprint(Sample("k", {}, ("c",), meta={"v": loop}))


ITEM = st.one_of(
    st.builds(unread, st.sampled_from("abcdefgh"), st.none() | st.integers(0, 9)),
    st.builds(LeftOut, st.just("x"), st.just("k"), st.just("d")),
    st.builds(Sample, st.sampled_from("ijk"), st.just({}), st.sampled_from([(), ("c",)])),
)


@settings(max_examples=100)
@given(st.lists(ITEM, max_size=40), st.integers(1, 5), st.integers(1, 30))
def test_nothing_is_lost_or_doubled(drawn: list[object], shard_size: int, max_bytes: int) -> None:
    found = list(cut(drawn, shard_size, max_bytes))  # type: ignore[arg-type]
    stored = [item for chunk in found for item in chunk.items]
    # The obvious way to choose what is stored.
    expected, taken = [], set()
    for item in drawn:
        if isinstance(item, Unread) or (isinstance(item, Sample) and item.captions):
            sample = sample_of(item)
            if sample.key not in taken:
                expected.append(item)
                taken.add(sample.key)
    assert stored == expected
    assert [chunk.number for chunk in found] == list(range(len(found)))
    assert sum(chunk.drawn for chunk in found) == len(drawn)
    assert sum(chunk.tally.problems.total() + len(chunk.items) for chunk in found) == len(drawn)
    assert all(1 <= len(chunk.items) <= shard_size for chunk in found[1:])

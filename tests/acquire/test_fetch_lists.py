"""Lists of addresses in every format, with their oddities."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.acquire.chunks import cut
from diptych.data.acquire.lists import ListRow, list_files, read_list
from diptych.data.acquire.options import ListOptions
from diptych.data.shards import KeySet
from diptych.errors import DataError, UsageError

A, B = "http://a.example/1.jpg?x=1,2", "https://b.example/2 3.jpg"
Shown = tuple[str, str, dict[str, Any]]


def read(path: Path, **options: Any) -> list[Shown]:
    rows = list(read_list(list_files(str(path)), ListOptions(**options)))
    assert [row.number for row in rows] == list(range(len(rows)))
    assert not [row.problem for row in rows if row.problem]
    return [(row.url, row.caption, row.more) for row in rows]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", f'url,caption\n"{A}","one, two"\n{B},"a ""b""\nc"\n'),
        ("a.csv", f'\ufeffcaption,url\r\n"one, two","{A}"\r\n"a ""b"" c",{B}\r\n'),
        ("a.csv", f'"{A}","one, two"\n{B},"a ""b"" c"\n'),
        ("a.csv", f'name,contentUrl\n"one, two","{A}"\n"a ""b""  c ",{B}'),
        ("a.tsv", f'caption\turl\none, two\t{A}\na "b" c\t{B}\n'),
        ("a.tsv", f'one, two\t{A}\r\n"a ""b"" c"\t{B}\r\n\r\n'),
        ("a.json", json.dumps([{"url": A, "caption": "one, two"}, {"url": B, "caption": 'a "b" c'}])),
        (
            "a.jsonl",
            f'{{"url": "{A}", "text": "one, two"}}\n\n{{"text": "a \\"b\\"\\u0000 c", "url": "{B}"}}',
        ),
        ("a.ndjson", f'{{"url": "{A}", "text": "one, two"}}\n{{"text": ["a \\"b\\" c", "d"], "url": "{B}"}}'),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str) -> None:
    expected: list[Shown] = [(A, "one, two", {}), (B, 'a "b" c', {})]
    assert read(write(tmp_path / name, text)) == expected
    for ending, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        packed = tmp_path / f"{name}.{ending}"
        packed.write_bytes(pack(text.encode()))
        assert read(packed) == expected


def test_text_lists_hold_addresses_with_any_character(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", f"{A}\n\n  {B}  \r\n")) == [(A, "", {}), (B, "", {})]
    assert read(write(tmp_path / "b.json", json.dumps([A, B]))) == [(A, "", {}), (B, "", {})]


def test_parquet_and_further_columns(tmp_path: Path) -> None:
    rows = [
        {"URL": A, "TEXT": "one", "score": 0.5, "n": 1, "tags": ["x"]},
        {"URL": B, "TEXT": None, "score": float("nan"), "n": None, "tags": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(A, "one", {"score": 0.5, "n": 1}), (B, "", {})]
    assert read(tmp_path / "a.parquet", columns=("n",)) == [(A, "one", {"n": 1}), (B, "", {})]
    assert read(tmp_path / "a.parquet", columns=(), caption="n") == [(A, "1", {}), (B, "", {})]


def test_columns_by_name_and_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f'x,photo,words,id\n1,"{A}",one,p7\n')
    rows = list(read_list([str(path)], ListOptions(url="photo", caption="words", id="id")))
    assert [(r.url, r.caption, r.id, r.more) for r in rows] == [(A, "one", "p7", {"x": 1})]
    bare = write(tmp_path / "b.tsv", f"k1\t{A}\tone\ttwo\n")
    assert read(bare, caption="3", columns=()) == [(A, "two", {})]
    with pytest.raises(UsageError, match=r"no column 'wrods' for --caption; did you mean 'words'"):
        read(path, caption="wrods")
    with pytest.raises(UsageError, match=r"none of its columns can be told to hold addresses \(x, y\)"):
        read(write(tmp_path / "c.csv", "x,y\n1,2\n"))


def test_numbers_in_text(tmp_path: Path) -> None:
    numbers = {"1": 1, "-12": -12, "0.50": 0.5, "-0.25": -0.25, "0": 0}
    texts = ["007", "1e5", "1.", ".5", "+1", "nan", "1 ", "9" * 19, "1,5", "-", ""]
    path = write(tmp_path / "a.tsv", "url\tx\n" + "".join(f"{A}\t{text}\n" for text in [*numbers, *texts]))
    assert [more["x"] for _, _, more in read(path)] == [*numbers.values(), *texts]


def test_damaged_rows_keep_their_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'no json\n{{"url": "{A}"}}\n[1]\n{{"url": 5}}\n{{"caption": "x"}}\n')
    rows = list(read_list([str(path)], ListOptions()))
    assert [row.problem for row in rows] == [
        "the line is no JSON",
        "",
        "neither an object nor an address",
        "no address",
        "no address",
    ]
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    short = write(tmp_path / "b.tsv", f"url\tcaption\n{A}\n\tno address\n")
    assert [(r.url, r.caption, r.problem) for r in read_list([str(short)], ListOptions())] == [
        (A, "", ""),
        ("", "no address", "no address"),
    ]
    # The comma of the address is not quoted.
    more = write(tmp_path / "c.csv", f"url,caption\n{A},one\n{B},two,\n")
    assert [(r.url, r.problem) for r in read_list([str(more)], ListOptions())] == [
        ("", "more fields than the list has columns"),
        (B, ""),
    ]


def test_odd_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "word " * 20_000
    path.write_bytes(b"url,caption\n" + B.encode() + b",\xff caf\xc3\xa9\n" + f"{B},{long}\n".encode())
    assert read(path) == [(B, "\ufffd café", {}), (B, long.strip(), {})]


def test_folders_patterns_and_wrong_names(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", B)
    write(tmp_path / "a.txt", A)
    write(tmp_path / "readme.md", "no list")
    assert [url for url, _, _ in read(tmp_path)] == [A, B]
    assert [url for url, _, _ in read(tmp_path / "b*.txt")] == [B]
    for wrong in ("none.csv", "z*.txt"):
        with pytest.raises(DataError, match="there is none"):
            list_files(str(tmp_path / wrong))
    with pytest.raises(UsageError, match=r"unknown format 'md'.*--format"):
        read(tmp_path / "readme.md")
    assert len(read(write(tmp_path / "list", A), format="txt")) == 1
    with pytest.raises(DataError, match="no readable Parquet"):
        read(write(tmp_path / "x.parquet", "no"))
    with pytest.raises(DataError, match="cannot be read"):
        read(write(tmp_path / "x.csv.gz", "no gzip"))
    assert read(write(tmp_path / "empty.csv", "")) == []


def test_lists_behind_a_file_system(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://lists/a.txt", "w") as file:
        file.write(f"{A}\n{B}\n")
    files = list_files("memory://lists/a.txt")
    assert [row.url for row in read_list(files, ListOptions())] == [A, B]
    assert [row.url for row in read_list(list_files("memory://lists/*.txt"), ListOptions())] == [A, B]


def rows_of(*ids: str) -> list[ListRow]:
    return [ListRow(n, name, f"http://x/{n}", "", {"width": n}) for n, name in enumerate(ids)]


def test_chunks_depend_on_the_rows_alone() -> None:
    chunks = list(cut(rows_of("", "", "", "", ""), 2))
    assert [[e.row.number for e in c.entries] for c in chunks] == [[0, 1], [2, 3], [4]]
    assert [c.number for c in chunks] == [0, 1, 2]
    assert chunks == list(cut(rows_of("", "", "", "", ""), 2))
    assert len({c.fingerprint for c in chunks}) == 3
    keys = [e.key for c in chunks for e in c.entries]
    assert keys == sorted(keys)
    assert keys[3].startswith("000000003-")
    assert chunks[0].entries[1].row.more == {"source_width": 1}
    again = list(cut(rows_of("", "", "", "", ""), 2, first=7, only=KeySet([keys[1], keys[3], keys[4]])))
    assert [(c.number, [e.row.number for e in c.entries]) for c in again] == [(7, [1, 3]), (8, [4])]


def test_names_make_keys_and_occur_once() -> None:
    (chunk,) = cut(rows_of("a/b.jpg", "c", "c", ""), 10)
    assert [e.key for e in chunk.entries][:2] == ["a_b_jpg", "c"]
    assert chunk.entries[2].row.problem == "the name 'c' occurred before"
    assert len({e.key for e in chunk.entries}) == 4


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_csv_holds_any_text(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    """Whatever a caption holds, the row after it is found."""
    import csv
    import io

    from diptych.data.raw.listed import squeeze

    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["url", "caption"])
    for _, caption in pairs:
        writer.writerow([A, caption.encode(errors="replace").decode()])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(out.getvalue().encode())
    expected = [squeeze(caption.encode(errors="replace").decode()) for _, caption in pairs]
    assert [caption for _, caption, _ in read(path)] == expected

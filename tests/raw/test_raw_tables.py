"""Lines, tables and long JSON against slow obvious readers."""

import csv
import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diptych.data.raw import tables
from diptych.data.raw.tables import comma_separated, json_fields, json_items, json_lines, lines, tsv
from diptych.errors import DataError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def stream(text: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


@pytest.mark.slow
@given(text=st.text(st.sampled_from("ab\r\n\t\x0b\x0c\x1c\x85\u2028\0"), max_size=30))
def test_lines_end_with_lf_only(text):
    expected = text.split("\n")
    expected = expected[:-1] if expected[-1] == "" else expected
    assert [line for _, line in lines(stream(text))] == [line.removesuffix("\r") for line in expected]
    assert [number for number, _ in lines(stream(text))] == list(range(len(expected)))


@given(
    rows=st.lists(
        st.lists(TEXTS.filter(lambda t: not set("\t\r\n") & set(t)), min_size=2, max_size=4), max_size=4
    )
)
def test_tsv(rows):
    text = "".join("\t".join(row) + "\r\n" for row in rows)
    assert [fields for _, fields in tsv(stream(text))] == rows
    assert [fields for _, fields in tsv(stream(text), 2)] == [[row[0], "\t".join(row[1:])] for row in rows]


@given(rows=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=4))
def test_what_csv_writes_is_read_back(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["id", "text"], *rows])
    read = list(comma_separated(stream(file.getvalue())))
    assert [[row["id"], row["text"]] for row in read] == rows


def test_records_with_too_few_and_too_many_fields():
    text = "id,text\n1\n2,a,b,c\n"
    assert list(comma_separated(stream(text))) == [
        {"id": "1", "text": ""},
        {"id": "2", "text": "a", "": ["b", "c"]},
    ]
    assert list(comma_separated(stream("1,x\n"), ["id", "text"])) == [{"id": "1", "text": "x"}]


@settings(deadline=None)
@given(
    items=st.lists(VALUES, max_size=5),
    other=VALUES,
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 20),
)
@example(items=[], other=0.0, indent=None, chunk=1)  # a window that ends behind `0.`
def test_long_json_in_small_pieces(items, other, indent, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_CHUNK", chunk)
        whole = json.dumps(items, indent=indent, ensure_ascii=False)
        assert list(json_items(stream(whole), "x")) == items
        whole = json.dumps({"info": other, "items": items, "more": []}, indent=indent)
        assert list(json_items(stream(whole), "x", "items")) == items
        assert list(json_fields(stream(whole), "x", ["items"])) == [("items", item) for item in items]


@given(value=VALUES)
def test_json_lines(value):
    text = f"{json.dumps(value, ensure_ascii=False)}\r\n\n 1 \n"
    assert list(json_lines(stream(text), "x")) == [(0, value), (2, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x: expected a JSON list, which begins with '\\['"),
        ("{}", "x: expected a JSON list, which begins with '\\['"),
        ("[1, 2", "x: expected one of ',\\]'"),
        ("[1 2]", "x: expected one of ',\\]'"),
        ('[{"a": }]', "x: is no JSON"),
        ("[" + "[" * 200_000, "x: (is no JSON|brackets within brackets)"),
    ],
)
def test_what_is_no_list(text, message):
    with pytest.raises(DataError, match=message):
        list(json_items(stream(text), "x"))


def test_a_damaged_line_is_named():
    with pytest.raises(DataError, match="x: line 2 is no JSON"):
        list(json_lines(stream("1\n{\n3\n"), "x"))
    with pytest.raises(DataError, match="x: line 1 is no JSON"):
        list(json_lines(stream("[" * 200_000), "x"))
    with pytest.raises(DataError, match="x: expected a field 'b'"):
        list(json_items(stream('{"a": 1}'), "x", "b"))

"""Lists of addresses and shards of download tools against slow, obvious readings of the same."""

import csv
import io
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diptych.data.cards.fetched import _groups
from diptych.data.cards.sbu import photo_name
from diptych.data.members import is_key
from diptych.data.raw.listed import Listed, squeeze
from diptych.data.raw.refs import FileRef
from diptych.data.raw.url_lists import listed, url_list
from diptych.errors import DataError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from webdataset.tariterators import base_plus_ext

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)
ADDRESS = st.from_regex(
    r"https?://[a-z]{1,8}\.example/[A-Za-z0-9%,;&?=._\"' -]{0,20}[a-z0-9]", fullmatch=True
)


def read(name: str, card: str, content: str) -> list[Listed]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content.encode())
        return list(listed(card, Path(folder)))


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(LINE, ADDRESS), min_size=1, max_size=6), st.booleans())
def test_columns_are_told_apart_whatever_the_caption(
    pairs: list[tuple[str, str]], caption_first: bool
) -> None:
    assume(all("http" not in caption.lower() for caption, _ in pairs))
    lines = ["\t".join((caption, url) if caption_first else (url, caption)) for caption, url in pairs]
    for name, card in (("Train_GCC-training.tsv", "cc3m"), ("cc12m.tsv", "cc12m")):
        rows = read(name, card, "\n".join(lines))
        # A BOM in front is no part of the first caption.
        assert [(row.caption, row.url) for row in rows] == [
            (squeeze(caption.removeprefix("\ufeff") if i == 0 and caption_first else caption), url)
            for i, (caption, url) in enumerate(pairs)
        ]
        assert [row.id for row in rows] == [f"train_{number:08d}" for number in range(len(pairs))]


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from('a,"é \n\t'), max_size=12), min_size=1, max_size=5))
def test_quoted_names_of_webvid_come_back(names: list[str]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["videoid", "name", "page_dir", "duration", "contentUrl"])
    for number, name in enumerate(names):
        writer.writerow([number, name, "000001_000050", "PT00H00M09S", f"http://v.example/{number}.mp4"])
    rows = read("results_2M_train.csv", "webvid", out.getvalue())
    assert [(row.id, row.caption, row.problem) for row in rows] == [
        (str(number), squeeze(name), "") for number, name in enumerate(names)
    ]


@given(st.lists(st.text("ab/._J", min_size=1, max_size=7), max_size=12))
def test_members_are_grouped_as_webdataset_groups_them(names: list[str]) -> None:
    names = [
        name for name in dict.fromkeys(names) if not name.startswith((".", "/", "__")) and "/_" not in name
    ]
    assume(not any(part in ("", ".", "..") for name in names for part in name.split("/")))
    expected: list[tuple[str, list[str]]] = []
    for name in names:
        key, field = base_plus_ext(name)
        if key is None or not key.rpartition("/")[2]:
            continue
        if not expected or expected[-1][0] != key:
            expected.append((key, []))
        if field.lower() not in expected[-1][1]:
            expected[-1][1].append(field.lower())
    groups = _groups((name, FileRef(Path(name)), None) for name in names)
    assert [(group.name, list(group.media)) for group in groups] == expected


@given(st.text(max_size=60))
def test_names_of_photos_are_keys_or_empty(url: str) -> None:
    name = photo_name(url)
    assert name == "" or is_key(name)


def test_addresses_that_are_none_do_not_end_a_preparation() -> None:
    assert photo_name("http://[/1_a.jpg?x=/2#3") == "1_a"


HOSTILE = [
    "[" * 200_000,
    '{"YoutubeID": "AAAAAAAAAAA", "Start_timestamp": "00:00:01.000", "End_timestamp": "00:00:02.000", '
    '"Caption": "x", "Aesthetic_Score": NaN, "UMT_Score": ' + "9" * 400 + "}",
    '{"YoutubeID": "AAAAAAAAAAA", "Start_timestamp": "'
    + "9" * 5000
    + ':00:00", "End_timestamp": 5, "Caption": 7}',
    '{"YoutubeID": "../../../x", "Start_timestamp": "00:00:01", "End_timestamp": "00:00:02", "Caption": "x"}',
    '{"YoutubeID": "AAAAAAAAAAA", "Start_timestamp": "00:00:0\u0661", "End_timestamp": "00:00:02", '
    '"Caption": "x"}',
    "[]",
    "null",
]


def test_hostile_lines_are_rows_of_their_own() -> None:
    rows = read("caption.jsonl", "internvid", "\n".join(HOSTILE))
    assert [bool(row.problem) for row in rows] == [True, False, True, True, True, True, True]
    assert rows[1].more == {"youtube_id": "AAAAAAAAAAA"}
    assert all(len(row.problem) < 500 for row in rows)


@pytest.mark.parametrize("number", ["٣", "-1", "1.0", "9" * 21])
def test_numbers_that_are_none(number: str) -> None:
    (row,) = read("results_2M_train.csv", "webvid", f"videoid,name,page_dir,contentUrl\n{number},x,1_2,u\n")
    assert row.problem.startswith("results_2M_train.csv, record 1: videoid is")
    with pytest.raises(DataError, match="line 1: expected line number, photo id"):
        read("yfcc100m_subset_data.tsv", "yfcc15m", f"1\t{number}\tx\n")


def test_unknown_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown list of addresses 'cc3'; did you mean 'cc3m'"):
        url_list("cc3", tmp_path)
    for card in ("sbu", "cc3m", "cc12m", "yfcc15m", "webvid", "internvid", "didemo"):
        with pytest.raises(DataError, match=f"diptych data show {card}"):
            list(url_list(card, tmp_path))

"""The `yfcc15m` card on its miniature."""

import bz2
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from url_checks import captions, make_raw, prepared

from diptych.data.cards.yfcc15m import clean_title
from diptych.data.miniatures.media import colour_of
from diptych.data.miniatures.yfcc import hash_of
from diptych.data.prepare import load_card
from diptych.data.raw.list_yfcc import clean_text
from diptych.data.raw.listed import squeeze
from diptych.data.raw.url_lists import url_list
from diptych.errors import DataError

CAPTIONS = {
    "6985418911": ('The "old" harbour, Málaga', "Taken at dawn. See more & rest"),
    "1000000003": ("IMG_0520",),
    "2000000005": ("a kite + a dog 100%",),
    "0000000042": ("image",),
}


def test_subset_and_metadata_are_joined(tmp_path: Path) -> None:
    summary, samples = prepared("yfcc15m", tmp_path)
    assert summary.splits == {"train": 5}
    assert summary.problems == {"bad entry": 1, "missing picture": 1, "no photo": 1}
    assert captions(samples) == {**CAPTIONS, "5000000001": ("IMG_0520",)}
    assert [colour_of(sample.media["jpg"]) for sample in samples.values()] == [400, 401, 402, 403, 407]
    assert summary.examples["bad entry"] == ["yfcc100m_dataset-0.bz2, line 5: 2 columns instead of 23 or 25"]
    assert summary.examples["no photo"] == ["3000000001: yfcc100m_dataset-1.bz2, line 2: is a video"]
    digest = hash_of("4000000001")
    assert summary.examples["missing picture"] == [
        f"4000000001: images/{digest[:3]}/{digest[3:6]}/{digest}.jpg"
    ]


def test_the_licence_stays_with_the_photo(tmp_path: Path) -> None:
    _, samples = prepared("yfcc15m", tmp_path)
    assert samples["1000000003"].meta == {
        "url": f"http://farm3.staticflickr.example/2105/1000000003_{hash_of('1000000003')[:10]}.jpg",
        "licence": "Attribution-NonCommercial License",
        "texts": {"title": "IMG_0520", "description": ""},
        "source": {
            "licence_url": "http://creativecommons.org/licenses/by-nc/2.0/",
            "user": "Anna K.",
            "user_id": "33952180@N03",
            "page_url": "http://www.flickr.example/photos/33952180@N03/1000000003/",
        },
    }


@pytest.mark.parametrize("layout", ["fetched", "uniperceiver"])
def test_other_layouts_give_the_same_texts(tmp_path: Path, layout: str) -> None:
    summary, samples = prepared("yfcc15m", tmp_path, layout)
    assert summary.splits == {"train": 4}
    names = {photo: hash_of(photo) if layout == "uniperceiver" else photo for photo in CAPTIONS}
    assert captions(samples) == {names[photo]: texts for photo, texts in CAPTIONS.items()}
    assert {key: colour_of(sample.media["jpg"]) for key, sample in samples.items()} == {
        names[photo]: 400 + i for i, photo in enumerate(CAPTIONS)
    }
    if layout == "fetched":
        assert samples["1000000003"].meta["licence"] == "Attribution-NonCommercial License"
    else:
        assert summary.problems == {"missing picture": 1}


def test_the_list_for_fetching_has_the_terms(tmp_path: Path) -> None:
    make_raw("yfcc15m", tmp_path / "raw")
    rows = {row["id"]: row for row in url_list("yfcc15m", tmp_path / "raw") if "problem" not in row}
    assert list(rows) == ["6985418911", "1000000003", "2000000005", "0000000042", "4000000001", "5000000001"]
    assert rows["6985418911"]["licence"] == "Attribution License"
    assert rows["2000000005"]["caption"] == "a kite + a dog 100%"


def test_a_subset_of_another_form_is_refused(tmp_path: Path) -> None:
    make_raw("yfcc15m", tmp_path / "raw")
    (tmp_path / "raw/yfcc100m_subset_data.tsv.bz2").write_bytes(bz2.compress(b"1\tphoto\n"))
    with pytest.raises(DataError, match=r"line 1: expected line number, photo id and hash .* 2 columns"):
        list(load_card("yfcc15m").convert(tmp_path / "raw", {}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A+red%2C+car", "A red, car"),
        ("C++", "C++"),
        ("1 + 1 = 100%", "1 + 1 = 100%"),
        (None, ""),
        ("100%", "100%"),
    ],
)
def test_titles_of_others_are_decoded_only_if_they_are_encoded(text: object, expected: str) -> None:
    assert clean_title(text) == expected


@given(st.text(st.characters(exclude_characters="<>&"), max_size=50))
def test_encoded_texts_come_back(text: str) -> None:
    assert clean_text(quote_plus(text.encode("utf-8", "ignore"))) == squeeze(text)


@given(st.text(max_size=50))
def test_squeezed_texts_fit_into_a_line_of_a_file(text: str) -> None:
    squeezed = squeeze(text)
    assert squeezed == squeeze(squeezed) == squeezed.strip()
    assert not set(squeezed) & set("\0\t\r\n\x85\u2028")
    squeezed.encode()

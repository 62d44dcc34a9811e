"""The emoji that ship with the package."""

import io
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import diptych
from diptych.data.cards.emoji import CARD
from diptych.data.cards.emoji_raw import FLAT_FILES
from diptych.data.cards.sprites import LANGUAGES, STYLES, shipped
from diptych.errors import UsageError

BUILTIN = Path(str(files("diptych.data.builtin")))


@pytest.fixture(scope="module")
def samples():
    return list(CARD.convert(None, {}))


def test_splits_have_the_promised_sizes(samples):
    rows = [
        {k: v for k, v in s.meta.items() if isinstance(v, str | int)} | {"split": s.split} for s in samples
    ]
    table = pa.Table.from_pylist(rows)
    connection = duckdb.connect()
    connection.register("samples", table)
    for name, split in CARD.splits.items():
        (count,) = connection.execute(f"SELECT count(*) FROM samples WHERE {split.where}").fetchone()
        assert count == split.expected, name


def test_split_column_agrees_with_the_named_splits(samples):
    assert Counter(s.split for s in samples) == {"train": 3 * 1378, "unseen_style": 1378}


def test_no_concept_is_both_seen_and_unseen(samples):
    seen = {s.match_id for s in samples if not s.meta["held_out_concept"]}
    unseen = {s.match_id for s in samples if s.meta["held_out_concept"]}
    assert not seen & unseen
    assert len(seen) + len(unseen) == 1378


def test_a_tenth_of_each_category_is_held_out():
    total = Counter(c.group for c in shipped())
    held = Counter(c.group for c in shipped() if c.held_out)
    assert total == {
        "smileys-emotion": 160,
        "people-body": 150,
        "animals-nature": 153,
        "food-drink": 128,
        "travel-places": 218,
        "activities": 85,
        "objects": 261,
        "symbols": 223,
    }
    assert held == {group: round(count / 10) for group, count in total.items()}


def test_keys_names_and_texts_are_unique_and_clean(samples):
    assert len({s.key for s in samples}) == len(samples)
    assert all(re.fullmatch(r"[a-z0-9_-]+", s.key) for s in samples)
    names = [c.name.lower() for c in shipped()]
    assert len(set(names)) == len(names)
    assert all(s.captions == (s.meta["name"],) for s in samples)
    assert all(c.translations[language] for c in shipped() for language in LANGUAGES)


def test_no_flags_components_skin_tones_or_joined_sequences():
    for concept in shipped():
        codes = concept.hexcode.split("-")
        assert concept.group not in ("flags", "component")
        assert "200D" not in codes
        assert not any(0x1F3FB <= int(code, 16) <= 0x1F3FF for code in codes)
        assert not any(0x1F1E6 <= int(code, 16) <= 0x1F1FF for code in codes)


def test_the_aliases_of_the_flat_set_are_in():
    assert set(FLAT_FILES) <= {c.hexcode for c in shipped()}


def test_pictures_are_64_pixels_with_transparency(samples):
    for sample in samples[::7]:
        with Image.open(io.BytesIO(sample.media["webp"])) as picture:
            assert (picture.format, picture.size) == ("WEBP", (64, 64))
            # A few symbols fill their square; nothing is empty.
            assert np.asarray(picture.convert("RGBA"))[..., 3].max() == 255


def test_styles_are_different_pictures_of_the_same_thing():
    for concept in shipped()[::50]:
        assert len({concept.sprites[style] for style in STYLES}) == 4


def test_package_data_stays_within_8_megabytes():
    assert sum(path.stat().st_size for path in BUILTIN.rglob("*") if path.is_file()) <= 8_000_000


def test_every_style_has_its_licence_text():
    attribution = (BUILTIN / "ATTRIBUTION.md").read_text()
    named = set(re.findall(r"`licences/([^`]+)`", attribution))
    there = {path.name for path in (BUILTIN / "licences").iterdir()}
    assert named <= there
    for style in STYLES:
        assert f"| `{style}` |" in attribution
    root = Path(diptych.__file__).parents[2]
    notice = (root / "NOTICE").read_text()
    for work in ("Noto Emoji", "Twemoji", "Fluent Emoji", "emojibase", "CC BY 4.0"):
        assert work in notice


def test_other_sizes_need_the_packages():
    with pytest.raises(UsageError, match=r"size=128: the shipped pictures have 64 pixels.*--raw"):
        next(CARD.convert(None, {"size": "128"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": "64"}, "no option 'sise'; did you mean 'size'"),
        ({"size": "big"}, "size=big: expected a whole number from 16 to 512"),
        ({"size": "8"}, "expected a whole number from 16 to 512"),
        ({"captions": "tag"}, "captions=tag; did you mean 'tags'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        next(CARD.convert(None, options))

"""The `sbu` card: a million captioned photos of Flickr by address."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from diptych.data.cards.arrow_sets import arrow_layout
from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    IMAGE_COLUMNS,
    as_sample,
    check_media,
    from_fetched,
    needed,
    placed,
)
from diptych.data.cards.xvlm_json import read_json
from diptych.data.members import clean_key
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.list_sbu import ARCHIVE, CAPTIONS, JSON, URLS
from diptych.data.raw.listed import Listed, last_part, need, squeeze
from diptych.data.raw.refs import MediumError, Ref
from diptych.data.raw.url_lists import listed
from diptych.errors import DataError

PLACEHOLDER_BYTES = 1 << 14
"""Files up to this size are compared; Flickr's picture for photos that are gone has about 2 kB."""
OPTIONS = {
    "placeholders": (
        "identical small pictures from this number on are the host's picture for photos that are gone, "
        "and left "
        "out; 0 keeps them (default 10)"
    ),
    **COLUMNS_OPTION,
}
_SPELLINGS = ("sbucaptions.json", "subcaption.json", "sbucaption.json")
_PLACES = [f"sbucaption/{folder}{name}" for folder in ("annotations/", "") for name in _SPELLINGS]
FOLDERS = ("images", "images.zip", "images.tar")

_CARD = "sbu"

_Make = Callable[[], Iterator[Unread | LeftOut]]


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each row of the list whose picture is there.

    Raises:
        UsageError: a wrong option.
        DataError: the list, or all the pictures, are missing.
    """
    folder = needed(raw, _CARD)
    limit = _limit(options)
    check_media(folder, _CARD, "train", *FOLDERS)
    files = RawFolder(folder)
    repeated = _repeated(folder)
    yield from without_placeholders(lambda: _rows(folder, files, Counter(repeated)), limit)


def _rows(folder: Path, files: RawFolder, left: Counter[str]) -> Iterator[Unread | LeftOut]:
    for row in listed(_CARD, folder):
        if row.id in left:
            left[row.id] -= 1
            if left[row.id]:
                # Another photo of the same name would have been written over this one.
                yield LeftOut(
                    "repeated picture", row.id, f"a later row has the caption; this one: {row.caption}"
                )
                continue
        name = row.file.removeprefix("images/")
        yield placed(row, files.find(row.file, *(f"{f}{INSIDE}{name}" for f in FOLDERS[1:])), "picture")


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards; the key is the photo's name in its address.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    yield from without_placeholders(lambda: _fetched(raw, options), _limit(options))


def _fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    for found in from_fetched(_CARD, raw, options, OPTIONS, "picture"):
        if isinstance(found, LeftOut):
            yield found
        else:
            sample, meta = found
            yield as_sample(sample, photo_name(meta["url"]) or sample.key, meta)


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's list.

    Raises:
        UsageError: a wrong option.
        DataError: the list is missing, or of another form.
    """
    folder = needed(raw, _CARD)
    limit = _limit(options)
    path = need(folder, _CARD, *_PLACES)
    captions = read_json(path)
    if not isinstance(captions, dict):
        raise DataError(f"{path}: expected an object, name of a picture -> caption")
    yield from without_placeholders(lambda: _tree(folder, captions), limit)


def _tree(folder: Path, captions: Mapping[str, object]) -> Iterator[Unread | LeftOut]:
    files = RawFolder(folder)
    for name, caption in captions.items():
        key = clean_key(name.rpartition(".")[0] or name)
        if not isinstance(caption, str):
            yield LeftOut("bad entry", key, f"expected a text, got {str(caption)[:40]!r}")
            continue
        ref = files.find(f"sbucaption/images/{name}", f"sbucaption/images.zip{INSIDE}{name}")
        yield placed(Listed(key, "", squeeze(caption), "train", f"images/{name}"), ref, "picture")


def photo_name(url: str) -> str:
    """Return the key of a photo: the last part of its address without the ending."""
    name = last_part(url)
    return clean_key(name.rpartition(".")[0] or name)


def _limit(options: Mapping[str, str]) -> int:
    return Options(_CARD, options, OPTIONS).integer("placeholders", 10, 0, 1 << 30)


def _repeated(raw: Path) -> Counter[str]:
    """Return the ids that come more than once in the list -> how often; 8 bytes of memory a row."""
    codes = np.fromiter((_code(row.id) for row in listed(_CARD, raw)), np.int64)
    values, counts = np.unique(codes, return_counts=True)
    several = set(values[counts > 1].tolist())
    if not several:
        return Counter()
    found = Counter(row.id for row in listed(_CARD, raw) if _code(row.id) in several)
    return Counter({name: count for name, count in found.items() if count > 1})


def _code(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def without_placeholders(make: _Make, limit: int) -> Iterator[Unread | LeftOut]:
    """Yield the samples without the picture that a host sends for photos that are gone.

    Dead addresses answer with status 200 and always the same small picture: small pictures of which at least
    `limit` are identical are taken for it. Only pictures whose size comes that often are read for this.

    Args:
        make: returns the samples, the same ones at each call.
        limit: how many identical ones make a placeholder; 0: none do.
    """
    gone = _placeholders(make, limit) if limit else frozenset()
    for sample in make():
        if isinstance(sample, Unread) and sample.sample.key in gone:
            detail = str(sample.sample.meta["url"]) or f"at least {limit} pictures are the same"
            yield LeftOut("placeholder picture", sample.sample.key, detail)
        else:
            yield sample


def _placeholders(make: _Make, limit: int) -> frozenset[str]:
    sizes = Counter(ref.size for _, ref in _small(make))
    often = {size for size, count in sizes.items() if count >= limit}
    if not often:
        return frozenset()
    digests: list[tuple[str, bytes]] = []
    for key, ref in _small(make):
        if ref.size in often:
            # What cannot be read is found again, and counted, when it is to be stored.
            with suppress(MediumError):
                digests.append((key, hashlib.blake2b(ref.read(), digest_size=16).digest()))
    counts = Counter(digest for _, digest in digests)
    return frozenset(key for key, digest in digests if counts[digest] >= limit)


def _small(make: _Make) -> Iterator[tuple[str, Ref]]:
    for sample in make():
        if isinstance(sample, Unread):
            for ref in sample.refs.values():
                if 0 < (ref.size or 0) <= PLACEHOLDER_BYTES:
                    yield sample.sample.key, ref


CARD = Card(
    name=_CARD,
    title="SBU captioned photos",
    description=(
        "A million photos of Flickr with the captions of their owners, chosen for captions that describe. "
        "Addresses are distributed; about 840,000 to 860,000 still answer."
    ),
    licence=(
        "no terms of the list are known to us; each photo belongs to its owner. Check the homepage "
        "before use."
    ),
    convert=convert,
    splits={
        "train": Split("split = 'train'", 860_000, "of 1,000,000 rows; the others are gone", about=True),
        "sized": Split(
            "least(width, height) >= 10 AND greatest(width, height) <= 10000",
            note="both sides between 10 and 10,000 pixels, as Uni-Perceiver keeps them",
        ),
    },
    sources=(
        Source(
            ARCHIVE,
            f"the homepage (holds `dataset/{URLS}` and `dataset/{CAPTIONS}`); or the later `{JSON}`",
            alternatives=(URLS, f"dataset/{URLS}", f"*/{URLS}", JSON, f"{JSON}.gz"),
        ),
        Source("images", "what was fetched: named like the end of the address", alternatives=FOLDERS[1:]),
    ),
    options=OPTIONS,
    citation=(
        "Ordonez, Kulkarni, Berg: Im2Text: Describing Images Using 1 Million Captioned Photographs. NIPS "
        "2011."
    ),
    homepage="https://www.cs.rice.edu/~vo9/sbucaptions/",
    layouts={
        "fetched": Layout(FETCHED_TEXT, convert_fetched, (FETCHED,)),
        "arrow": arrow_layout(_CARD, OPTIONS),
        "uniperceiver": Layout(
            "The data folder of Uni-Perceiver: `sbucaption/annotations/sbucaptions.json` (one object, "
            "name of a "
            "picture -> caption; `subcaption.json` and `sbucaption.json` do as well, also right in "
            "`sbucaption/`) and `sbucaption/images/`. `--raw` is DATA_PATH.",
            convert_tree,
            (
                Source(
                    "sbucaption/annotations/sbucaptions.json",
                    "Uni-Perceiver's converter",
                    alternatives=tuple(_PLACES[1:]),
                ),
                Source("sbucaption/images", "what was fetched", alternatives=("sbucaption/images.zip",)),
            ),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: the end of the address, `4385058960_b0f291553e`. The photo as it was fetched and its caption. "
        f"Columns: {IMAGE_COLUMNS}."
    ),
    oddities=(
        "- Photos that are gone answer with status 200 and a picture of about 2 kB that says so: small "
        "pictures "
        "of which ten or more are identical are left out as `placeholder picture` (`-o placeholders=`).\n"
        "- Two addresses may end alike; their photos would have overwritten one another. The last caption is "
        "kept, the others are counted as `repeated picture`.\n"
        "- Captions hold HTML entities, tabs and emoticons, and most end with a blank; white space is "
        "squeezed, "
        "the rest stays.\n"
        "- Uni-Perceiver spells its list in three ways."
    ),
    miniature="diptych.data.miniatures.url_sets:make_sbu",
)

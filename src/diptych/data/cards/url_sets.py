"""What the cards of URL lists share: rows beside fetched media, shards of download tools, JSON lines."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import LeftOut, Source, Unread
from diptych.data.cards.fetched import KINDS, Fetched, fetched
from diptych.data.cards.options import Options, names_of
from diptych.data.members import clean_key
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.listed import Listed, finite, open_text, squeeze
from diptych.data.raw.refs import Ref
from diptych.data.raw.tables import lines
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

SPLITS_OPTION = {"splits": "splits to prepare, with commas (default: those whose list is there)"}
COLUMNS_OPTION = {
    "columns": "layout `fetched`: further columns of the JSON files to keep, with commas (one type a column)"
}
FETCHED = Source(
    "*.tar",
    "the output folder of `diptych data fetch RAW --form CARD` (RAW has the list), img2dataset or "
    "video2dataset",
    alternatives=("*/*.tar", "*/*/*.tar", "0*"),
)
FETCHED_TEXT = (
    'What a download tool wrote: tars (also below folders), or the folders `00000/` of the form "files", '
    "with a JSON file for each sample. A word `val` or `validation` in the name of a tar or folder makes its "
    "samples that split. `--raw` is the output folder."
)
REPORTED = ("original_width", "original_height")
"""What tools report of a picture before they resized it."""
IMAGE_COLUMNS = "`url`; `original_width`, `original_height` (layout `fetched`)"


def needed(raw: Path | None, card: str) -> Path:
    """Return the raw folder.

    Raises:
        UsageError: there is none.
    """
    if raw is None:
        raise UsageError(f"card '{card}' needs its raw files: give their folder with --raw")
    return raw


def chosen_splits(given: Options, rows: Iterator[Listed]) -> Iterator[Listed]:
    """Yield the rows of the splits that the user wants."""
    wanted = names_of(given.text("splits"))
    return (row for row in rows if not wanted or row.split in wanted)


def placed(row: Listed, ref: Ref | None, kind: str, **more: Any) -> Unread | LeftOut:
    """Return the sample of a row whose medium lies at `ref`.

    Args:
        row: the row.
        ref: its medium; None if it is not there.
        kind: `picture` or `video`.
        more: further facts.
    """
    if row.problem:
        return LeftOut(row.cause, row.id, row.problem)
    if ref is None:
        return LeftOut(f"missing {kind}", row.id, row.file)
    extension = PurePosixPath(row.file).suffix[1:].lower()
    if extension not in KINDS[kind]:
        # The content says what it is; the name is for people.
        extension = "jpg" if kind == "picture" else "mp4"
    meta = {"url": row.url, **row.more, **more}
    return Unread(Sample(row.id, {}, (row.caption,), "", row.split, meta), {extension: ref})


def check_media(raw: Path, card: str, split: str, *places: str) -> None:
    """Refuse a split whose media are wholly missing: millions of missing pictures are a wrong folder.

    Raises:
        DataError: none of the places is there.
    """
    if not any((raw / place).exists() for place in places):
        raise DataError(
            f"{raw}: there is a list of the split '{split}' but none of {', '.join(places)}; fetch its media "
            f"first (`diptych data show {card}`), leave the split out with -o splits=, or read the shards "
            "of a "
            "download tool with --layout fetched"
        )


def from_fetched(
    card: str,
    raw: Path | None,
    options: Mapping[str, str],
    known: Mapping[str, str],
    kind: str,
    *,
    held_out_first: bool = False,
) -> Iterator[tuple[Fetched, dict[str, Any]] | LeftOut]:
    """Yield each fetched sample with the facts that all these cards keep of it; see `fetched`.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    columns = names_of(Options(card, options, known).text("columns"))
    for found in fetched(needed(raw, card), kind, held_out_first=held_out_first):
        if isinstance(found, LeftOut):
            yield found
            continue
        meta: dict[str, Any] = {"url": found.text("url")}
        for name in REPORTED:
            number = finite(found.side.get(name))
            if number is not None:
                meta[name] = int(number)
        yield (
            found,
            {**meta, **{name: found.side[name] for name in columns if _can_be_kept(found.side, name)}},
        )


def clip_lines(raw: Path, path: Path, split: str, *folders: str) -> Iterator[Unread | LeftOut]:
    """Yield the samples of JSON lines as SNP-S3 reads them: `{"clip_name", "caption"}`, also `start`, `end`.

    Args:
        raw: the data folder.
        path: the list; one line a clip.
        split: the split it is of.
        folders: where the videos are, below `raw`.
    """
    files = RawFolder(raw)
    for number, entry in entries_of(path):
        name, caption = entry.get("clip_name"), entry.get("caption")
        start, end = (_seconds(entry.get(n)) for n in ("start", "end"))
        if not isinstance(name, str) or not name.strip() or not isinstance(caption, str):
            place = f"{path.name}, line {number + 1}"
            yield LeftOut(
                "bad entry", place, str(entry.get("problem") or "no text in 'clip_name' or 'caption'")
            )
            continue
        # Names without an ending are those of MP4 files.
        name = name if "." in name else f"{name}.mp4"
        key = clean_key(name.rpartition(".")[0])
        ref: Ref | None = files.find(*(f"{folder}/{name}" for folder in folders))
        if end is not None:
            key = f"{key}_{round((start or 0.0) * 1000)}_{round(end * 1000)}"
            ref = ClipRef(ref, start or 0.0, end) if ref is not None else None
            name = f"{name.rpartition('.')[0]}.mp4"
        yield placed(Listed(key, "", squeeze(caption), split, name), ref, "video")


def _seconds(value: object) -> float | None:
    number = finite(value)
    return number if number is not None and number >= 0 else None


def _can_be_kept(side: Mapping[str, Any], name: str) -> bool:
    """Tell whether a column is there and no number that JSON does not have (NaN)."""
    value = side.get(name)
    return value is not None and (not isinstance(value, float) or finite(value) is not None)


def as_sample(found: Fetched, key: str, meta: Mapping[str, Any], match_id: str = "") -> Unread:
    """Return a fetched sample under a key of the card's own."""
    sample = Sample(key, {}, found.captions, match_id, found.split, dict(meta))
    return Unread(sample, dict([found.medium]))


def image_lines(raw: Path, folder: str, path: Path, split: str) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's JSON lines about pictures, `{"image": ..., "caption": ...}`.

    Args:
        raw: the data folder.
        folder: that of the dataset below it; pictures are named from there, `ARCHIVE.zip@/name` or unpacked.
        path: the list.
        split: the split it is of.
    """
    files = RawFolder(raw)
    for number, entry in entries_of(path):
        place = f"{path.name}, line {number + 1}"
        image, caption = entry.get("image"), _caption(entry.get("caption"))
        if not isinstance(image, str) or not image.strip() or caption is None:
            yield LeftOut(
                "bad entry", place, str(entry.get("problem") or "no 'image', or no text in 'caption'")
            )
            continue
        name = image.strip().removeprefix("./")
        plain = name.replace(".zip@", "")
        ref = files.find(f"{folder}/{plain}", f"{folder}/{name}")
        key = clean_key(f"{split}_{plain.removeprefix(f'{split}_image/').rpartition('.')[0]}")
        yield placed(Listed(key, "", caption, split, plain), ref, "picture")


def entries_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of each line that is not empty; a damaged one is `{"problem": why}`."""
    with open_text(path) as stream:
        for number, line in lines(stream):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                entry = {"problem": f"no JSON: {error}"}
            yield number, entry if isinstance(entry, dict) else {"problem": "expected an object"}


def _caption(value: object) -> str | None:
    """Return a caption that is a text or a list of words."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return squeeze(" ".join(value))
    return squeeze(value) if isinstance(value, str) else None

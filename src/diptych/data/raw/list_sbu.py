"""The lists of the SBU captioned photo dataset: two parallel texts, or one JSON object of parallel arrays."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from diptych.data.members import clean_key
from diptych.data.raw.listed import Listed, first_of, is_address, last_part, need, open_text, squeeze
from diptych.data.raw.tables import json_fields, lines
from diptych.errors import DataError

URLS = "SBU_captioned_photo_dataset_urls.txt"
CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"
ARCHIVE = "SBUCaptionedPhotoDataset.tar.gz"
JSON = "sbu-captions-all.json"
_END = object()


def sbu(raw: Path) -> Iterator[Listed]:
    """Yield the rows, in the order of the list.

    Raises:
        DataError: there is no list, or its two halves do not have the same number of rows.
    """
    with ExitStack() as opened:
        urls, captions, name = _halves(raw, opened)
        for number, (url, caption) in enumerate(zip_longest(urls, captions, fillvalue=_END)):
            if url is _END or caption is _END:
                short = "addresses" if url is _END else "captions"
                raise DataError(f"{name}: the {short} end after {number} rows; both have the same number")
            yield _row(url, caption, f"{name}, row {number + 1}")


def _row(url: object, caption: object, place: str) -> Listed:
    url = url.strip() if isinstance(url, str) else ""
    caption = caption if isinstance(caption, str) else ""
    file = last_part(url) if is_address(url) else ""
    key = clean_key(file.rpartition(".")[0] or file)
    problem = "" if key else f"{place}: no address of a picture: {url[:80]!r}"
    return Listed(key, url, squeeze(caption), "train", f"images/{file}", problem=problem)


def _halves(raw: Path, opened: ExitStack) -> tuple[Iterator[Any], Iterator[Any], str]:
    """Return addresses, captions, and what the list is called."""
    urls, captions = (first_of(raw, name, f"dataset/{name}", f"*/{name}") for name in (URLS, CAPTIONS))
    if urls and captions:
        texts = [opened.enter_context(open_text(path)) for path in (urls, captions)]
        return _contents(texts[0]), _contents(texts[1]), urls.name
    archive = first_of(raw, ARCHIVE)
    if archive:
        # A reader of its own for each half: both are read at the same time, each from front to back.
        texts = [_member(archive, name, opened) for name in (URLS, CAPTIONS)]
        return _contents(texts[0]), _contents(texts[1]), archive.name
    path = need(raw, "sbu", JSON, f"{JSON}.gz", URLS, ARCHIVE)
    texts = [opened.enter_context(open_text(path)) for _ in range(2)]
    return _array(texts[0], path, "image_urls"), _array(texts[1], path, "captions"), path.name


def _array(text: TextIO, path: Path, field: str) -> Iterator[Any]:
    return (item for _, item in json_fields(text, str(path), (field,)))


def _contents(stream: TextIO) -> Iterator[str]:
    return (line for _, line in lines(stream))


def _member(archive: Path, name: str, opened: ExitStack) -> TextIO:
    try:
        tar = opened.enter_context(closing(tarfile.TarFile.open(archive, "r:*")))
        info = next((info for info in tar if info.isreg() and info.name.rpartition("/")[2] == name), None)
        stream = tar.extractfile(info) if info is not None else None
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive} cannot be read: {error}; get the file again") from error
    if stream is None:
        raise DataError(f"{archive}: expected {name} in it")
    return io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="\n")

"""The metadata of YFCC100M and the list of the 15M subset: bzip2 TSV without header, texts URL-encoded."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import numpy as np

from diptych.data.raw.listed import Listed, need, open_text, squeeze
from diptych.data.raw.tables import tsv
from diptych.errors import DataError

SUBSET = "yfcc100m_subset_data.tsv.bz2"
METADATA = ("yfcc100m_dataset.bz2", "yfcc100m_dataset.tsv.bz2", "yfcc100m_dataset.tsv", "yfcc100m_dataset")
PARTS = "yfcc100m_dataset-*"
"""The first release comes in ten parts."""
COLUMNS = [
    "photo_id",
    "user_id",
    "user",
    "date_taken",
    "date_uploaded",
    "camera",
    "title",
    "description",
    "tags",
    "machine_tags",
    "longitude",
    "latitude",
    "accuracy",
    "page_url",
    "download_url",
    "licence",
    "licence_url",
    "server",
    "farm",
    "secret",
    "secret_original",
    "extension",
    "marker",
]
"""The 23 columns of the first release; the later one has a line number in front, the hash behind the id."""
_NEWER = ["line", "photo_id", "hash", *COLUMNS[1:]]
_VIDEO = "1"
_ID = re.compile(r"[0-9]{1,18}")
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)


def yfcc15m(raw: Path) -> Iterator[Listed]:
    """Yield the rows of the metadata that the subset lists, in the order of the metadata.

    Raises:
        DataError: a list is missing, or of another form.
    """
    wanted = _Subset(need(raw, "yfcc15m", SUBSET, SUBSET.removesuffix(".bz2")))
    for path in _metadata(raw):
        with open_text(path) as stream:
            for number, fields in tsv(stream):
                place = f"{path.name}, line {number + 1}"
                if len(fields) not in (len(COLUMNS), len(_NEWER)):
                    # Which line it is of is unknown: it may not even be in the subset.
                    yield Listed("", "", "", problem=f"{place}: {len(fields)} columns instead of 23 or 25")
                    continue
                record = dict(zip(_NEWER if len(fields) == len(_NEWER) else COLUMNS, fields, strict=True))
                digest = wanted.find(record["photo_id"])
                if digest is not None:
                    yield _row(record, record.get("hash") or digest, place)


def _row(record: dict[str, str], digest: str, place: str) -> Listed:
    title, description = clean_text(record["title"]), clean_text(record["description"])
    extension = re.sub(r"[^a-z0-9]", "", record["extension"].lower()) or "jpg"
    return Listed(
        record["photo_id"],
        record["download_url"].strip(),
        title or description,
        "train",
        f"images/{digest[:3]}/{digest[3:6]}/{digest}.{extension}" if digest else "",
        more=_more(record, title, description),
        problem=f"{place}: is a video" if record["marker"].strip() == _VIDEO else "",
        cause="no photo",
    )


def _more(record: dict[str, str], title: str, description: str) -> dict[str, Any]:
    """Return texts and terms; the names are those of a prepared sample's facts."""
    return {
        "title": title,
        "description": description,
        "licence": squeeze(unquote_plus(record["licence"])),
        "licence_url": record["licence_url"].strip(),
        "user": squeeze(unquote_plus(record["user"])),
        "user_id": record["user_id"].strip(),
        "page_url": record["page_url"].strip(),
    }


def clean_text(text: str) -> str:
    """Return a title or description as a caption: decoded, without HTML, in one line.

    The columns are URL-encoded with `+` for a blank (only to be decoded after a line was split at its tabs);
    entities become characters, tags go, their content stays.
    """
    return squeeze(_TAG.sub("", html.unescape(unquote_plus(text))))


def _metadata(raw: Path) -> Sequence[Path]:
    parts = sorted(path for path in raw.glob(PARTS) if path.is_file())
    return parts or [need(raw, "yfcc15m", *METADATA)]


class _Subset:
    """The photo ids of the subset with their hashes: 24 bytes a photo."""

    def __init__(self, path: Path) -> None:
        ids: list[np.ndarray] = []
        digests: list[np.ndarray] = []
        with open_text(path) as stream:
            chunk: list[tuple[int, bytes]] = []
            for number, fields in tsv(stream):
                if len(fields) != 3 or not _ID.fullmatch(fields[1]):
                    raise DataError(
                        f"{path}: line {number + 1}: expected line number, photo id and hash with tabs "
                        f"between, got {len(fields)} columns"
                    )
                chunk.append((int(fields[1]), _packed(fields[2])))
                if len(chunk) == 1 << 16:
                    _append(chunk, ids, digests)
            _append(chunk, ids, digests)
        order = np.argsort(np.concatenate(ids), kind="stable") if ids else np.zeros(0, np.int64)
        self._ids = np.concatenate(ids)[order] if ids else np.zeros(0, np.int64)
        self._digests = np.concatenate(digests)[order] if digests else np.zeros(0, "V16")

    def find(self, photo_id: str) -> str | None:
        """Return the hash of a photo (empty if the list has none that is one), None if it is not listed."""
        if not _ID.fullmatch(photo_id):
            return None
        place = int(np.searchsorted(self._ids, int(photo_id)))
        if place == len(self._ids) or int(self._ids[place]) != int(photo_id):
            return None
        digest = self._digests[place].tobytes()
        return digest.hex() if any(digest) else ""


def _packed(digest: str) -> bytes:
    """Return a hash in hex as 16 bytes; zeros where it is something else."""
    return bytes.fromhex(digest) if re.fullmatch(r"[0-9a-f]{32}", digest) else bytes(16)


def _append(chunk: list[tuple[int, bytes]], ids: list[np.ndarray], digests: list[np.ndarray]) -> None:
    ids.append(np.array([photo for photo, _ in chunk], np.int64))
    digests.append(np.frombuffer(b"".join(digest for _, digest in chunk), "V16"))
    chunk.clear()

"""What download tools leave behind: shards or folders of img2dataset, video2dataset and `diptych data fetch`.

A shard is a tar of `KEY.jpg` (or `.mp4`, ...), `KEY.json` and `KEY.txt`; in the tools' form "files" it is a
folder of the same. Failed rows are lone JSON files, or only in the Parquet file beside the shard.
"""

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.cards.base import LeftOut
from diptych.data.cards.fetched_own import Own
from diptych.data.members import OWN_FIELDS, PICTURES, clean_key
from diptych.data.raw.listed import squeeze
from diptych.data.raw.refs import FileRef, Ref, TarRef
from diptych.data.raw.video import VIDEOS
from diptych.errors import DataError

KINDS: Mapping[str, Collection[str]] = {"picture": PICTURES, "video": VIDEOS}
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Words in the name of a shard or its folders -> split."""

DAMAGE = (OSError, EOFError, tarfile.TarError)
"""What a damaged shard raises."""
_LARGEST_SIDE = 1 << 24
"""Bytes of a JSON or text that are read, at most."""
_SHARD_FOLDER = re.compile(r"\d{4,}")


@dataclass(frozen=True)
class Fetched:
    """A sample as a tool left it."""

    key: str
    """Unique in what was fetched: the split and the tool's key; with the folder, if shards lie in several."""
    split: str
    medium: tuple[str, Ref]
    """Extension and place of the picture or video."""
    captions: tuple[str, ...]
    side: Mapping[str, Any]
    """The JSON beside it: columns of the list and what the tool tells."""

    def text(self, *names: str) -> str:
        """Return the first of these columns that holds a text or number, as text; else an empty one."""
        for name in names:
            value = self.side.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                return str(value).strip()
        return ""


@dataclass
class _Group:
    """The members of a sample, as far as read."""

    name: str
    media: dict[str, Ref]
    texts: dict[str, bytes]


def fetched(raw: Path, kind: str, *, held_out_first: bool = False) -> Iterator[Fetched | LeftOut]:
    """Yield what lies in the shards below a folder, shard by shard in the order of their names.

    Args:
        raw: the folder.
        kind: `picture` or `video`: which media count, others of a sample (sound) are left.
        held_out_first: shards of val and test come first, so that of a key in both it is the one in train
            that is left out.

    Raises:
        DataError: there is no shard.
    """
    places = list(_shards(raw))
    owns = {folder: Own.at(folder) for folder in dict.fromkeys(place.parent for place in places)}
    shards = [_Shard(raw, place, kind, owns[place.parent]) for place in places]
    if not shards:
        raise DataError(
            f"{raw}: no shards of a download tool: expected tars such as 00000.tar, or folders such as 00000/"
        )
    if held_out_first:
        shards.sort(key=lambda shard: shard.split == "train")
    for shard in shards:
        yield from shard.samples()
    for own in owns.values():
        if own is not None:
            yield from own.failed(kind)


def _shards(raw: Path) -> Iterator[Path]:
    """Yield the tars, and the folders that are shards, sorted."""
    for name, folders, files in os.walk(raw):
        folder = Path(name)
        # `.prepare`, `_tmp`: what was still being written.
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        shards = [f for f in folders if _SHARD_FOLDER.fullmatch(f)]
        folders[:] = [f for f in folders if f not in shards]
        yield from sorted(folder / f for f in [*shards, *(f for f in files if f.lower().endswith(".tar"))])


class _Shard:
    """A tar or folder.

    Args:
        raw: the folder of everything.
        place: the shard.
        kind: see `fetched`.
        own: what is known of its folder, if `diptych data fetch` wrote it.
    """

    def __init__(self, raw: Path, place: Path, kind: str, own: Own | None) -> None:
        self.place, self._kind = place, kind
        relative = place.relative_to(raw)
        self.name = relative.as_posix()
        self._own = own
        self._splits: dict[str, str] = {}
        words = re.split(r"[^a-z]+", self.name.lower())
        self.split = next((SPLITS[word] for word in words if word in SPLITS), "train")
        self._folder = [part for part in relative.parts[:-1] if part.lower() not in SPLITS]

    def samples(self) -> Iterator[Fetched | LeftOut]:
        failed: set[str] = set()
        try:
            if self._own:
                self._splits = self._own.splits(self.place.name)
            for group in _groups(self._entries()):
                found = self._sample(group)
                if isinstance(found, LeftOut):
                    failed.add(group.name)
                yield found
        except DAMAGE as error:
            yield LeftOut("damaged shard", self.name, f"{error}; what lies before the damage is kept")
        yield from self._failures(failed)

    def _entries(self) -> Iterator[tuple[str, Ref, bytes | None]]:
        """Yield name, place and, of JSON and texts, content of each file."""
        if self.place.is_dir():
            for path in sorted(self.place.iterdir()):
                size = path.stat().st_size if path.is_file() else -1
                if size >= 0:
                    small = _is_side(path.name) and size <= _LARGEST_SIDE
                    yield path.name, FileRef(path, size), path.read_bytes() if small else None
            return
        with self.place.open("rb") as file, tarfile.TarFile.open(fileobj=file, mode="r:") as tar:
            end = os.fstat(file.fileno()).st_size
            for info in tar:
                if info.offset_data + info.size > end:
                    raise EOFError(f"it ends inside {info.name}")
                if info.isreg():
                    data = None
                    if _is_side(info.name) and info.size <= _LARGEST_SIDE:
                        file.seek(info.offset_data)
                        data = file.read(info.size)
                    yield info.name, TarRef(self.place, info.name, info.offset_data, info.size), data
            if tar.offset >= end:
                # Whoever wrote it was stopped between two members.
                raise EOFError("it has no end")

    def _sample(self, group: _Group) -> Fetched | LeftOut:
        key = self._key(group.name, self.split)
        try:
            side = json.loads(group.texts.get("json") or b"{}")
        except (ValueError, RecursionError) as error:
            return LeftOut("bad entry", key, f"{self.name}: its JSON cannot be read: {error}")
        if not isinstance(side, dict):
            return LeftOut("bad entry", key, f"{self.name}: expected an object in its JSON")
        text = group.texts.get("txt", b"").decode("utf-8", errors="replace")
        captions, side = _texts(side, text)
        told = str(side.get("split") or self._splits.get(group.name) or self._splits.get("", ""))
        split = SPLITS.get(told, self.split)
        key = self._key(group.name, split)
        medium = next(
            ((name, group.media[name]) for name in sorted(group.media) if self._is_medium(name)), None
        )
        if medium is None:
            return LeftOut(f"missing {self._kind}", key, self._reason(side))
        return Fetched(key, split, medium, captions, side)

    def _is_medium(self, name: str) -> bool:
        return name.rpartition(".")[2] in KINDS[self._kind]

    def _key(self, name: str, split: str) -> str:
        # Keys of our own datasets are unique over all splits.
        return clean_key(name if self._own else "_".join([split, *self._folder, name]))

    def _reason(self, about: Mapping[str, Any]) -> str:
        status, error = about.get("status"), about.get("error_message")
        told = ": ".join(str(part) for part in (status, error) if part)
        return f"{self.name}: {told or 'there is none'} {about.get('url') or ''}".strip()

    def _failures(self, known: Collection[str]) -> Iterator[LeftOut]:
        """Yield the rows that the Parquet file beside the shard reports as failed."""
        path = self.place.with_name(f"{self.place.stem}.parquet")
        if not path.is_file():
            return
        try:
            names = {"key", "status", "error_message", "url"} & set(pq.read_schema(path).names)
            if not {"key", "status"} <= names:
                return
            for row in pq.read_table(path, columns=sorted(names)).to_pylist():
                if row["status"] != "success" and str(row["key"]) not in known:
                    yield LeftOut(
                        f"missing {self._kind}", self._key(str(row["key"]), self.split), self._reason(row)
                    )
        except (OSError, pa.ArrowException) as error:
            yield LeftOut("damaged shard", path.name, str(error).splitlines()[0])


def _is_side(name: str) -> bool:
    return name.endswith((".json", ".txt"))


def _groups(entries: Iterator[tuple[str, Ref, bytes | None]]) -> Iterator[_Group]:
    """Yield the samples: neighbours with the same name up to the first dot (webdataset's rule)."""
    group: _Group | None = None
    try:
        for name, ref, data in entries:
            folder, _, base = name.rpartition("/")
            stem, dot, field = base.partition(".")
            if not stem or not dot or stem.startswith("__"):
                continue
            key = f"{folder}/{stem}" if folder not in ("", ".") else stem
            if group is None or group.name != key:
                if group is not None:
                    yield group
                group = _Group(key, {}, {})
            if data is not None:
                group.texts[field.lower()] = data
            else:
                group.media[field.lower()] = ref
    except DAMAGE:
        # Where a shard breaks off, only the JSON tells that a sample is whole.
        if group is not None and "json" in group.texts:
            yield group
        raise
    if group is not None:
        yield group


def _texts(side: dict[str, Any], text: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the captions, and the JSON with all columns at the top (our own keep them in `meta`)."""
    if side.keys() >= OWN_FIELDS and isinstance(side["meta"], dict):
        side = {**side["meta"], "captions": side["captions"], "split": side.get("split")}
    many, one = side.get("captions"), side.get("caption")
    if isinstance(many, list) and many:
        captions = [caption for caption in many if isinstance(caption, str)]
    else:
        captions = [one if isinstance(one, str) else text]
    return tuple(squeezed for caption in captions if (squeezed := squeeze(caption))), side

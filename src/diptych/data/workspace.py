"""The state of a preparation on the disk: which shards are finished, and of what."""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq

from diptych.data.columns import make_part
from diptych.data.derived import FOLDER
from diptych.data.files import PARTIAL, cannot_write, written_whole
from diptych.data.index import INDEX, INFO, WORK
from diptych.data.places import PLACES
from diptych.data.shards import FinishedShard, KeySet, shard_name
from diptych.errors import DataError

STATE = "state.json"
LOCK = "lock"
_META = b"diptych"


@dataclass(frozen=True)
class Finished:
    """A shard that an earlier run (or this one) finished."""

    path: Path
    """Its part of the index."""
    shard: dict[str, Any]
    """file, samples, bytes, sha256"""
    tally: dict[str, Any]
    """What had happened to the samples until then."""


def what_differs(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in which respect two preparations differ; empty if in none that both know of."""
    for name in sorted(known.keys() & wanted.keys()):
        if known[name] == wanted[name]:
            continue
        if name == "sources":
            names = known[name].keys() | wanted[name].keys()
            changed = sorted(n for n in names if known[name].get(n) != wanted[name].get(n))
            return f"the raw files changed ({', '.join(changed)})"
        if name == "raw":
            return "it was prepared " + ("with --raw" if known[name] else "without --raw")
        return f"{name.replace('_', ' ')} is {_show(known[name])}, wanted {_show(wanted[name])}"
    return ""


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={text}" for name, text in value.items()) or "none"
    return str(value)


class Workspace:
    """The folder `.prepare` inside a dataset being prepared; removed when the preparation ends well.

    It holds `state.json` (what is prepared) and, for each finished shard, its part of the index with the
    tally of the samples so far. A shard counts as finished when its part is there, which is written after it.
    One process at a time works in it.

    Args:
        out: folder of the dataset.
        identity: what makes a preparation the same one; JSON types.
        force: delete what is in `out` of another one.

    Raises:
        DataError: `out` cannot be used (see `__enter__`).
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, force: bool = False) -> None:
        self.out, self.folder = out, out / WORK
        self._identity, self._force = dict(identity), force
        self._lock = -1

    def __enter__(self) -> Self:
        self._claim()
        try:
            if self._force:
                self._clear()
            self._check_state()
            self._tidy()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self._part(0).is_file():
            # Nothing to go on with: an error before the first shard leaves no trace.
            shutil.rmtree(self.folder)
        with suppress(OSError):
            # Goes only if it is empty.
            self.out.rmdir()
        self._release()

    def load(self) -> list[Finished]:
        """Return the finished shards, in order, up to the first that is missing or has another size."""
        found: list[Finished] = []
        while (part := self._part(len(found))).is_file():
            facts = json.loads((pq.read_schema(part).metadata or {}).get(_META, b"{}"))
            shard = self.out / facts["shard"]["file"]
            if not shard.is_file() or shard.stat().st_size != facts["shard"]["bytes"]:
                break
            found.append(Finished(part, facts["shard"], facts["tally"]))
        return found

    def _tidy(self) -> None:
        """Delete what a killed run left behind its last finished shard."""
        for partial in (*self.out.glob("*" + PARTIAL), *self.folder.glob("*" + PARTIAL)):
            partial.unlink()
        kept = {part.path for part in self.load()}
        for path in self.folder.glob("*.parquet"):
            if path not in kept:
                path.unlink()

    def store(self, shard: FinishedShard, tally: Mapping[str, Any]) -> None:
        """Record a finished shard.

        Raises:
            DataError: the disk is full, or the rows do not make a table.
        """
        facts = {
            "shard": {
                "file": shard.file,
                "samples": shard.samples,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
            },
            "tally": dict(tally),
        }
        table = make_part(shard.file, shard.rows).replace_schema_metadata({_META: json.dumps(facts).encode()})
        number = int(shard.file.removesuffix(".tar").rpartition("-")[2])
        with written_whole(self._part(number)) as partial:
            pq.write_table(table, partial)

    def keys(self, finished: Sequence[Finished]) -> KeySet:
        """Return the keys of the finished shards."""
        keys = KeySet()
        for part in finished:
            for key in pq.read_table(part.path, columns=["key"]).column(0).to_pylist():
                keys.add(key)
        return keys

    def _part(self, number: int) -> Path:
        return self.folder / f"{shard_name(self._identity['card'], number)}.parquet"

    def _claim(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise DataError(f"{self.out} is a file; expected a folder for the dataset")
        others = (
            [p.name for p in self.out.iterdir() if not p.name.startswith(".")] if self.out.is_dir() else []
        )
        if others and not self.folder.is_dir() and not (self.out / INFO).is_file():
            raise DataError(
                f"{self.out} holds other files ({', '.join(sorted(others)[:3])}, ...) and no dataset; "
                "choose an empty folder"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(self.out, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            raise DataError(f"another process is preparing {self.out}; wait until it ends") from error

    def _release(self) -> None:
        with suppress(OSError):
            os.close(self._lock)
        self._lock = -1

    def _check_state(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            with written_whole(path) as partial:
                partial.write_text(json.dumps(self._identity), encoding="utf-8")
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        difference = what_differs(known, self._identity)
        if difference:
            raise DataError(
                f"{self.out} holds an unfinished preparation with other arguments: {difference}; "
                "choose another folder, or begin anew with --force"
            )

    def _clear(self) -> None:
        """Delete a former dataset: `dataset.json` first, so that no half of it is ever taken for a whole."""
        names = {path.name for path in self.out.glob(f"{self._identity['card']}-*.tar")}
        with suppress(OSError, ValueError, KeyError, TypeError):
            info = json.loads((self.out / INFO).read_text(encoding="utf-8"))
            names |= {Path(shard["file"]).name for shard in info["shards"]}
        with suppress(OSError, ValueError, KeyError, TypeError):
            former = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            names |= {path.name for path in self.out.glob(f"{former['card']}-*.tar")}
        for name in (INFO, INDEX, PLACES, *sorted(names)):
            (self.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.out / FOLDER, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()

"""The state of a preparation on the disk: which chunks are finished."""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.claim import LOCK, Claim, drop_shards
from diptych.data.derived import FOLDER
from diptych.data.files import PARTIAL, cannot_write, written_whole
from diptych.data.index import INDEX, INFO, WORK
from diptych.data.places import PLACES
from diptych.data.writing import META, RUN
from diptych.errors import DataError

STATE = "state.json"
_PART = re.compile(r".*-(?P<number>\d+)\.tar\.parquet")


@dataclass(frozen=True)
class Finished:
    """A chunk that an earlier run (or this one) finished."""

    path: Path
    """Its part of the index."""
    number: int
    fingerprint: str
    """Of the chunk, see `Chunk`."""
    shard: dict[str, Any] | None
    """file, samples, bytes, sha256; None where no sample could be stored"""
    problems: dict[str, int]
    examples: dict[str, list[str]]


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
    return str(value) or "none"


class Workspace:
    """The folder `.prepare` inside a dataset being prepared; removed when the preparation ends well.

    It holds `state.json` (what is prepared), `run` (which run may write) and, for each finished chunk, its
    part of the index. A shard counts as finished when its part is there, which is written after it.
    One run at a time works in it.

    Args:
        out: folder of the dataset.
        identity: what makes a preparation the same one; JSON types.
        force: delete what is in `out` of another one.

    Attributes:
        run: what `run` holds.

    Raises:
        DataError: `out` cannot be used (see `__enter__`).
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, force: bool = False) -> None:
        self.out, self.folder, self.run = out, out / WORK, secrets.token_hex(16)
        self._identity, self._force = dict(identity), force

    def __enter__(self) -> Self:
        self._claim = Claim(
            self.out,
            self.folder,
            ours=self.folder.is_dir() or (self.out / INFO).is_file(),
            strange="and no dataset",
            doing="preparing",
        )
        try:
            if self._force:
                self._clear()
            self._check_state()
            # Before tidying up: what an earlier run left alive (on another machine) must not write any more.
            (self.folder / RUN).write_text(self.run, encoding="utf-8")
            self._tidy()
        except OSError as error:
            self._claim.release()
            raise cannot_write(self.folder, error) from error
        except BaseException:
            self._claim.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._tidy()
        else:
            # A worker that died of its chunk, which another one has written since.
            self._drop_partials()
        if kind is None or not any(part.shard for part in self.load().values()):
            # Nothing to go on with: an error before the first shard leaves no trace.
            shutil.rmtree(self.folder)
        with suppress(OSError):
            # Goes only if it is empty.
            self.out.rmdir()
        self._claim.release()

    def load(self) -> dict[int, Finished]:
        """Return the finished chunks by number, in order, without those whose shard is gone or was cut."""
        found: dict[int, Finished] = {}
        for path in sorted(self.folder.glob("*.parquet"), key=lambda path: (len(path.name), path.name)):
            part = _read(path)
            if part is not None and self._is_whole(part):
                found[part.number] = part
        return found

    def _is_whole(self, part: Finished) -> bool:
        if part.shard is None:
            return True
        with suppress(OSError):
            return bool((self.out / part.shard["file"]).stat().st_size == part.shard["bytes"])
        return False

    def drop_from(self, number: int) -> None:
        """Delete what there is of chunks from `number` on: the raw files have become fewer."""
        named = [(path, _PART.fullmatch(path.name)) for path in self.folder.glob("*.parquet")]
        surplus = [path for path, name in named if name and int(name["number"]) >= number]
        for path in surplus:
            path.unlink()
        if surplus:
            self._tidy()

    def _tidy(self) -> None:
        """Delete what a killed run left behind: files that are not complete, shards without their part."""
        self._drop_partials()
        finished = self.load().values()
        parts = {part.path for part in finished}
        for path in self.folder.glob("*.parquet"):
            if path not in parts:
                path.unlink()
        shards = {part.shard["file"] for part in finished if part.shard}
        drop_shards(self.out, self._identity["card"], shards)

    def _drop_partials(self) -> None:
        for partial in (*self.out.glob("*" + PARTIAL), *self.folder.glob("*" + PARTIAL)):
            partial.unlink(missing_ok=True)

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


def _read(path: Path) -> Finished | None:
    try:
        facts = json.loads((pq.read_schema(path).metadata or {})[META])
        return Finished(path, **facts)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        # Cut by hand, or by another version of Diptych: it is made again.
        return None

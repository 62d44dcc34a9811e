"""The state of a fetch on the disk: what is fetched, which chunks are finished, and of which pass."""

import json
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.acquire.paths import META, REPORT, ROWS, RUN, WORK, part_path, rows_path, scratch_path
from diptych.data.claim import LOCK, Claim, drop_shards
from diptych.data.derived import FOLDER
from diptych.data.files import PARTIAL, cannot_write, written_whole
from diptych.data.layout import INDEX, INFO
from diptych.data.places import PLACES
from diptych.errors import DataError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Finished:
    """A chunk that is complete."""

    path: Path
    """Its part of the index."""
    number: int
    fingerprint: str
    shard: dict[str, Any] | None
    """file, samples, bytes, sha256; None: nothing could be fetched."""


@dataclass
class Pass:
    """One way through the list: all rows, then those that failed."""

    first: int
    """Number of its first chunk."""
    chunks: int | None = None
    """How many; None: it is not finished."""
    only: list[str] = field(default_factory=list)
    """Causes of the rows that are tried again; none: all causes."""


class FetchFolder:
    """The folder of a fetch. One process at a time works in it; use it as a context manager.

    Args:
        out: folder of the dataset.
        identity: what makes a fetch the same one; JSON types.
        force: delete what is in `out` of another one.

    Attributes:
        run: names this run.
        passes: all so far.

    Raises:
        DataError: `out` holds something else, or another process works in it.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, force: bool = False) -> None:
        self.out, self.folder, self.run = out, out / WORK, secrets.token_hex(16)
        self.passes = [Pass(0)]
        self._identity, self._force = dict(identity), force

    def __enter__(self) -> Self:
        self._claim = Claim(
            self.out,
            self.folder,
            ours=self.folder.is_dir(),
            strange="that were not fetched",
            doing="fetching into",
        )
        try:
            if self._force:
                self._clear()
            self._load()
            for name in ("parts", "rows"):
                (self.folder / name).mkdir(exist_ok=True)
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
        if kind is None:
            # A worker that died of its chunk, which another one has written since.
            self._drop_partials()
        elif not self.finished():
            # An error before the first chunk leaves no trace.
            shutil.rmtree(self.folder)
            with suppress(OSError):
                self.out.rmdir()
        self._claim.release()

    def finished(self) -> dict[int, Finished]:
        """Return the finished chunks by number, without those whose shard is gone or has another size."""
        found: dict[int, Finished] = {}
        for path in sorted((self.folder / "parts").glob("*.parquet")):
            part = read_finished(self.out, int(path.stem)) if path.stem.isdigit() else None
            if part is not None:
                found[part.number] = part
        return found

    def save(self) -> None:
        """Write the manifest.

        Raises:
            WriteError: the disk is full.
        """
        content = {"identity": self._identity, "passes": [vars(one) for one in self.passes]}
        with written_whole(self.folder / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _drop_partials(self) -> None:
        for place in (self.out, self.folder, self.folder / "parts", self.folder / "rows"):
            for path in (*place.glob("*" + PARTIAL), *place.glob(".media-*")):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Delete what a killed run left behind."""
        self._drop_partials()
        shutil.rmtree(scratch_path(self.out), ignore_errors=True)
        shards = {part.shard["file"] for part in self.finished().values() if part.shard}
        drop_shards(self.out, self._identity["name"], shards)

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            self.save()
            return
        from diptych.data.workspace import what_differs

        known = json.loads(path.read_text(encoding="utf-8"))
        difference = what_differs(known["identity"], self._identity)
        if difference:
            raise DataError(
                f"{self.out} holds what was fetched with other arguments: {difference}; "
                "choose another folder, or begin anew with --force"
            )
        self.passes = [Pass(**one) for one in known["passes"]]

    def _clear(self) -> None:
        """Delete a former fetch: `dataset.json` first, so that no half of it is ever taken for a whole."""
        names = {INFO, INDEX, PLACES, ROWS, REPORT}
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            names |= {path.name for path in self.out.glob(f"{known['identity']['name']}-*.tar")}
        (self.out / INFO).unlink(missing_ok=True)
        for name in sorted(names):
            (self.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.out / FOLDER, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def read_finished(out: Path, number: int) -> Finished | None:
    """Return what is recorded of a chunk; None if it is not finished or its shard is gone or cut."""
    path = part_path(out, number)
    try:
        part = Finished(path, **json.loads((pq.read_schema(path).metadata or {})[META]))
        size = int(part.shard["bytes"]) if part.shard else 0
        whole = part.shard is None or (out / part.shard["file"]).stat().st_size == size
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return None
    return part if whole and rows_path(out, number).is_file() else None

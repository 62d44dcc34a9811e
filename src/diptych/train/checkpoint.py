"""Checkpoints: everything a run needs to go on, in folders that are complete or do not count.

```
checkpoints/step_00000200/state/        tensors, by torch.distributed.checkpoint
                          trainer.json  step, CPU seconds, counters, versions
                          loader.json   next batch, fingerprint of the selection
                          COMPLETE      size of each file; written last, before the folder gets its name
checkpoints/latest                      name of the newest one, for people and scripts
```

There is no state of random generators: all draws come from seeds derived of (run seed, step).

With several ranks, each writes its share of the tensors and rank 0 everything else. A checkpoint of any
number of ranks is read by any other number.
"""

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Size, Tensor

from diptych.blocks.collective import ALONE, World
from diptych.errors import CheckpointError
from diptych.train.files import first_line, out_of_room, sync_folder, sync_tree, write_json, write_text
from diptych.train.sharded import fill_tensors, read_whole, stored_sizes, write_tensors
from diptych.train.together import RankError, Together, agreed

STEP_FOLDER = re.compile(r"step_(\d{8})")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds."""

    step: int
    """Steps that are done."""
    tensors: Mapping[str, Tensor]
    """"task/...": weights and buffers; "optim/<slot>/...": optimizer; "ema/...": averaged weights."""
    trainer: dict[str, Any]
    loader: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix/`, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")}


class Checkpoints:
    """The checkpoints of a run.

    Ranks call `tidy`, `newest_agreed`, `save`, `wait`, `load_into` and `close` together; the rest looks at
    files only and may be called by one rank alone.

    Args:
        folder: `checkpoints/` of the run, on storage that all ranks see.
        world: the ranks.
    """

    def __init__(self, folder: Path, world: World = ALONE) -> None:
        self.folder = folder
        self.world = world
        self._together = Together(world, apart=True)
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None

    def complete(self) -> list[Path]:
        """Return the folders of complete checkpoints, oldest first."""
        return [path for path in self._named() if (path / "COMPLETE").exists()]

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one."""
        found = self.complete()
        return found[-1] if found else None

    def newest_agreed(self) -> Path | None:
        """Return what is the newest complete checkpoint for rank 0, on every rank."""
        name = self._together.main(lambda: found.name if (found := self.newest()) else None)
        return self.folder / name if name else None

    def tidy(self) -> list[str]:
        """Remove what a kill during a write left; return a sentence about each thing that does not count.

        Rank 0 does it, before any rank goes on; the other ranks get no sentences.
        """
        notes = self._together.main(self._tidy)
        return notes if self.world.is_main else []

    def save(self, snapshot: Snapshot, keep: int, *, background: bool = False) -> Path:
        """Write a checkpoint and delete the oldest beyond `keep`. A save before it is waited for first.

        Args:
            snapshot: tensors may be `DTensor`s; names, step and dictionaries are the same on every rank.
            keep: complete checkpoints to leave.
            background: return when the tensors are copied to host memory; they are written meanwhile. What
                goes wrong then is raised by the next `save` or `wait`.

        Raises:
            CheckpointError: it could not be written; nothing of it is left and the earlier ones are
            untouched. Every rank raises it.
        """
        self.wait()
        final = self.folder / f"step_{snapshot.step:08d}"
        if not background:
            self._save(snapshot, final, keep)
            return final
        self._together.connect()  # groups are made by main threads, in one order
        copied = threading.Event()
        self._thread = threading.Thread(
            target=self._save_beside, args=(snapshot, final, keep, copied), name="checkpoint", daemon=True
        )
        self._thread.start()
        copied.wait()
        return final

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed; `wait` raises why. Ranks may not learn it at once."""
        return self._error is not None

    def wait(self) -> None:
        """Wait until nothing is written in the background any more.

        Raises:
            CheckpointError: that could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait like `wait`, but raise nothing: for the end of a run that has failed already."""
        with contextlib.suppress(CheckpointError):
            self.wait()

    def load(self, path: Path) -> Snapshot:
        """Read a checkpoint, all tensors whole, in this process alone.

        Raises:
            CheckpointError: a file is missing, cut short or unreadable.
        """
        with self._damage_explained(path):
            _check_files(path)
            trainer, loader = _read_facts(path)
            return Snapshot(trainer["step"], read_whole(path / "state"), trainer, loader)

    def trainer_facts(self, path: Path) -> dict[str, Any]:
        """Return what trainer.json of a checkpoint holds, as rank 0 reads it, on every rank.

        Raises:
            CheckpointError: it is missing or unreadable.
        """
        with self._damage_explained(path):
            return self._together.main(lambda: _read_facts(path))[0]

    def load_into(self, path: Path, tensors: Mapping[str, Tensor]) -> Snapshot:
        """Fill tensors in place with a checkpoint of any number of ranks.

        Args:
            path: the checkpoint, the same one on every rank.
            tensors: everything that the run has, as `Snapshot.tensors` names it; a rank reads only the parts
                of `DTensor`s that it holds. Tensors of the optimizer which the checkpoint lacks stay as they
                are: parameters that were never updated had none.

        Returns:
            The checkpoint, with the given tensors.

        Raises:
            CheckpointError: it is damaged, or holds other tensors than these. Every rank raises it.
        """

        def fill() -> None:
            stored = stored_sizes(path / "state")
            _check_names(path, stored, tensors)
            fill_tensors({name: tensor for name, tensor in tensors.items() if name in stored}, path / "state")

        with self._damage_explained(path):
            self._together.main(lambda: _check_files(path))
            trainer, loader = self._together.main(lambda: _read_facts(path))
            self._together.all(fill, lambda _: None)
        return Snapshot(trainer["step"], tensors, trainer, loader)

    def _save_beside(self, snapshot: Snapshot, final: Path, keep: int, copied: threading.Event) -> None:
        try:
            self._save(snapshot, final, keep, copied.set)
        except CheckpointError as error:
            self._error = error
        except Exception as error:  # a defect: it must not vanish with this thread
            self._error = self._failure(snapshot, final, error)
        finally:
            copied.set()

    def _save(
        self, snapshot: Snapshot, final: Path, keep: int, copied: Callable[[], None] | None = None
    ) -> None:
        aside = self.folder / f".{final.name}.tmp"
        together = self._together

        def begin() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()

        def end(sizes: dict[str, int]) -> None:
            trainer = {"step": snapshot.step, "ranks": self.world.size, **snapshot.trainer}
            write_json(aside / "trainer.json", trainer)
            write_json(aside / "loader.json", snapshot.loader)
            # Ranks synced their own files; over a network rank 0 may not see all of them yet.
            shares = {f"state/{name}": size for name, size in sizes.items()}
            write_json(aside / "COMPLETE", {"files": sync_tree(aside) | shares})
            if final.exists():  # incomplete, or of a newer line of the run that was cut off
                shutil.rmtree(final)
            aside.replace(final)
            sync_folder(self.folder)
            write_text(self.folder / "latest", final.name + "\n")

        try:
            together.main(begin)
            sizes = write_tensors(snapshot.tensors, aside / "state", together, copied)
            together.main(lambda: end(sizes))
        except (OSError, RuntimeError, RankError) as error:
            if self.world.is_main:
                shutil.rmtree(aside, ignore_errors=True)
            raise self._failure(snapshot, final, error) from error
        together.main(lambda: self._rotate(keep))

    def _tidy(self) -> list[str]:
        notes = []
        for path in sorted(self.folder.glob(".step_*.tmp")):
            shutil.rmtree(path)
            notes.append(f"removed {path.name}: a checkpoint that was being written when the run was stopped")
        for path in self._named():
            if not (path / "COMPLETE").exists():
                notes.append(
                    f"ignored {path}: it has no COMPLETE file, so it was never finished or is being deleted"
                )
        newest = self.newest()
        latest = self.folder / "latest"
        if newest is not None and (
            not latest.exists() or latest.read_text(encoding="utf-8") != f"{newest.name}\n"
        ):
            write_text(latest, f"{newest.name}\n")  # a kill came between the two renames
        return notes

    def _named(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if STEP_FOLDER.fullmatch(path.name))

    def _before(self, path: Path) -> str:
        earlier = [other.name for other in self.complete() if other.name < path.name]
        return f"{earlier[-1]} before it" if earlier else "the start"

    def _rotate(self, keep: int) -> None:
        for path in self.complete()[:-keep]:
            try:
                (path / "COMPLETE").unlink()  # first, so that a kill here leaves nothing that looks complete
                shutil.rmtree(path)
            except OSError as error:
                raise CheckpointError(
                    f"{path}: this old checkpoint could not be deleted ({first_line(error)}); delete it, and "
                    f"give the same command again to go on"
                ) from error

    def _failure(self, snapshot: Snapshot, final: Path, error: Exception) -> CheckpointError:
        need = sum(t.numel() * t.element_size() for t in snapshot.tensors.values())
        free = shutil.disk_usage(self.folder if self.folder.is_dir() else self.folder.parent).free
        previous = self.newest()
        kept = f"the previous checkpoint {previous.name} is intact" if previous else "there is no earlier one"
        again = "give the same command again to go on"
        if out_of_room(error) or free < need:
            cause, again = "the disk is full or a file size limit is reached", f"make room and {again}"
        else:
            cause = first_line(error.failure.error if isinstance(error, RankError) else error)
        if isinstance(error, RankError) and self.world.size > 1:
            cause = f"rank {error.failure.rank} on {error.failure.host}: {cause}"
        return agreed(
            CheckpointError(
                f"{final}: the checkpoint could not be written: {cause} (it needs about "
                f"{need / MIB:.1f} MiB, {free / MIB:.1f} MiB are free there); {kept}; {again}"
            )
        )

    @contextlib.contextmanager
    def _damage_explained(self, path: Path) -> Iterator[None]:
        """Turn what reading a checkpoint raises into an error that says how to go on."""
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError, RankError) as error:
            cause: Exception = error.failure.error if isinstance(error, RankError) else error
            if isinstance(cause, CheckpointError):
                raise agreed(cause) from error
            message = (
                f"{path}: damaged checkpoint ({first_line(cause)}); delete this folder and give the "
                f"same command again to go on from {self._before(path)}"
            )
            raise agreed(CheckpointError(message)) from error


def _check_files(path: Path) -> None:
    files = json.loads((path / "COMPLETE").read_text(encoding="utf-8"))["files"]
    for name, size in files.items():
        found = (path / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} bytes instead of {size}")


def _read_facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    trainer = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
    loader = json.loads((path / "loader.json").read_text(encoding="utf-8"))
    return {**trainer, "step": int(trainer["step"])}, loader


def _check_names(path: Path, stored: Mapping[str, Size], tensors: Mapping[str, Tensor]) -> None:
    """Raise where a checkpoint and the tensors of a run are not of the same model."""
    lacking = [name for name in tensors if name not in stored and not name.startswith("optim/")]
    extra = [name for name in stored if name not in tensors]
    other = [
        f"{name} ({list(stored[name])} there, {list(tensor.shape)} here)"
        for name, tensor in tensors.items()
        if name in stored and stored[name] != tensor.shape
    ]
    problems = [
        f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("it lacks", lacking), ("it has beyond them", extra), ("other sizes", other))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not hold the tensors of this run ({'; '.join(problems)}); train with the version "
            f"and recipe that wrote it, or start a new run with init_from.path"
        )

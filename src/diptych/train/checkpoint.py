"""Checkpoints: everything a run needs to go on, in folders that are complete or do not count.

```
checkpoints/step_00000200/state/        tensors, by torch.distributed.checkpoint
                          trainer.json  step, CPU seconds, counters, versions
                          loader.json   next batch, fingerprint of the selection
                          COMPLETE      size of each file; written last, before the folder gets its name
checkpoints/latest                      name of the newest one, for people and scripts
```

There is no state of random generators: all draws come from seeds derived of (run seed, step).
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from diptych.errors import CheckpointError
from diptych.train.files import out_of_room, sync_folder, sync_tree, write_json, write_text

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
    """The checkpoints of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[Path]:
        """Return the folders of complete checkpoints, oldest first."""
        return [path for path in self._named() if (path / "COMPLETE").exists()]

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one."""
        found = self.complete()
        return found[-1] if found else None

    def tidy(self) -> list[str]:
        """Remove what a kill during a write left; return a sentence about each thing that does not count."""
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

    def save(self, snapshot: Snapshot, keep: int) -> Path:
        """Write a checkpoint and delete the oldest beyond `keep`.

        Raises:
            CheckpointError: it could not be written; nothing of it is left and the earlier ones are
            untouched.
        """
        final = self.folder / f"step_{snapshot.step:08d}"
        aside = self.folder / f".{final.name}.tmp"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            _write_tensors(snapshot.tensors, aside / "state")
            write_json(aside / "trainer.json", {"step": snapshot.step, **snapshot.trainer})
            write_json(aside / "loader.json", snapshot.loader)
            write_json(aside / "COMPLETE", {"files": sync_tree(aside)})
            if final.exists():  # incomplete, or of a newer line of the run that was cut off
                shutil.rmtree(final)
            aside.replace(final)
            sync_folder(self.folder)
            write_text(self.folder / "latest", final.name + "\n")
        except (OSError, RuntimeError, CheckpointException) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._failure(snapshot, final, error) from error
        self._rotate(keep)
        return final

    def load(self, path: Path) -> Snapshot:
        """Read a checkpoint.

        Raises:
            CheckpointError: a file is missing, cut short or unreadable.
        """
        try:
            files = json.loads((path / "COMPLETE").read_text(encoding="utf-8"))["files"]
            for name, size in files.items():
                found = (path / name).stat().st_size
                if found != size:
                    raise ValueError(f"{name} has {found} bytes instead of {size}")
            trainer = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
            loader = json.loads((path / "loader.json").read_text(encoding="utf-8"))
            return Snapshot(trainer["step"], _read_tensors(path / "state"), trainer, loader)
        except (OSError, ValueError, KeyError, RuntimeError, CheckpointException) as error:
            raise CheckpointError(
                f"{path}: damaged checkpoint ({_first_line(error)}); delete this folder and give the "
                f"same command "
                f"again to go on from {self._before(path)}"
            ) from error

    def _named(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if STEP_FOLDER.fullmatch(path.name))

    def _before(self, path: Path) -> str:
        earlier = [other.name for other in self.complete() if other.name < path.name]
        return f"{earlier[-1]} before it" if earlier else "the start"

    def _rotate(self, keep: int) -> None:
        for path in self.complete()[:-keep]:
            (path / "COMPLETE").unlink()  # first, so that a kill here leaves nothing that looks complete
            shutil.rmtree(path)

    def _failure(self, snapshot: Snapshot, final: Path, error: BaseException) -> CheckpointError:
        need = sum(t.numel() * t.element_size() for t in snapshot.tensors.values())
        free = shutil.disk_usage(self.folder).free
        previous = self.newest()
        kept = f"the previous checkpoint {previous.name} is intact" if previous else "there is no earlier one"
        again = "give the same command again to go on"
        if out_of_room(error) or free < need:
            cause, again = "the disk is full or a file size limit is reached", f"make room and {again}"
        else:
            cause = _first_line(error)
        return CheckpointError(
            f"{final}: the checkpoint could not be written: {cause} (it needs about {need / MIB:.1f} MiB, "
            f"{free / MIB:.1f} MiB are free there); {kept}; {again}"
        )


def _write_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    with warnings.catch_warnings():
        # One process is what is meant; torch warns about it each time.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        save(dict(tensors), storage_writer=FileSystemWriter(folder), no_dist=True)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    reader = FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in stored.items()
        if isinstance(facts, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _first_line(error: BaseException) -> str:
    failures = getattr(error, "failures", None)  # of a CheckpointException: rank -> (error, trace)
    if failures:
        error = next(iter(failures.values()))[0]
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

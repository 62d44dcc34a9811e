"""Exports that hold what a run changed: the rest lies in the model that it started from.

`base.json` beside the weights says where that model is, what its file looked like, and which tensors are
taken from it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diptych.errors import CheckpointError

BASE = "base.json"
_WEIGHTS = "model.safetensors"
_PIECE = 2**20


@dataclass(frozen=True)
class Base:
    """The model that a run started from."""

    folder: Path
    """Its export."""
    sha256: str
    """Of its weights."""
    names: tuple[str, ...]
    """The tensors that are taken from it."""

    def write(self, folder: Path, final: Path) -> None:
        """Write `base.json` into an export that is to lie at `final`."""
        content = {
            "path": str(self.folder.resolve()),
            "relative": os.path.relpath(self.folder.resolve(), final.resolve()),
            "sha256": self.sha256,
            "names": list(self.names),
        }
        (folder / BASE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def changed(state: Mapping[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], Base]:
    """Return the tensors that differ from those of another export, and what the others come from.

    Args:
        state: all weights of a task.
        folder: the export that training started from.

    Raises:
        CheckpointError: it is no export, or damaged.
    """
    theirs = _load(folder)
    same = [n for n, t in state.items() if n in theirs and _equal(t, theirs[n])]
    kept = {name: tensor for name, tensor in state.items() if name not in set(same)}
    return kept, Base(folder, _digest(folder / _WEIGHTS), tuple(same))


def completed(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the weights of an export with those that it takes from its base, if it has one.

    Raises:
        CheckpointError: the base is not where it was, or is another one now.
    """
    path = folder / BASE
    if not path.exists():
        return dict(state)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        places = [Path(told["path"]), folder / told["relative"]]
        digest, names = str(told["sha256"]), list(told["names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); export the model again") from error
    base = next((place for place in places if (place / _WEIGHTS).exists()), None)
    if base is None:
        raise CheckpointError(
            f"{folder}: holds what training changed; the model that it started from is not there any more "
            f"(looked at {' and '.join(map(str, places))}); put it back, or correct `path` in {path}"
        )
    if _digest(base / _WEIGHTS) != digest:
        raise CheckpointError(
            f"{folder}: holds what training changed of {base}, which has other weights now; put those back "
            f"that training started from, or correct `path` in {path}"
        )
    theirs = _load(base)
    lacking = [name for name in names if name not in theirs]
    if lacking:
        raise CheckpointError(f"{path}: {base} has no tensor {lacking[0]}; export the model again")
    return {**{name: theirs[name] for name in names}, **state}


def _load(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.exists():
        raise CheckpointError(
            f"{folder}: no {_WEIGHTS}; train.export = changes needs init_from.path to be an export, or a run "
            "that has one"
        )
    try:
        # A base may be a small export itself.
        return completed(load_file(path), folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); export the model again") from error


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    same = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return same and torch.equal(ours.detach().cpu(), theirs)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()

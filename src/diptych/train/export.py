"""Exports: a folder with what it takes to use a model, and where weights are found.

```
export/model.safetensors   weights of the task: the system's under `model.`, heads under their own names
       model.yaml          step, system, task, and the data settings that the model expects
       base.json           with `train.export: changes`, the model that holds the other weights
       assets.json         what the task knows of its data (the answers it chooses from), if anything
       tokenizer/tokenizer.json
       README.md           the model card
```
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import diptych
from diptych.config.schema import Section
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError
from diptych.resolve import nearest
from diptych.train.card import CARD, model_card
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.config import RunConfig
from diptych.train.export_base import BASE, Base, completed
from diptych.train.files import sync_folder, sync_tree

WEIGHTS, FACTS, ASSETS = "model.safetensors", "model.yaml", "assets.json"


@dataclass(frozen=True)
class Weights:
    """Weights of a task, and where they came from."""

    state: dict[str, Tensor]
    step: int
    folder: Path
    """The export or checkpoint."""
    tokenizer: Path | None
    """Its tokenizer.json, if there is one."""
    assets: dict[str, Any] = field(default_factory=dict)
    """What its task knows of its data (`Task.assets`)."""


def exported_settings(config: RunConfig) -> dict[str, Any]:
    """Return the part of a run's configuration that a user of the model needs, as nested values."""
    keep: dict[str, Any] = {
        "data": {"image", "video", "text", "path", "examples"},
        "system": True,
        "task": True,
        "evaluate": True,
    }
    keep |= {"name": True, "seed": True}
    if config.data.mixture.draw != "samples":  # sources have settings of their own
        keep["data"] |= {"sources", "mixture"}
    values: dict[str, Any] = config.with_(system=config.system.portable()).model_dump(mode="json")
    return {
        key: {k: v for k, v in values[key].items() if k in part} if isinstance(part, set) else values[key]
        for key, part in keep.items()
    }


def write_export(
    folder: Path,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    settings: Mapping[str, Any] | Section,
    step: int = 0,
    assets: Mapping[str, Any] | None = None,
    base: Base | None = None,
) -> Path:
    """Write an export aside and rename it into place; one that is there already is replaced.

    Args:
        folder: the export to be.
        state: parameter name -> tensor of any device.
        tokenizer: stored beside the weights; None where it is not known (converted checkpoints).
        settings: sections of `RunConfig`, at least `system`.
        step: steps that the weights were trained for.
        assets: of the task (`Task.assets`).
        base: where the weights are that `state` lacks (`export_base.changed`).
    """
    values = settings.model_dump(mode="json") if isinstance(settings, Section) else dict(settings)
    facts = {"diptych": diptych.__version__, "step": step, **values}
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        (aside / WEIGHTS).write_bytes(save(separate(state), metadata={"format": "pt"}))
        if base is not None:
            base.write(aside, folder)
        if tokenizer is not None:
            tokenizer.save(aside / "tokenizer")
        if assets:
            write_assets(aside, assets)
        text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
        (aside / FACTS).write_text(text, encoding="utf-8")
        words = None if tokenizer is None else tokenizer.vocab_size
        card = model_card(values, state, step=step, tokens=words)
        if base is not None:
            card += (
                f"\nThis folder holds the {len(state)} tensors that training changed; `{BASE}` says where "
                f"the other {len(base.names)} are.\n"
            )
        (aside / CARD).write_text(card, encoding="utf-8")
        sync_tree(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in host memory, contiguous, no two of them in the same memory.

    Tied weights share memory, and safetensors refuses to guess which of them owns it: those are copied. All
    others are not; they may be gigabytes.
    """
    taken: set[int] = set()
    found = {}
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != own.nbytes:
            own = own.clone()
            storage = own.untyped_storage()
        taken.add(storage.data_ptr())
        found[name] = own
    return found


def write_assets(folder: Path, assets: Mapping[str, Any]) -> None:
    """Write the assets of a task into an export or a run directory."""
    text = json.dumps(assets, indent=1, ensure_ascii=False)
    (folder / ASSETS).write_text(text + "\n", encoding="utf-8")


def read_assets(folder: Path) -> dict[str, Any]:
    """Return the assets in an export or a run directory; empty without any.

    Raises:
        CheckpointError: a damaged file.
    """
    path = folder / ASSETS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); export the model again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: damaged (expected an object); export the model again")
    return found


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the content of an export's model.yaml.

    Raises:
        CheckpointError: missing or unreadable.
    """
    path = folder / FACTS
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); export the model again") from error
    if not isinstance(facts, dict) or "system" not in facts:
        raise CheckpointError(f"{path}: expected the settings of a model with a section `system`")
    return facts


def find_weights(path: str | Path, key: str = "path") -> Path:
    """Return the export or checkpoint that `path` means: itself, or one in a run directory (export first).

    Raises:
        CheckpointError: nothing there; the message names what was looked for, and similar names.
    """
    root = Path(path)
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        raise CheckpointError(
            f"{key} = {root}: no such directory; expected a run directory or an "
            f"export{nearest(root.name, siblings)}"
        )
    for candidate in (root, root / "export"):
        if (candidate / WEIGHTS).exists() and (candidate / FACTS).exists():
            return candidate
    if (root / "COMPLETE").exists():
        return root
    newest = Checkpoints(root / "checkpoints").newest()
    if newest is not None:
        return newest
    raise CheckpointError(
        f"{key} = {root}: no weights there; looked for {WEIGHTS} with {FACTS}, for export/{WEIGHTS}, and "
        f"for a "
        f"complete checkpoint in checkpoints/"
    )


def read_weights(folder: Path) -> Weights:
    """Read what `find_weights` returned; of a checkpoint with averaged weights, the averages.

    Raises:
        CheckpointError: a damaged file.
    """
    if (folder / FACTS).exists():
        try:
            state = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / WEIGHTS}: damaged ({error}); export the model again") from error
        step = int(read_facts(folder).get("step", 0))
        tokenizer = _existing(folder / "tokenizer" / "tokenizer.json")
        return Weights(completed(state, folder), step, folder, tokenizer, read_assets(folder))
    snapshot = Checkpoints(folder.parent).load(folder)
    tokenizer = _existing(folder.parents[1] / "tokenizer" / "tokenizer.json")
    return Weights(averaged(snapshot), snapshot.step, folder, tokenizer, read_assets(folder.parents[1]))


def averaged(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the weights to use of a checkpoint: averages where there are some, the others as they are."""
    return {**snapshot.part("task"), **snapshot.part("ema")}


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None

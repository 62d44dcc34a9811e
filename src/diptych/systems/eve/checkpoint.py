"""Reading published checkpoint files."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import LoadRules, from_published
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.shapes import read_config


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file: safetensors, or a torch file read weights-only.

    A torch file may hold the state dict itself or `{"model": state dict, ...}`.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors and plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a published checkpoint")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint ({_first_line(error)})") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a state dict, got {type(content).__name__}")
    wrong = [str(n) for n, t in content.items() if not isinstance(t, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: expected tensors only, but {', '.join(sorted(wrong)[:3])} are none")
    return dict(content)


def _load_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects beside tensors, which could run code when read; "
            f"save its state dict alone where you trust the file ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def import_checkpoint(
    path: Path,
    heads: Literal["best", "own", "none"] = "best",
    image_size: int | None = None,
    attention_heads: int | None = None,
) -> tuple[EveConfig, dict[str, Tensor], list[str]]:
    """Read a published checkpoint; return its configuration, our state dict, and the keys that were left out.

    Args:
        path: the file.
        heads: see `LoadRules`.
        image_size: side of the pictures to come; the position table is resized for it. None: as it is.
        attention_heads: None: one per 64 of width.

    Raises:
        CheckpointError: not readable, not EVE, or tensors that do not fit together.
    """
    published = read_checkpoint(path)
    config = read_config(published, attention_heads)
    grid = None
    if image_size is not None:
        if image_size % config.patch_size:
            raise CheckpointError(
                f"{path}: image size {image_size} is not a multiple of the patch size {config.patch_size}"
            )
        config = config.with_(image_size=image_size)
        grid = image_size // config.patch_size
    imported = from_published(published, LoadRules(heads, grid))
    _check_shapes(path, config, imported.state)
    return config, imported.state, imported.ignored


def _check_shapes(path: Path, config: EveConfig, state: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = {f"model.{n}": t.shape for n, t in EveModel(config).state_dict().items()}
    found = {n: t.shape for n, t in state.items() if n.startswith("model.")}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors missing, too many or of the wrong shape: {', '.join(wrong[:6])}"
        )

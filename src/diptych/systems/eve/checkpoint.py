"""Reading published checkpoint files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import LoadRules, from_published
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.shapes import read_config
from diptych.systems.files import read_state_dict


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file: safetensors, or a torch file read weights-only.

    A torch file may hold the state dict itself or `{"model": state dict, ...}`.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors and plain containers.
    """
    return read_state_dict(path, ("model",))


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

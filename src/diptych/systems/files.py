"""Reading the files of published checkpoints, without running any code that they may hold."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diptych.errors import CheckpointError


def read_state_dict(path: Path, under: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the state dict of a file: safetensors, or a torch file read weights-only.

    Args:
        path: the file.
        under: a torch file may hold the state dict itself, or a dictionary with it under one of these keys.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors and plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a published checkpoint")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint ({_first_line(error)})") from error
    if isinstance(content, Mapping):
        nested = (content[key] for key in under if isinstance(content.get(key), Mapping))
        content = next(nested, content)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a state dict, got {type(content).__name__}")
    wrong = [str(n) for n, t in content.items() if not isinstance(t, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: expected tensors only, but {', '.join(sorted(wrong)[:3])} are none")
    return dict(content)


def as_single(tensor: Tensor) -> Tensor:
    """Return floating-point numbers as float32, others as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


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

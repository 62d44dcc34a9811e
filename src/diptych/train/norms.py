"""Norms of gradients: of every tensor once, then of the parts of a task and of all together."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard


def part_of(name: str) -> str:
    """Return the part of a task that a parameter belongs to: `model.layers`, `model.text`, `itc`, ..."""
    first, _, rest = name.partition(".")
    return f"model.{rest.partition('.')[0]}" if first == "model" and rest else first


def tensor_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of each tensor: [n] float32. Sharded tensors (DTensor) count in full on every rank.

    Args:
        gradients: any mixture of plain tensors and DTensors that are sharded or replicated. Every rank of a
            mesh must give the same ones.
    """
    if not gradients:
        return torch.zeros(0)
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(local)])
    for rows, groups in _sharded(gradients):
        squares = norms[rows].square()
        for group in groups:
            dist.all_reduce(squares, group=group)
        norms[rows] = squares.sqrt()
    return norms


def _sharded(gradients: Sequence[Tensor]) -> Iterable[tuple[list[int], list[Any]]]:
    """Yield, for each layout, the numbers of the tensors that have it and the groups they are spread over."""
    layouts: dict[tuple[Any, ...], list[int]] = {}
    for number, gradient in enumerate(gradients):
        if isinstance(gradient, DTensor):
            layouts.setdefault((gradient.device_mesh, gradient.placements), []).append(number)
    for (mesh, placements), rows in layouts.items():
        spread = [dim for dim, placement in enumerate(placements) if isinstance(placement, Shard)]
        if spread:
            yield rows, [mesh.get_group(dim) for dim in spread]


class PartNorms:
    """Turns the norms of tensors into norms of the parts of a task.

    Args:
        named: names and parameters of the task.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        parts = {id(parameter): part_of(name) for name, parameter in named}
        self.names = list(dict.fromkeys(parts.values()))
        """The parts, in the order of the task; [G]."""
        self._rows: dict[tuple[int, ...], Tensor] = {}
        self._number = {key: self.names.index(part) for key, part in parts.items()}

    def of(self, parameters: Sequence[nn.Parameter], norms: Tensor) -> Tensor:
        """Return [G] norms of the parts from the norms [n] of the gradients of `parameters`."""
        numbers = tuple(self._number[id(p)] for p in parameters)
        rows = self._rows.get(numbers)
        if rows is None:
            rows = self._rows[numbers] = torch.tensor(numbers, dtype=torch.int64, device=norms.device)
        squares = torch.zeros(len(self.names), device=norms.device)
        return squares.index_add_(0, rows, norms.square()).sqrt_()

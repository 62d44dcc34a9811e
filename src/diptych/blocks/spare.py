"""Memory that is used again for gradients of large weights."""

import weakref
from typing import Any

import torch
from torch import Tensor

LEAST = 32 * 2**20
"""Bytes. What is smaller is used again by the C library; what is larger goes back to the system at once."""


class SpareMemory:
    """Hands out memory for tensors on a CPU and takes it back when nothing lies in it any more.

    The system clears memory page by page when it is first written, which takes several times as long as
    writing it; gradients that are made and dropped at every step would pay that each time. What is held is as
    much as was in use at once.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Any, weakref.ref[Any]]] = []  # numpy arrays, and their views that torch uses

    def __reduce__(self) -> tuple[type["SpareMemory"], tuple[()]]:
        return SpareMemory, ()  # a copy starts with nothing

    def empty_like(self, like: Tensor) -> Tensor:
        """Return a contiguous tensor of the shape and type of `like`, its values not set."""
        if like.device.type != "cpu" or like.dtype != torch.float32 or like.nbytes < LEAST:
            return torch.empty_like(like, memory_format=torch.contiguous_format)
        self._held = [(m, user) for m, user in self._held if m.shape == like.shape or user() is not None]
        found = next((i for i, (m, user) in enumerate(self._held) if user() is None), len(self._held))
        memory = self._held.pop(found)[0] if found < len(self._held) else torch.empty(like.shape).numpy()
        view = memory.view()
        self._held.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)  # holds the view for as long as any tensor shares this memory

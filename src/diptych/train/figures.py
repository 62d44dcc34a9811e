"""The figures of a run between two rows of metrics.jsonl."""

import time
from typing import Any

import torch
from torch import Tensor

from diptych.systems.task import Loss


class Figures:
    """Collects figures step by step as tensors, so that nothing waits for the device before a row is due."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self._steps = self._samples = 0
        self._waited = 0.0
        self._since = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Count time in which the loop had no batch."""
        self._waited += seconds

    def loss(self, loss: Loss, share: float) -> None:
        """Count one batch that makes up `share` of its step."""
        named = {"loss": loss.total}
        named |= {f"loss/{name}": value for name, value in loss.parts.items()}
        named |= {f"metric/{name}": value for name, value in loss.metrics.items()}
        for name, value in named.items():
            self._add(name, value.detach(), share)

    def step(self, samples: int, grad_norm: Tensor) -> None:
        """Count one step."""
        self._steps += 1
        self._samples += samples
        self._add("grad_norm", grad_norm.detach(), 1.0)

    def _add(self, name: str, value: Tensor, weight: float) -> None:
        value = value.float() * weight
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def row(self) -> dict[str, Any]:
        """Return the means over the steps since the last call, with the rates, and start anew."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        names = list(self._sums)
        values = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        row: dict[str, Any] = {n: v / self._weights[n] for n, v in zip(names, values, strict=True)}
        row["samples_per_second"] = self._samples / elapsed
        row["steps_per_second"] = self._steps / elapsed
        row["data_wait"] = self._waited / elapsed
        self._clear()
        return row

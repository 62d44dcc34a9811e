"""The figures of a run between two rows of metrics.jsonl: losses, rates, memory, experts, over all ranks."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.fit import waste
from diptych.systems.task import Loss, Task
from diptych.train.flops import StepFlops
from diptych.train.memory import peak_mb
from diptych.train.norms import PartNorms
from diptych.train.roofline import roofline


@dataclass(frozen=True)
class Share:
    """What one rank knows of the steps since the last row."""

    sums: dict[str, tuple[float, float]]
    """Figure -> weighted sum of its values and sum of the weights."""
    seconds: float
    waited: float
    """Seconds without a batch."""
    samples: int
    steps: int
    tokens: float
    flops: float | None
    """Operations; None where they are not counted."""
    peak_flops: float
    """What the device can do in a second, measured."""
    memory_mb: float
    experts: dict[int, list[int]]
    """Layer -> first choices per expert."""


class Figures:
    """Collects figures step by step as tensors, so that nothing waits for the device before a row is due.

    Args:
        task: what is trained, without distributed wrappers.
        device: where its tensors are.
        precision: `train.precision`; it decides which matrix product the achieved FLOP/s are compared with.
        world: the ranks that train together. All of them must call `row` at the same steps.
        count_flops: whether to count operations (`train.count_flops`).
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        precision: str,
        world: World = ALONE,
        *,
        count_flops: bool = True,
    ) -> None:
        self._task, self._device, self._world = task, device, world
        self._image_tokens = task.model.image_spec.tokens
        self._parts = PartNorms(task.named_parameters())
        self._flops = StepFlops(count_flops)
        # Now, while a GPU's memory holds no activations yet.
        self._able = roofline(device, precision) if count_flops else 0.0
        self._step_kind: set[str] = set()
        self._step_tokens = torch.zeros(())
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self._tokens: dict[frozenset[str], Tensor] = {}
        self._steps = self._samples = 0
        self._waited = 0.0
        self._since = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Count time in which the loop had no batch."""
        self._waited += seconds

    def counting(self) -> AbstractContextManager[None]:
        """Return the context in which a step computes losses and gradients: there, operations are counted."""
        return self._flops.counting()

    def batch(self, batch: Batch) -> None:
        """Count the samples and tokens of a batch of this rank, real text tokens and image tokens once each.

        A system that reads a picture in several passes or hides parts of it has as many tokens as any other.
        Where pictures have sizes of their own, the padded share of all pixels is a figure (`padding`).
        """
        self._samples += len(batch)
        tokens = torch.zeros(()) if batch.text_mask is None else batch.text_mask.sum()
        if batch.images is not None:
            pictures = batch.images.shape[:-3].numel()  # [B], or [B, 2] of statements about two pictures
            tokens = tokens + pictures * self._image_tokens
            if batch.image_sizes is not None:
                height, width = batch.images.shape[-2:]
                empty = waste(batch.image_sizes, height, width)
                self._add("padding", empty, float(pictures * height * width))
        self._step_tokens = self._step_tokens.to(tokens.device) + tokens

    def loss(self, loss: Loss, share: float) -> None:
        """Count one batch that makes up `share` of its step."""
        named = {"loss": loss.total}
        named |= {f"loss/{name}": value for name, value in loss.parts.items()}
        named |= {f"metric/{name}": value for name, value in loss.metrics.items()}
        self._step_kind |= loss.parts.keys()
        for name, value in named.items():
            self._add(name, value.detach(), share)

    def gradients(self, parameters: Sequence[nn.Parameter], norms: Tensor) -> None:
        """Count the norms [n] of the gradients of `parameters` (`total_norm` gives them)."""
        for name, value in zip(self._parts.names, self._parts.of(parameters, norms).unbind(), strict=True):
            self._add(f"grad_norm/{name}", value, 1.0)

    def task_gradients(self, norms: Mapping[str, Tensor]) -> None:
        """Count the norms of the gradients of what tasks add to the loss, by their labels."""
        for label, norm in norms.items():
            self._add(f"grad_norm/task/{label}", norm, 1.0)

    def step(self, grad_norm: Tensor) -> None:
        """Count one step, after its batches, losses and gradients."""
        self._steps += 1
        self._add("grad_norm", grad_norm.detach(), 1.0)
        kind, tokens = frozenset(self._step_kind), self._step_tokens
        self._flops.end_step(kind, tokens)
        self._tokens[kind] = self._tokens.get(kind, torch.zeros_like(tokens)) + tokens
        self._step_kind, self._step_tokens = set(), torch.zeros(())

    def _add(self, name: str, value: Tensor, weight: float) -> None:
        # A figure that a task computed on the host must not hold up the others.
        value = value.to(self._device, torch.float32) * weight
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def row(self) -> dict[str, Any]:
        """Return the figures of the steps since the last call, of all ranks, and start anew."""
        share = self._share()
        shares: list[Any] = [share]
        if self._world.size > 1:
            shares = [None] * self._world.size
            dist.all_gather_object(shares, share, group=self._world.group)
        self._task.model.reset_expert_load()
        self._clear()
        return joined(shares)

    def _share(self) -> Share:
        names = list(self._sums)
        # The one place where the host waits for the device; the clock is read after it.
        values = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        seconds = max(time.monotonic() - self._since, 1e-9)
        return Share(
            sums={name: (v, self._weights[name]) for name, v in zip(names, values, strict=True)},
            seconds=seconds,
            waited=self._waited,
            samples=self._samples,
            steps=self._steps,
            tokens=sum(float(tokens) for tokens in self._tokens.values()),
            flops=self._flops.of(self._tokens),
            peak_flops=self._able,
            memory_mb=peak_mb(self._device),
            experts={layer: load.tolist() for layer, load in self._task.model.expert_load().items()},
        )


def joined(shares: Sequence[Share]) -> dict[str, Any]:
    """Return the row that the ranks make together: means of losses, sums of rates, the largest memory."""
    row: dict[str, Any] = {}
    for name in dict.fromkeys(name for share in shares for name in share.sums):
        found = [share.sums[name] for share in shares if name in share.sums]
        weight = sum(weight for _, weight in found)
        row[name] = sum(value for value, _ in found) / weight if weight else 0.0
    row["samples_per_second"] = sum(share.samples / share.seconds for share in shares)
    row["tokens_per_second"] = sum(share.tokens / share.seconds for share in shares)
    row["steps_per_second"] = sum(share.steps / share.seconds for share in shares) / len(shares)
    row["data_wait"] = sum(share.waited / share.seconds for share in shares) / len(shares)
    row["memory_peak_mb"] = max(share.memory_mb for share in shares)
    if all(share.flops is not None for share in shares):
        row["flops_per_second"] = sum((share.flops or 0.0) / share.seconds for share in shares)
        able = sum(share.peak_flops for share in shares)
        row["flops_share"] = row["flops_per_second"] / able if able else 0.0
    experts = _expert_shares(shares)
    if experts:
        row["experts"] = experts
        row["experts/max_share"] = max(max(layer) for layer in experts.values())
    return row


def _expert_shares(shares: Sequence[Share]) -> dict[str, list[float]]:
    """Return layer -> share of the tokens whose first choice is each expert."""
    out = {}
    for layer in sorted({layer for share in shares for layer in share.experts}):
        counts = [sum(n) for n in zip(*(s.experts[layer] for s in shares if layer in s.experts), strict=True)]
        total = sum(counts)
        if total:
            out[str(layer)] = [round(count / total, 5) for count in counts]
    return out

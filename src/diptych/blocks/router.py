"""Choosing experts for tokens: top-2 (or top-1) gating with Gumbel noise, capacity and the balance loss.

Legend: T tokens, E experts, K choices of a token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.config.schema import Section


class RouterConfig(Section):
    """How tokens find their experts. The defaults are ours; `published()` is the original's behaviour."""

    modality: bool = Field(
        True, description="Add a learned image or text vector to what gate and experts read (type_route)."
    )
    choices: Literal[1, 2] = Field(
        2, description="Experts of a token. 1 weighs the expert with its gate (ours; published models use 2)."
    )
    noise: Literal["train", "always", "never"] = Field(
        "train", description="When Gumbel noise takes part in the second choice (published: always)."
    )
    drop_tokens: bool = Field(
        False,
        description="Drop choices beyond an expert's capacity (published); outputs then depend on the batch.",
    )
    capacity_factor: float = Field(
        1.0,
        gt=0,
        description="With `drop_tokens`, slots of an expert in training: tokens / experts * choices * this.",
    )
    eval_capacity_factor: float = Field(1.0, gt=0, description="The same in evaluation.")
    min_capacity: int = Field(4, ge=1, description="Slots that an expert has at least, with `drop_tokens`.")
    padding: Literal["exclude", "published"] = Field(
        "exclude", description="published: padding is routed, takes slots and counts in the balance loss."
    )
    balance: Literal["batch", "rank"] = Field(
        "batch",
        description="Whose tokens the balance loss is about: all ranks', or each rank's own (published).",
    )

    def published(self) -> "RouterConfig":
        """Return a copy with the behaviour of the published code."""
        return self.with_(choices=2, noise="always", drop_tokens=True, padding="published", balance="rank")


@dataclass(frozen=True)
class Routing:
    """Where each token goes."""

    experts: Tensor
    """[T, K] int64, first choice first."""
    weights: Tensor
    """[T, K] float32, zero at choices that are not kept."""
    kept: Tensor
    """[T, K] bool: within the expert's capacity and not excluded padding."""
    slots: Tensor | None
    """[T, K] int64: place in the expert's queue (before dropping); None without capacity."""
    capacity: int | None
    """Slots of each expert; None without capacity."""
    balance: Tensor
    """Balance loss (scalar float32); with several ranks this rank's share: their mean is the loss."""
    first_counts: Tensor
    """[E] int64: tokens whose first choice is the expert, before dropping."""


def gumbel(logits: Tensor) -> Tensor:
    """Draw Gumbel(0, 1) noise of the shape of `logits`."""
    tiny = torch.finfo(logits.dtype).tiny
    return -torch.empty_like(logits).exponential_().clamp_(min=tiny).log_()


class Router(nn.Module):
    """The gate: one weight row per expert, kept and computed in float32."""

    def __init__(self, width: int, experts: int, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.world: World = ALONE
        """The ranks whose tokens are balanced together."""
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.draw_noise: Callable[[Tensor], Tensor] = gumbel
        """Source of the noise; replaced where recorded noise has to be used."""

    def forward(self, tokens: Tensor, real: Tensor | None) -> Routing:
        """Route [T, D] tokens; `real` [T] bool is False at padding (None: every token takes part)."""
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(tokens.float(), self.weight.float())  # [T, E]
            gates = logits.softmax(-1)
        experts = self._choose(logits)
        with torch.no_grad():
            counted = torch.ones_like(experts[:, 0], dtype=torch.bool) if real is None else real
            first = F.one_hot(experts[:, 0], gates.shape[1]) * counted[:, None]
            first_counts = first.sum(0)
            slots, capacity, kept = self._place(experts, first, first_counts, counted)
        weights = gates.gather(1, experts) * kept
        if experts.shape[1] == 2:
            weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).eps)
        balance = self._balance((gates * counted[:, None]).sum(0), first_counts)
        return Routing(experts, weights, kept, slots, capacity, balance, first_counts)

    def _balance(self, gates: Tensor, first_counts: Tensor) -> Tensor:
        """Return the balance loss of sums of gates [E] and first choices [E].

        The loss is linear in the gates, so with the counts of all ranks (which have no gradient) each rank
        can weigh its own gates: nothing has to be exchanged in the backward pass.
        """
        world = self.world if self.config.balance == "batch" else ALONE
        counts = world.sum(first_counts)
        number = counts.sum().clamp(min=1)  # each token has one first choice
        return len(gates) * ((gates / (number / world.size)) * (counts / number)).sum()

    def _choose(self, logits: Tensor) -> Tensor:
        """Return [T, K] experts: the best one, then the best other one of the noisy logits."""
        logits = logits.detach()
        first = logits.argmax(1, keepdim=True)
        if self.config.choices == 1:
            return first
        noise = self.config.noise
        if noise == "always" or (noise == "train" and self.training):
            logits = logits + self.draw_noise(logits)
        second = logits.scatter(1, first, float("-inf")).argmax(1, keepdim=True)
        return torch.cat([first, second], 1)

    def _place(
        self, experts: Tensor, first: Tensor, first_counts: Tensor, counted: Tensor
    ) -> tuple[Tensor | None, int | None, Tensor]:
        """Return slots, capacity and which choices are kept.

        First choices queue in token order; second choices behind all first choices, dropped ones included.
        """
        kept = counted[:, None].expand_as(experts)
        if not self.config.drop_tokens:
            return None, None, kept
        number = experts.shape[0] if self.config.padding == "published" else int(counted.sum())
        capacity = self.capacity(number)
        places = [first.cumsum(0).gather(1, experts[:, :1]) - 1]
        if experts.shape[1] == 2:
            second = F.one_hot(experts[:, 1], first.shape[1]) * counted[:, None]
            places.append((second.cumsum(0) - 1 + first_counts).gather(1, experts[:, 1:]))
        slots = torch.cat(places, 1)
        return slots, capacity, kept & (slots < capacity)

    def capacity(self, tokens: int) -> int:
        """Return the slots of each expert for that many tokens, in the current mode."""
        config = self.config
        factor = config.capacity_factor if self.training else config.eval_capacity_factor
        share = tokens / self.weight.shape[0] * (config.choices * factor)
        return max(config.min_capacity, math.ceil(share))

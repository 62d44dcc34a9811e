"""Linear maps whose weights are mixed of experts, by what a part of a sequence is.

Legend: S segments of a sequence, E experts, D width of the gate, B batch, L positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.systems.uniperceiver.config import ATTRIBUTES, ConditionalConfig


@dataclass(frozen=True)
class Decision:
    """Which experts the segments of a sequence take."""

    experts: Tensor
    """[top, S] int64"""
    weights: Tensor
    """[top, S] float32, each column adds up to 1."""


class Gate(nn.Module):
    """Chooses experts from attributes; in training with noise."""

    def __init__(self, width: int, config: ConditionalConfig) -> None:
        super().__init__()
        self.config = config
        self.tag = nn.Linear(ATTRIBUTES, width)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.empty(config.experts, width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, attributes: Tensor, noise: Tensor | None = None) -> Decision:
        """Decide for attributes [S, 8]; `noise` [S, E] takes the place of what is drawn in training."""
        with torch.autocast(attributes.device.type, enabled=False):
            logits = F.linear(self.norm(self.tag(attributes.float())), self.weight)
            if noise is None and self.training and self.config.noise:
                noise = torch.randn_like(logits) * (self.config.noise / self.config.experts)
            if noise is not None:
                logits = logits + noise
            shares = logits.softmax(1)
            experts = logits.topk(self.config.top, dim=1).indices.t()
            chosen = shares.gather(1, experts.t()).t()
            total = chosen.sum(0).clamp(min=torch.finfo(torch.float32).eps)
        return Decision(experts, chosen / total)


class ConditionalLinear(nn.Module):
    """A linear map for each segment of a sequence, mixed of experts in the space of weights."""

    def __init__(self, inputs: int, outputs: int, width: int, config: ConditionalConfig) -> None:
        super().__init__()
        self.gate = Gate(width, config)
        self.weight = nn.Parameter(torch.empty(config.experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(config.experts, outputs))
        for expert in self.weight:
            nn.init.xavier_uniform_(expert)

    def merged(self, decision: Decision, segment: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return weight [outputs, inputs] and bias [outputs] of a segment, or some rows of them."""
        experts, shares = decision.experts[:, segment], decision.weights[:, segment]
        weight = torch.einsum("k,koi->oi", shares, self.weight[experts, part])
        return weight, torch.einsum("k,ko->o", shares, self.bias[experts, part])

    def forward(
        self, x: Tensor, lengths: Sequence[int], decision: Decision, part: slice = slice(None)
    ) -> Tensor:
        """Map [B, L, inputs]; `lengths` of the segments add up to L. `part`: only these outputs."""
        pieces = x.split(list(lengths), 1)  # type: ignore[no-untyped-call]
        made = [
            F.linear(piece, *self.merged(decision, i, part))
            for i, piece in enumerate(pieces)
            if piece.shape[1]
        ]
        return made[0] if len(made) == 1 else torch.cat(made, 1)

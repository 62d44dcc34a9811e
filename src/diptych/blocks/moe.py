"""Mixture of experts over image and text tokens: sorted by expert, matrix products expert by expert.

Legend: B batch, S sequence (image tokens first), D width, H hidden, T = B * S tokens, E experts, K choices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.blocks.activations import Activation
from diptych.blocks.grouped import Rows, Weights, apply_experts
from diptych.blocks.router import Router, RouterConfig
from diptych.blocks.spare import SpareMemory

Apply = Callable[[Tensor, list[int]], Tensor]
"""Rows [N, D] sorted by expert and the number of rows of each -> rows [N, D]."""


class Experts(nn.Module):
    """E two-layer perceptrons whose weights are stored stacked (or this rank's share of them)."""

    def __init__(self, experts: int, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1_weight = nn.Parameter(torch.empty(experts, hidden, width))
        self.fc1_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.fc2_weight = nn.Parameter(torch.empty(experts, width, hidden))
        self.fc2_bias = nn.Parameter(torch.zeros(experts, width))
        self.activation: Activation = activation
        self.spare = (SpareMemory(), SpareMemory())
        self.elsewhere: Callable[[Apply, Tensor, list[int]], Tensor] | None = None
        """Brings rows to the ranks that hold their experts, and back (`expert_parallel`)."""

    def forward(self, x: Tensor, counts: list[int], tokens: Tensor, shares: Tensor) -> Tensor:
        """Return the weighted sum of what the chosen experts make of each token.

        Args:
            x: [T, D].
            counts: choices of each expert that are kept, N together.
            tokens: [N] int64, whose choice each is; those of expert 0 first.
            shares: [N] float32, their weights.
        """
        if self.elsewhere is None:
            return apply_experts(x, Rows(counts, tokens, shares), self._weights(), self.activation)
        served = self.elsewhere(self.apply_here, x.index_select(0, tokens), counts)
        return torch.zeros_like(x).index_add(0, tokens, (served * shares[:, None]).to(x.dtype))

    def apply_here(self, x: Tensor, counts: list[int]) -> Tensor:
        """Apply the experts that this rank holds to rows [N, D] sorted by expert."""
        return apply_experts(x, Rows(counts), self._weights(), self.activation)

    def _weights(self) -> Weights:
        return Weights(self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias, self.spare)


@dataclass(frozen=True)
class Mixed:
    """Output of a mixture layer."""

    output: Tensor
    """[B, S, D]; zero where no choice of a token was kept."""
    balance: Tensor
    """Balance loss of this call (scalar float32); with several ranks this rank's share of their mean."""
    first_counts: Tensor
    """[E] int64: first choices per expert, before dropping."""


class Mixture(nn.Module):
    """The MoE layer of EVE. The modality vectors reach the experts too, not only the gate, as published."""

    def __init__(
        self, width: int, hidden: int, experts: int, activation: Activation, config: RouterConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.router = Router(width, experts, config)
        self.experts = Experts(experts, width, hidden, activation)
        self.image_type = nn.Parameter(torch.zeros(width)) if config.modality else None
        self.text_type = nn.Parameter(torch.zeros(width)) if config.modality else None
        self.served: Tensor | None = None
        """[2, E] int64: first choices of image and text tokens in eval mode since `reset`; None: none yet."""
        self.load: Tensor | None = None
        """[E] int64: first choices of this rank's tokens in training since `reset_load`; None: none yet."""

    def forward(self, x: Tensor, visual: int, mask: Tensor | None) -> Mixed:
        """Send every token to its experts.

        Args:
            x: [B, S, D], already normalised.
            visual: the first `visual` positions are image tokens, the rest text.
            mask: [B, S] bool, False at padding; None where there is none.
        """
        B, S, D = x.shape
        if self.image_type is not None and self.text_type is not None:
            x = x + _by_position(self.image_type, self.text_type, visual, S)
        tokens = x.reshape(B * S, D)
        real = None if mask is None or self.config.padding == "published" else mask.reshape(B * S)
        routing = self.router(tokens, real)
        if not self.training:
            self._record(routing.experts[:, 0].view(B, S), visual, mask)
        elif torch._C._current_graph_task_id() == -1:  # not in a backward pass, which may compute this again
            counts = routing.first_counts
            self.load = counts if self.load is None else self.load + counts

        # Choices in one row [T * K]; those that are not kept sort behind the last expert and fall off.
        E, K = self.router.weight.shape[0], routing.experts.shape[1]
        flat = torch.where(routing.kept, routing.experts, E).reshape(-1)
        rows_of = torch.bincount(flat, minlength=E + 1)[:E].tolist()
        order = flat.argsort(stable=True)[: sum(rows_of)]
        shares = routing.weights.reshape(-1).index_select(0, order)
        output = self.experts(tokens, rows_of, order // K, shares)
        return Mixed(output.view(B, S, D), routing.balance, routing.first_counts)

    @torch.no_grad()
    def _record(self, first: Tensor, visual: int, mask: Tensor | None) -> None:
        E = self.router.weight.shape[0]
        kind = (torch.arange(first.shape[1], device=first.device) >= visual).long()
        cells = first + E * kind
        cells = cells.reshape(-1) if mask is None else cells[mask]
        counts = torch.bincount(cells, minlength=2 * E).view(2, E)
        self.served = counts if self.served is None else self.served + counts

    def reset(self) -> None:
        """Forget which experts served what in evaluation."""
        self.served = None

    def reset_load(self) -> None:
        """Forget how many tokens of training steps chose which expert."""
        self.load = None


def _by_position(image: Tensor, text: Tensor, visual: int, length: int) -> Tensor:
    """Return [S, D] (or [D] where all are equal): the vector of each position's modality."""
    if visual <= 0:
        return text
    if visual >= length:
        return image
    return torch.cat([image.expand(visual, -1), text.expand(length - visual, -1)])


def keep_eager(module: nn.Module) -> None:
    """Keep torch.compile out of the mixtures below `module`; call it before compiling what holds them.

    How many rows an expert gets is data, so a compiled mixture would be compiled again at every step. This
    way each one is a single break in the graph of its layer.
    """
    for part in module.modules():
        if isinstance(part, Mixture):
            eager = torch.compiler.disable(part.forward)  # type: ignore[no-untyped-call]
            part.forward = eager  # type: ignore[method-assign]

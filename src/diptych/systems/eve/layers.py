"""The multiway transformer layer: shared attention, and feed-forward networks by modality or by expert.

Legend: B batch, S sequence (image tokens first), D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.blocks.attention import SelfAttention
from diptych.blocks.drop_path import DropPath
from diptych.blocks.feedforward import FeedForward
from diptych.blocks.moe import Mixture
from diptych.systems.eve.config import EPS, EveConfig


@dataclass(frozen=True)
class Layout:
    """What the positions of a sequence hold."""

    visual: int
    """The first so many positions are image tokens, the rest text."""
    length: int
    mask: Tensor | None
    """[B, S] bool, False at padding; None where there is none."""

    @property
    def single(self) -> bool:
        """Whether the sequence holds one modality only."""
        return self.visual in (0, self.length)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=EPS)


def _network(config: EveConfig) -> FeedForward:
    return FeedForward(config.width, config.hidden, config.activation)


class FeedForwardSlot(nn.Module, ABC):
    """The feed-forward half of a layer, norm included; returns [B, S, D] and the balance loss, if any."""

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Apply to the residual stream [B, S, D]."""


class SeparateSlot(FeedForwardSlot):
    """One norm and network for image tokens, one for text tokens (the paper's hard router)."""

    def __init__(self, config: EveConfig) -> None:
        super().__init__()
        self.image_norm, self.image = _norm(config.width), _network(config)
        self.text_norm, self.text = _norm(config.width), _network(config)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Apply by position."""
        parts = []
        if layout.visual:
            parts.append(self.image(self.image_norm(x[:, : layout.visual])))
        if layout.visual < layout.length:
            parts.append(self.text(self.text_norm(x[:, layout.visual :])))
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)), None


class SharedSlot(FeedForwardSlot):
    """One norm and network for all tokens."""

    def __init__(self, config: EveConfig) -> None:
        super().__init__()
        self.shared_norm, self.shared = _norm(config.width), _network(config)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Apply to all tokens alike."""
        return self.shared(self.shared_norm(x)), None


class PairSlot(SeparateSlot):
    """Separate networks for passes of one modality, and a third one for all tokens of pairs."""

    def __init__(self, config: EveConfig) -> None:
        super().__init__(config)
        self.pair_norm, self.pair = _norm(config.width), _network(config)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Apply by the kind of pass."""
        if layout.single:
            return super().forward(x, layout)
        return self.pair(self.pair_norm(x)), None


class MixtureSlot(FeedForwardSlot):
    """A mixture of experts (the paper's soft router)."""

    def __init__(self, config: EveConfig) -> None:
        super().__init__()
        hidden = config.expert_hidden or config.hidden
        self.norm = _norm(config.width)
        self.moe = Mixture(config.width, hidden, config.experts, config.activation, config.router)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Route the tokens."""
        mixed = self.moe(self.norm(x), layout.visual, layout.mask)
        return mixed.output, mixed.balance


class LowerMixtureSlot(FeedForwardSlot):
    """A mixture in a lower layer; can reproduce the published code, which never tells it the kind of pass."""

    def __init__(self, config: EveConfig, image_tokens: int) -> None:
        super().__init__()
        router = config.router.with_(modality=config.lower_modality)
        hidden = config.expert_hidden or config.hidden
        self.lower_norm = _norm(config.width)
        self.lower_moe = Mixture(config.width, hidden, config.lower_experts, config.activation, router)
        self.pretended = image_tokens if config.lower_ignores_mode else None

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Route the tokens."""
        visual = layout.visual
        if self.pretended is not None and visual == 0:
            visual = min(self.pretended, layout.length)
        mixed = self.lower_moe(self.lower_norm(x), visual, layout.mask)
        return mixed.output, mixed.balance


class MultiwayLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with layer scale and stochastic depth."""

    def __init__(self, config: EveConfig, ffn: FeedForwardSlot, drop_path: float) -> None:
        super().__init__()
        self.norm = _norm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.ffn = ffn
        self.attention_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.ffn_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Return the new residual stream [B, S, D] and the balance loss, if the layer has experts."""
        x = x + self.drop_path(self.attention_scale * self.attention(self.norm(x), layout.mask))
        out, balance = self.ffn(x, layout)
        return x + self.drop_path(self.ffn_scale * out), balance


def build_slot(config: EveConfig, index: int, image_tokens: int) -> FeedForwardSlot:
    """Build the feed-forward half of layer `index`; `image_tokens` counts the class token too."""
    if index in config.moe_layers:
        return MixtureSlot(config) if config.upper_ffn == "moe" else PairSlot(config)
    if config.lower_ffn == "separate":
        return SeparateSlot(config)
    return SharedSlot(config) if config.lower_ffn == "shared" else LowerMixtureSlot(config, image_tokens)

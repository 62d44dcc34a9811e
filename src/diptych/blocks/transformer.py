"""The plain pre-norm transformer layer. Legend: B batch, S sequence, D width."""

import torch
from torch import Tensor, nn

from diptych.blocks.activations import Activation
from diptych.blocks.attention import SelfAttention
from diptych.blocks.drop_path import DropPath
from diptych.blocks.feedforward import FeedForward


class TransformerLayer(nn.Module):
    """Attention and feed-forward with pre-norm, layer scale and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        activation: Activation,
        *,
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, heads)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.ffn = FeedForward(width, hidden, activation)
        self.attention_scale = nn.Parameter(torch.full((width,), layer_scale))
        self.ffn_scale = nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the new residual stream [B, S, D]; `mask` as in `SelfAttention`."""
        x = x + self.drop_path(self.attention_scale * self.attention(self.norm(x), mask))
        out: Tensor = x + self.drop_path(self.ffn_scale * self.ffn(self.ffn_norm(x)))
        return out

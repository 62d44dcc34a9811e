"""Bidirectional self-attention. Legend: B batch, S sequence, D width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_UP_TO = 1024
"""Training in bfloat16 on a CPU keeps the scores of sequences up to this length: torch's attention, which
does not keep them, takes twice as long there."""


class SelfAttention(nn.Module):
    """Multi-head attention whose queries and values have a bias and whose keys have none (BEiT's form).

    A key bias would shift all scores of a query alike and so change nothing. Masked keys are not attended to;
    every position asks, so padded positions return ordinary values that nobody should read.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within [B, S, D].

        Args:
            x: the states.
            mask: [B, S] bool, True at keys that may be read; or [B, S, S], True where query i may read key j
                (packed texts); None: all may be read.
        """
        B, S, D = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).view(B, S, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, S, head]
        if mask is not None:
            mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
        plain = torch.is_grad_enabled() and q.dtype == torch.bfloat16 and q.device.type == "cpu"
        if plain and S <= PLAIN_UP_TO:
            y = _attend(q, k, v, mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, S, D))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with plain products and no casts; q, k, v [B, heads, S, head], mask as torch wants it.

    A query that may read nothing reads everything alike.
    """
    B, heads, S, head = q.shape
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = ((q * head**-0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        if mask is None:
            scores = torch.bmm(q, k.transpose(1, 2))
        else:
            never = torch.finfo(q.dtype).min
            bias = q.new_zeros(mask.shape).masked_fill(~mask, never)
            bias = bias.expand(B, heads, -1, S).reshape(B * heads, -1, S)
            scores = torch.baddbmm(bias, q, k.transpose(1, 2))
        return torch.bmm(scores.softmax(-1), v).view(B, heads, S, head)

"""Scores of texts and videos that were read together, and which pairs are worth reading (SNP-S3).

Legend: B texts of this rank (text i belongs to video `start` + i), N videos of all ranks, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn


class PairScorer(nn.Module):
    """How well a text and a video belong together, from the first token of both read together."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, 2 * width)
        self.score = nn.Linear(2 * width, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn [..., D] into [...] float32."""
        found: Tensor = self.score(torch.relu(self.hidden(self.dropout(pooled)))).squeeze(-1)
        return found.float()


def mine_hard(first: Tensor, rule: Literal["top_k", "nearliest"], start: int = 0) -> Tensor:
    """Return which videos each text is compared with, [B, B] int64; the i-th of row i is its own.

    A text's own video comes last in the choice, and then takes the i-th place as well: it may be there twice,
    and the video that was chosen for that place is left out (published).

    Args:
        first: [B, N] scores of the first level (text, video).
        rule: `top_k`: videos by falling score; `nearliest`: by how near their scores are to that of the
            text's own video.
        start: number of the first text's own video.
    """
    numbers = torch.arange(len(first), device=first.device)[:, None]
    own = numbers + start
    order = -(first - first.gather(1, own)).abs() if rule == "nearliest" else first
    last = torch.zeros_like(first, dtype=torch.bool).scatter(1, own, True)
    chosen = order.masked_fill(last, float("-inf")).topk(len(first), dim=1).indices
    return chosen.scatter(1, numbers, own)


def hard_weights(first: Tensor, offset: float = 0.0) -> Tensor:
    """Return the weight of each pair [B]: less for those that the first level finds easy.

    Of pairs whose score d is above the mean of all it is (mean - least) / (d - least), at least 0.2. The
    published name of the rule is `median`.

    Args:
        first: [B, B] scores of the first level (text, video).
        offset: added to all scores, which only rounds them. The published code has taken 100 from them by
            then, with `top_k`: weights differ in the fifth digit.
    """
    own = first.diagonal().detach() + offset
    mean, least = own.mean(), own.min()
    easy = ((mean - least) / (own - least).clamp(min=1e-12)).clamp(min=0.2)
    return torch.where(own > mean, easy, torch.ones_like(own))

"""Heads that judge a statement from two passes, one with each picture (NLVR2).

Legend: B statements, S sequence (image tokens, then text tokens), D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.objectives.answers import draw_head

CLASSES = 2
"""Class 1: the statement is true."""


class PairedAttentionHead(nn.Module):
    """Each pass attends to the other, is joined with what it found, and pooled; both together are classified.

    Joining and pooling share their weights between the passes, the two attentions do not.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.first_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.second_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.joint = nn.Linear(2 * width, width)
        self.pool = nn.Linear(width, 1)
        self.classifier = nn.Linear(2 * width, CLASSES)
        self.dropout = nn.Dropout(dropout)
        draw_head(self.classifier)

    def forward(self, first: Tensor, second: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        """Turn the normalised states [B, S, D] of both passes into logits [B, 2] float32.

        Args:
            first: of the pass with the first picture.
            second: of the pass with the second one.
            masks: [B, S] bool of each, True at real tokens.
        """
        first_mask, second_mask = masks
        of_second, _ = self.first_attention(
            first, second, second, key_padding_mask=~second_mask, need_weights=False
        )
        of_first, _ = self.second_attention(
            second, first, first, key_padding_mask=~first_mask, need_weights=False
        )
        pooled = [self._pooled(of_second, first, first_mask), self._pooled(of_first, second, second_mask)]
        logits: Tensor = self.classifier(torch.cat(pooled, 1))
        return logits.float()

    def _pooled(self, found: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D]: a weighted mean over the real tokens."""
        joined = self.dropout(F.relu(self.joint(torch.cat([found, states], -1))))
        scores = F.relu(self.pool(joined))[..., 0].float().masked_fill(~mask, float("-inf"))
        weights = self.dropout(scores.softmax(1)).to(joined.dtype)
        pooled: Tensor = (weights[:, None] @ joined)[:, 0]
        return pooled

"""Masked language modelling: say which words are hidden.

Legend: M hidden tokens of a batch, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World


class MaskedTextHead(nn.Module):
    """Turns hidden tokens into scores of words; the model's word table is the last layer's weight."""

    def __init__(self, width: int, vocab_size: int) -> None:
        """Create the transform (linear, GELU, norm) and one bias a word."""
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=0.7 / width**0.5)
        nn.init.zeros_(self.dense.bias)

    def forward(self, tokens: Tensor, words: Tensor) -> Tensor:
        """Score tokens [M, D] against the word table [V, D]; [M, V] float32."""
        y = self.norm(F.gelu(self.dense(tokens)))
        return F.linear(y, words).float() + self.bias


def mlm_loss(logits: Tensor, targets: Tensor, world: World = ALONE) -> Tensor:
    """Return the mean cross-entropy (nats) of scores [M, V] against ids [M] int64; 0 without any.

    With several ranks: this rank's share of the mean over the hidden tokens of all (`World.mean`).
    """
    return world.mean(F.cross_entropy(logits, targets, reduction="sum"), len(targets))


def mlm_accuracy(logits: Tensor, targets: Tensor, world: World = ALONE) -> Tensor:
    """Return the share of hidden tokens whose best word is right (scalar, no gradient); as `mlm_loss`."""
    right = logits.detach().argmax(1) == targets
    return world.mean(right.float().sum(), len(targets))

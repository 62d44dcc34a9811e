"""Masked visual modelling of SOHO: say which entry of the visual dictionary a hidden image token had.

Legend: M hidden tokens of a batch, D width, K entries.
"""

import torch.nn.functional as F
from torch import Tensor

from diptych.blocks.collective import ALONE, World


def word_scores(tokens: Tensor, codes: Tensor) -> Tensor:
    """Return the cosine of tokens [M, D] and dictionary entries [K, D]; [M, K] float32.

    The entries get no gradient, and those that are zero score 0. There is no temperature, so the loss stays
    above ln(1 + (K - 1) / e^2) (published).
    """
    return F.normalize(tokens.float(), dim=1) @ F.normalize(codes.detach().float(), dim=1).t()


def mvm_loss(scores: Tensor, words: Tensor, world: World = ALONE) -> Tensor:
    """Return the mean cross-entropy (nats) of scores [M, K] against entries [M] int64; 0 without any.

    With several ranks: this rank's share of the mean over the hidden tokens of all (`World.mean`).
    """
    return world.mean(F.cross_entropy(scores, words, reduction="sum"), len(words))


def mvm_accuracy(scores: Tensor, words: Tensor, world: World = ALONE) -> Tensor:
    """Return the share of hidden tokens whose best entry is right (scalar, no gradient); as `mvm_loss`."""
    right = scores.detach().argmax(1) == words
    return world.mean(right.float().sum(), len(words))

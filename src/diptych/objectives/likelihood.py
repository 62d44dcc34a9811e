"""Losses of the likelihood of targets (Uni-Perceiver). Legend: B inputs, C targets."""

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0, ignored: int = -1) -> Tensor:
    """Return the mean over the labelled rows of logits [B, C] of (1 - s) nll + s (mean of -log p)."""
    asked = labels != ignored
    both = labelled_loss(logits, labels, smoothing)
    return both.masked_fill(~asked, 0.0).sum() / asked.sum().clamp(min=1)


def labelled_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return (1 - s) nll + s (mean of -log p) of each row of logits [B, C]; labels below 0 count as 0. [B]"""
    logs = logits.float().log_softmax(-1)
    right = -logs.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return (1 - smoothing) * right - smoothing * logs.mean(-1)


def soft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [B, C] and shares [B, C] (mixed pictures)."""
    return -(targets.float() * logits.float().log_softmax(-1)).sum(-1).mean()


def paired_losses(logits: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the losses of N x N logits of pairs, both ways (the i-th belong together)."""
    labels = torch.arange(len(logits), device=logits.device)
    return smoothed_loss(logits, labels, smoothing), smoothed_loss(logits.t(), labels, smoothing)


def average_views(logits: Tensor, views: int) -> Tensor:
    """Return probabilities [B / views, C]: means over the consecutive views of a clip."""
    return F.softmax(logits.float(), -1).view(-1, views, logits.shape[-1]).mean(1)

"""Objectives of classifying fused tokens: answers to questions, statements that are true or not.

B samples, C classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World


class AnswerHead(nn.Module):
    """Two-layer classifier: linear, LayerNorm, GELU, linear."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, classes)
        draw_head(self.hidden, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, inputs] into logits [B, C] float32."""
        logits: Tensor = self.classifier(F.gelu(self.norm(self.hidden(x))))
        return logits.float()


class LinearAnswerHead(nn.Module):
    """One linear layer, as SNP-S3 has it."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, inputs] into logits [B, C] float32."""
        logits: Tensor = self.classifier(x)
        return logits.float()


def draw_head(*layers: nn.Linear) -> None:
    """Fill layers of a head in place as published: weights normal of std 0.02, biases 0."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def answer_loss(logits: Tensor, targets: Tensor, counted: Tensor, world: World = ALONE) -> Tensor:
    """Return the binary cross-entropy summed over classes, as a mean over the counted samples (scalar).

    That is the published loss: its mean over samples and classes, times the number of classes. With several
    ranks: this rank's share of the mean over all (`World.mean`).

    Args:
        logits: [B, C].
        targets: [B, C] scores 0 to 1.
        counted: [B] bool.
        world: the ranks.
    """
    terms = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").sum(1)
    return world.mean(terms.masked_fill(~counted, 0.0).sum(), counted.sum())


def competing_answer_loss(logits: Tensor, targets: Tensor, counted: Tensor, world: World = ALONE) -> Tensor:
    """Return the cross-entropy of targets that are scaled to add up to 1, as a mean over the counted samples.

    Args and sharing as `answer_loss`.
    """
    shares = targets.float() / targets.float().sum(1, keepdim=True).clamp(min=1e-6)
    terms = -(shares * logits.float().log_softmax(1)).sum(1)
    return world.mean(terms.masked_fill(~counted, 0.0).sum(), counted.sum())


def class_loss(logits: Tensor, labels: Tensor, world: World = ALONE) -> Tensor:
    """Return the mean cross-entropy of logits [B, C] and labels [B] int64 (scalar); as `answer_loss`."""
    return world.mean(F.cross_entropy(logits.float(), labels, reduction="sum"), len(labels))


class DropoutAnswerHead(nn.Module):
    """Two-layer classifier as SOHO has it: linear, ReLU, dropout, linear."""

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)
        for layer in (self.hidden, self.classifier):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, inputs] into logits [B, C] float32."""
        logits: Tensor = self.classifier(self.dropout(F.relu(self.hidden(x))))
        return logits.float()

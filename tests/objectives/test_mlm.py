"""Masked language modelling."""

import math

import pytest
import torch

from diptych.objectives.mlm import MaskedTextHead, mlm_accuracy, mlm_loss


def test_loss_and_accuracy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(2.0)], [math.log(3.0), 0.0, 0.0]])
    targets = torch.tensor([2, 1])
    # First: 2 / (1 + 1 + 2). Second: 1 / (3 + 1 + 1).
    assert mlm_loss(logits, targets).item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert mlm_accuracy(logits, targets).item() == 0.5


def test_nothing_hidden_is_no_loss_but_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = mlm_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert mlm_accuracy(logits, torch.zeros(0, dtype=torch.long)).item() == 0.0


def test_head_scores_against_the_word_table() -> None:
    torch.manual_seed(0)
    head, words, tokens = MaskedTextHead(6, 9), torch.randn(9, 6), torch.randn(4, 6)
    scores = head(tokens, words)
    assert scores.shape == (4, 9)
    swapped = head(tokens, words[[1, 0, *range(2, 9)]])
    torch.testing.assert_close(swapped[:, [1, 0]], scores[:, :2])
    head.bias.data[3] = 5.0
    torch.testing.assert_close(head(tokens, words)[:, 3], scores[:, 3] + 5.0)


def test_head_and_table_both_learn() -> None:
    torch.manual_seed(0)
    head, words = MaskedTextHead(6, 9), torch.randn(9, 6, requires_grad=True)
    mlm_loss(head(torch.randn(4, 6), words), torch.tensor([0, 1, 2, 3])).backward()
    for parameter in [*head.parameters(), words]:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0

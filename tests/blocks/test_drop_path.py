"""Stochastic depth that leaves out the work for dropped samples, beside the plain one."""

import pytest
import torch
from torch import Tensor, nn

from diptych.blocks.drop_path import DropPath


class Branch(nn.Module):
    """A layer that notes how many samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, N, 4]."""
        self.seen.append(len(x))
        out: Tensor = self.layer(x).tanh()
        return out


def gradients(x: Tensor, branch: Branch, drop: DropPath, seed: int, *, plain: bool) -> list[Tensor]:
    """Return the output and the gradients of the input and the parameters, by either form."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    branch.zero_grad(set_to_none=True)
    out = x + drop(branch(x)) if plain else drop.add(x, branch)
    out.square().sum().backward()
    found = [x.grad, branch.layer.weight.grad, branch.layer.bias.grad]
    assert all(grad is not None for grad in found)
    return [out.detach(), *(grad for grad in found if grad is not None)]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_same_samples_are_dropped_as_by_the_plain_form(rate: float, batch: int) -> None:
    torch.manual_seed(0)
    x, branch, drop = torch.randn(batch, 3, 4), Branch(), DropPath(rate).train()
    for seed in range(12):
        expected = gradients(x, branch, drop, seed, plain=True)
        found = gradients(x, branch, drop, seed, plain=False)
        torch.testing.assert_close(found, expected)


def test_the_branch_sees_the_kept_samples_and_at_least_one() -> None:
    x, branch, drop = torch.randn(4, 3, 4), Branch(), DropPath(0.5).train()
    kept = set()
    for seed in range(120):
        torch.manual_seed(seed)
        count = int(torch.empty(4).bernoulli_(0.5).sum())
        torch.manual_seed(seed)
        out = drop.add(x, branch)
        assert branch.seen.pop() == max(count, 1)
        assert int((out != x).flatten(1).any(1).sum()) == count
        kept.add(count)
    assert kept == {0, 1, 2, 3, 4}


def test_nothing_is_dropped_in_evaluation() -> None:
    x, branch, drop = torch.randn(4, 3, 4), Branch(), DropPath(0.9).eval()
    torch.testing.assert_close(drop.add(x, branch), x + branch(x))
    assert branch.seen == [4, 4]


def test_a_draw_that_keeps_nothing_still_gives_the_branch_gradients_of_zero() -> None:
    x, branch, drop = torch.randn(2, 3, 4), Branch(), DropPath(0.999).train()
    out, to_x, *to_parameters = gradients(x, branch, drop, 0, plain=False)
    assert torch.equal(out, x)
    torch.testing.assert_close(to_x, 2 * x)
    assert not any(grad.any() for grad in to_parameters)

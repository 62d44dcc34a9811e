"""Experts spread over ranks give what one process gives on the joined batch."""

from typing import Any

import pytest
import torch
from tests.ranks import run_ranks
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World, set_world
from diptych.blocks.expert_parallel import ExpertGroup, _by_expert, shard_experts
from diptych.blocks.moe import Mixture
from diptych.blocks.router import RouterConfig
from diptych.errors import ConfigError

pytestmark = pytest.mark.slow

WIDTH, EXPERTS = 6, 4
ROWS = {2: (3, 2), 4: (1, 2, 0, 2)}
"""Samples of each rank, by the number of ranks; together always five."""


class Net(nn.Module):
    """Two mixtures with something ordinary between them."""

    def __init__(self) -> None:
        super().__init__()
        config = RouterConfig(noise="never")
        self.first = Mixture(WIDTH, 10, EXPERTS, "gelu", config)
        self.between = nn.Linear(WIDTH, WIDTH)
        self.second = Mixture(WIDTH, 8, EXPERTS, "relu", config)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x, 2, mask)
        second = self.second(x + self.between(first.output), 2, mask)
        return second.output, first.balance + second.balance


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs [5, 4, D], their mask and targets."""
    generator = torch.Generator().manual_seed(step)
    mask = torch.rand(5, 4, generator=generator) > 0.2
    x, y = torch.randn(2, 5, 4, WIDTH, generator=generator)
    return x, mask, y


def train(world: World, ranks: int, dtype: str = "fp32", steps: int = 3) -> dict[str, Any]:
    """Train on this rank's part of each batch; return outputs, gradients and weights, experts whole."""
    net = Net()
    set_world(net, world)
    group = shard_experts(net, world, ranks)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    sizes = ROWS[world.size] if world.size > 1 else (5,)
    rows = slice(sum(sizes[: world.rank]), sum(sizes[: world.rank + 1]))
    kept: dict[str, Any] = {"outputs": [], "losses": [], "norms": [], "grads": {}}
    for step in range(steps):
        x, mask, y = (part[rows] for part in batch(step))
        x.requires_grad_()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            output, balance = net(x, mask)
        error = ((output.float() - y).square().sum(-1) * mask).sum()
        loss = world.mean(error, mask.sum()) + 0.1 * balance
        loss.backward()
        reduce(net, group, world)
        if step == 0:
            found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
            kept["grads"] = whole(group, found) | {"x": x.grad / world.size}
        kept["outputs"].append(output.detach())
        kept["losses"].append(loss.detach())
        kept["norms"].append(norm(net, group))
        optimizer.step()
    kept["weights"] = whole(group, dict(net.state_dict()))
    return kept


def reduce(net: Net, group: ExpertGroup, world: World) -> None:
    group.reduce_gradients()
    for name, parameter in net.named_parameters():
        if name not in group.parameters and parameter.grad is not None:
            parameter.grad = world.sum(parameter.grad) / world.size


def norm(net: Net, group: ExpertGroup) -> float:
    squares = group.norm_squares()
    for name, parameter in net.named_parameters():
        if name not in group.parameters and parameter.grad is not None:
            squares[name] = parameter.grad.square().sum()
    return float(sum(squares.values())) ** 0.5


def whole(group: ExpertGroup, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from torch.distributed.tensor import DTensor

    return {
        name: tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.detach().clone()
        for name, tensor in group.as_dtensors(tensors).items()
    }


@pytest.mark.parametrize(("size", "ranks"), [(2, 2), (4, 2), (2, 1)])
def test_spread_experts_train_like_one_process(size: int, ranks: int) -> None:
    alone = train(ALONE, 1)
    spread = run_ranks(train, ranks, ranks=size)
    for step in range(3):
        joined = torch.cat([rank["outputs"][step] for rank in spread])
        torch.testing.assert_close(joined, alone["outputs"][step], atol=2e-5, rtol=1e-5)
        loss = torch.stack([rank["losses"][step] for rank in spread]).mean()
        torch.testing.assert_close(loss, alone["losses"][step], atol=1e-6, rtol=1e-5)
        assert [rank["norms"][step] for rank in spread] == pytest.approx([alone["norms"][step]] * size, 1e-5)
    inputs = torch.cat([rank["grads"].pop("x") for rank in spread])
    torch.testing.assert_close(inputs, alone["grads"].pop("x"), atol=1e-6, rtol=1e-5)
    for rank in spread:
        torch.testing.assert_close(rank["grads"], alone["grads"], atol=1e-6, rtol=1e-5)
        # AdamW turns gradients near 0 into whole steps, so the weights agree less closely than gradients.
        torch.testing.assert_close(rank["weights"], alone["weights"], atol=1e-4, rtol=0)


def test_bfloat16_rows_travel() -> None:
    alone = train(ALONE, 1, "bf16", 1)
    spread = run_ranks(train, 2, "bf16", 1)
    joined = torch.cat([rank["outputs"][0] for rank in spread])
    torch.testing.assert_close(joined.float(), alone["outputs"][0].float(), atol=0.05, rtol=0.02)


def test_order_of_arriving_rows() -> None:
    # Sender 0 has 2 rows for expert 0 and 1 for expert 1; sender 1 has 0, and 2.
    assert _by_expert(torch.tensor([[2, 1], [0, 2]])).tolist() == [0, 1, 2, 3, 4]
    assert _by_expert(torch.tensor([[1, 2], [2, 1]])).tolist() == [0, 3, 4, 1, 2, 5]
    assert _by_expert(torch.zeros(2, 2, dtype=torch.int64)).tolist() == []


def test_one_rank_spreads_nothing() -> None:
    net = Net()
    before = dict(net.named_parameters())
    group = shard_experts(net, ALONE, 1)
    assert dict(net.named_parameters()) == before
    assert group.parameters == {}
    assert group.norm_squares() == {}
    assert group.as_dtensors(before) == before
    assert group.local(before) == before
    group.reduce_gradients()


@pytest.mark.parametrize(
    ("net", "size", "ranks", "message"),
    [
        (nn.Linear(2, 2), 2, 2, "no mixture of experts"),
        (Net(), 6, 4, r"does not divide the 6 processes of the run; expected one of \[1, 2, 3, 6\]"),
        (Net(), 6, 3, r"does not divide the 4 experts of first; expected one of \[1, 2\]"),
    ],
)
def test_numbers_that_do_not_fit(net: nn.Module, size: int, ranks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shard_experts(net, World(0, size), ranks)

"""Batch norm over ranks is batch norm over the joined batch."""

import pytest
import torch
from tests.ranks import run_ranks
from torch import Tensor, nn

from diptych.blocks.batch_norm import BatchNorm
from diptych.blocks.collective import World

SIZES = (3, 0, 1)
"""Pictures of each rank."""


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, probe = torch.randn(2, sum(SIZES), 5, 4, 3, generator=generator)
    return 50 + 0.1 * x, probe  # a large mean, where a difference of squares would lose the variance


def prepared(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    norm.bias.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    return norm


def normalise(norm: nn.BatchNorm2d, rows: slice) -> dict[str, Tensor]:
    """Run two steps; the gradients are those of the mean over ranks of a sum."""
    everything, probe = inputs()
    x = everything[rows].requires_grad_()
    y = norm(x)
    ((y.square() + y) * probe[rows]).sum().backward()
    norm(x.detach() * 2)
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    return found | {name: buffer.float() for name, buffer in norm.named_buffers()}


def on_a_rank(world: World) -> dict[str, Tensor]:
    norm = prepared(BatchNorm(5))
    norm.world = world
    start = sum(SIZES[: world.rank])
    found = normalise(norm, slice(start, start + SIZES[world.rank]))
    return found | {name: world.sum(found[name]) for name in ("weight", "bias")}


@pytest.mark.slow
def test_three_ranks_equal_one_process() -> None:
    plain = normalise(prepared(nn.BatchNorm2d(5)), slice(None))
    ranks = run_ranks(on_a_rank, ranks=3)
    for name, tolerance in {"y": 1e-4, "x": 5e-3}.items():  # gradients are of the order of 1 / 0.1
        joined = torch.cat([rank[name] for rank in ranks])
        torch.testing.assert_close(joined, plain[name], atol=tolerance, rtol=1e-4)
    for rank in ranks:
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(rank[name], plain[name], atol=1e-4, rtol=1e-4)
            assert torch.equal(rank[name], ranks[0][name])


def test_alone_it_is_torchs() -> None:
    ours, plain = (normalise(prepared(norm), slice(None)) for norm in (BatchNorm(5), nn.BatchNorm2d(5)))
    for name, expected in plain.items():
        assert torch.equal(ours[name], expected)
    norm = BatchNorm(5).eval()
    norm.world = World(0, 2)  # in evaluation nobody is asked
    assert torch.equal(norm(torch.ones(1, 5, 2, 2)), nn.BatchNorm2d(5).eval()(torch.ones(1, 5, 2, 2)))


def test_a_single_value_becomes_the_bias() -> None:
    """One small picture; shown four times it is what torch makes of four equal ones."""
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    ours, torchs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    torch.nn.init.normal_(ours.bias)
    torchs.load_state_dict(ours.state_dict())
    found = ours(x, 4)
    torch.testing.assert_close(found.flatten(), ours.bias)
    torch.testing.assert_close(torchs(x.repeat(4, 1, 1, 1))[:1], found, atol=1e-3, rtol=0)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, torchs.get_buffer(name))
    found.square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-3
    BatchNorm(3)(x)

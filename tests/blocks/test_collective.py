"""What ranks tell each other, on two processes and on one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.ranks import run_ranks
from torch import nn

from diptych.blocks.collective import ALONE, World, set_world


def rows_of(rank: int, sizes: list[int]) -> torch.Tensor:
    """Return the rows of a rank of the matrix 0, 1, 2, ... of three columns."""
    matrix = torch.arange(3.0 * sum(sizes)).view(-1, 3)
    start = sum(sizes[:rank])
    return matrix[start : start + sizes[rank]]


def everything(world: World) -> dict[str, Any]:
    """Run every operation once on a rank; return plain values."""
    found: dict[str, Any] = {"sizes": world.sizes(2 + world.rank, torch.device("cpu"))}
    one = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    kept = one.clone()
    found["sum"] = world.sum(one).tolist()
    found["max"] = world.max(torch.tensor([world.rank, -world.rank])).tolist()
    found["untouched"] = torch.equal(one, kept)
    for name, sizes in {"even": [2, 2], "uneven": [1, 3], "none": [0, 2]}.items():
        x = rows_of(world.rank, sizes).clone().requires_grad_()
        joined = world.gather(x, sizes if name == "even" else None)
        # The loss of rank r weighs everything by r + 1: all ranks' weights come back to the owner.
        ((world.rank + 1) * joined.square().sum()).backward()
        assert x.grad is not None
        found[name] = joined.tolist(), x.grad.tolist()
    ids = torch.tensor([2**60 + world.rank])
    found["ids"] = world.gather(ids).tolist()
    y = torch.tensor(3.0 + world.rank, requires_grad=True)
    ((world.rank + 2) * world.differentiable_sum(y)).backward()
    assert y.grad is not None
    found["summed"] = y.grad.item()
    # Rank 0 has 3 terms that sum to 6, rank 1 has 1 term of 4: the mean of all is 2.5.
    found["mean"] = world.mean(torch.tensor([6.0, 4.0][world.rank]), [3, 1][world.rank]).item()
    found["no terms"] = world.mean(torch.tensor(0.0), 0).item()
    return found


@pytest.mark.slow
def test_two_ranks() -> None:
    results = run_ranks(everything)
    for rank, found in enumerate(results):
        assert found["sizes"] == [2, 3]
        assert found["sum"] == [3.0, 30.0]
        assert found["max"] == [1, 0]
        assert found["untouched"]
        for name, sizes in {"even": [2, 2], "uneven": [1, 3], "none": [0, 2]}.items():
            joined, gradient = found[name]
            assert joined == torch.arange(3.0 * sum(sizes)).view(-1, 3).tolist()
            assert gradient == (2 * (1 + 2) * rows_of(rank, sizes)).tolist()
        assert found["ids"] == [2**60, 2**60 + 1]
        assert found["summed"] == 2 + 3
        assert found["no terms"] == 0
    assert sum(found["mean"] for found in results) / 2 == 2.5


def fails(world: World) -> None:
    """Fail on rank 1 while rank 0 would wait for it."""
    if world.rank == 1:
        raise ValueError("rank 1 cannot go on")
    world.sum(torch.ones(1))


@pytest.mark.slow
def test_the_helper_reports_a_failing_rank() -> None:
    with pytest.raises(AssertionError, match=r"rank [01]:[\s\S]*"):
        run_ranks(fails, timeout=60)


def test_one_rank_is_the_identity() -> None:
    x = torch.arange(4.0)
    for operation in (ALONE.sum, ALONE.max, ALONE.differentiable_sum, ALONE.gather):
        same: Callable[[torch.Tensor], torch.Tensor] = operation
        assert same(x) is x
    assert ALONE.sizes(3, x.device) == [3]
    assert ALONE.mean(torch.tensor(6.0), 4).item() == 1.5
    assert ALONE.mean(torch.tensor(0.0), torch.tensor(0)).item() == 0
    assert ALONE.is_main


@given(count=st.integers(0, 500), ranks=st.integers(1, 20))
def test_shares_add_up(count: int, ranks: int) -> None:
    shares = [World(rank, ranks).share(count) for rank in range(ranks)]
    if count == 0:
        assert shares == [0] * ranks
    elif count < ranks:
        assert shares == [1] * ranks
    else:
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1


def test_modules_are_told_their_world() -> None:
    class Talks(nn.Module):
        world: World = ALONE

    inner, world = Talks(), World(1, 4)
    set_world(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([inner])), world)
    assert inner.world is world
    assert Talks().world is ALONE

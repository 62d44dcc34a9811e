"""Queues of features: wrapping, what is left out, several ranks; momentum copies."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranks import run_ranks
from torch import Tensor, nn

from diptych.blocks.collective import World
from diptych.blocks.queue import FeatureQueue, Wrap, follow


def rows(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2).clone()


def content(queue: FeatureQueue) -> list[float]:
    return queue.features[queue.used][:, 0].tolist()


def test_a_ring_by_hand() -> None:
    queue = FeatureQueue(5, 2)
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(5))
    assert content(queue) == []
    queue.put(rows(1, 2, 3), torch.tensor([10, 20, 30]))
    assert content(queue) == [1, 2, 3]
    assert queue.used.tolist() == [True, True, True, False, False]
    queue.put(rows(4, 5, 6), torch.tensor([40, 50, 60]))
    assert content(queue) == [6, 2, 3, 4, 5]
    assert queue.ids.tolist() == [60, 20, 30, 40, 50]
    assert int(queue.pointer) == 1
    queue.put(rows(1, 2, 3, 4, 5, 6, 7))  # longer than the queue; its last five, on from where 1, 2 would be
    assert content(queue) == [5, 6, 7, 3, 4]
    assert int(queue.pointer) == 3
    assert queue.ids.tolist() == [0, 0, 0, 0, 0]


def test_published_wrapping_by_hand() -> None:
    queue = FeatureQueue(5, 2, wrap="published")
    queue.put(rows(1, 2, 3))
    queue.put(rows(4, 5, 6))  # places 3, 4 and 5 would be needed: it goes to the last three
    assert content(queue) == [1, 2, 4, 5, 6]
    assert int(queue.pointer) == 0
    queue.put(rows(7, 8))
    assert content(queue) == [7, 8, 4, 5, 6]
    queue.put(rows(1, 2, 3, 4, 5, 6))
    assert content(queue) == [2, 3, 4, 5, 6]


@settings(max_examples=40, deadline=None)
@given(places=st.integers(1, 7), sizes=st.lists(st.integers(0, 9), max_size=8))
def test_a_ring_holds_the_newest(places: int, sizes: list[int]) -> None:
    queue, put = FeatureQueue(places, 1), []
    for size in sizes:
        new = [float(len(put) + i) for i in range(size)]
        queue.put(torch.tensor(new)[:, None])
        put += new
    assert sorted(queue.features[queue.used][:, 0].tolist()) == put[-places:]
    assert int(queue.pointer) == len(put) % places


def test_numbers_that_are_not_finite_stay_out() -> None:
    queue = FeatureQueue(4, 2)
    queue.put(rows(1, 2))
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    queue.put(rows(3, float("nan")))
    for name, buffer in queue.named_buffers():
        assert torch.equal(buffer, before[name])


def test_the_state_goes_on() -> None:
    first, second = FeatureQueue(4, 2), FeatureQueue(4, 2)
    first.put(rows(1, 2, 3).requires_grad_())
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        queue.put(rows(4, 5))
    assert content(first) == content(second) == [5, 2, 3, 4]
    assert not first.features.requires_grad


def filled(world: World, wrap: Wrap) -> dict[str, Tensor]:
    """Put uneven parts of three batches of five."""
    torch.manual_seed(0)
    queue = FeatureQueue(8, 3, wrap)
    queue.world = world
    part = slice(None) if world.size == 1 else (slice(0, 4), slice(4, 5))[world.rank]
    for step in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        queue.put(x[part], (torch.arange(5) + 10 * step)[part])
    return dict(queue.named_buffers())


def both(world: World) -> list[dict[str, Tensor]]:
    return [filled(world, "ring"), filled(world, "published")]


@pytest.mark.slow
def test_two_ranks_hold_the_same() -> None:
    alone = both(World())
    for rank in run_ranks(both):
        for ours, theirs in zip(rank, alone, strict=True):
            for name, buffer in theirs.items():
                assert torch.equal(ours[name], buffer), name


def test_momentum_copies_follow() -> None:
    live = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    slow = copy.deepcopy(live).requires_grad_(False)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(1.0)
        live[1].running_mean.fill_(7.0)
    start = [p.clone() for p in slow.parameters()]
    follow(slow, live, 0.9)
    for before, after in zip(start, slow.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.1)
    assert slow[1].running_mean.tolist() == [7, 7]
    with pytest.raises(KeyError):
        follow(slow, nn.Linear(2, 2), 0.9)

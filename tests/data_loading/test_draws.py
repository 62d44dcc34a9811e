"""Draws of samples: uniform, repeatable, and independent of the company a sample is in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.draws import Draws

MANY = 20_000


def all_kinds(draws: Draws) -> list[torch.Tensor]:
    """Make one draw of every kind, in a fixed order."""
    return [draws.rand(), draws.rand(3, 2), draws.integers(7, 4), draws.normal(5, 2), draws.normal()]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    positions=st.lists(st.integers(0, 2**62), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_a_sample_draws_the_same_in_any_company(seed: int, positions: list[int], data: st.DataObject) -> None:
    everybody = torch.tensor(positions)
    rows = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(positions))), min_size=1)))
    joined, some = all_kinds(Draws(seed, everybody)), all_kinds(Draws(seed, everybody[rows]))
    for whole, part in zip(joined, some, strict=True):
        assert torch.equal(whole[rows], part)


def test_longer_draws_begin_with_shorter_ones() -> None:
    """Texts that are padded further on another rank are masked alike."""
    short, long = (Draws(3, torch.arange(4)).rand(n) for n in (5, 9))
    assert torch.equal(long[:, :5], short)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), position=st.integers(0, 2**40), high=st.integers(1, 2**53))
def test_ranges(seed: int, position: int, high: int) -> None:
    draws = Draws(seed, torch.tensor([position]))
    numbers, whole = draws.rand(500), draws.integers(high, 500)
    assert numbers.dtype == torch.float32
    assert whole.dtype == torch.int64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert whole.min() >= 0
    assert whole.max() < high


def test_uniform_over_samples_and_within_one() -> None:
    over, within = Draws(0, torch.arange(MANY)).rand(), Draws(0, torch.tensor([17])).rand(MANY)
    for numbers in (over, within[0]):
        counts = np.histogram(numbers.numpy(), bins=20, range=(0, 1))[0]
        # Chi-square of 19 degrees of freedom: above 43.8 once in a thousand.
        assert ((counts - MANY / 20) ** 2 / (MANY / 20)).sum() < 43.8
    # Neighbours in position, and successive draws of a sample, have nothing in common.
    for numbers in (over, within[0]):
        assert abs(np.corrcoef(numbers[:-1].numpy(), numbers[1:].numpy())[0, 1]) < 4 / MANY**0.5


def test_integers_are_even() -> None:
    counts = Draws(1, torch.arange(MANY)).integers(10).bincount(minlength=10).numpy()
    assert ((counts - MANY / 10) ** 2 / (MANY / 10)).sum() < 27.9  # 9 degrees of freedom


def test_normal_moments() -> None:
    for numbers in (Draws(2, torch.arange(4000)).normal(), Draws(2, torch.tensor([5])).normal(MANY)):
        n = numbers.numel()
        assert abs(numbers.mean().item()) < 4 / n**0.5
        assert abs(numbers.var().item() - 1) < 4 * (2 / n) ** 0.5
        assert abs((numbers**4).mean().item() - 3) < 4 * (96 / n) ** 0.5


@pytest.mark.parametrize("kind", ["seed", "position", "call"])
def test_streams_differ(kind: str) -> None:
    draws = Draws(1, torch.tensor([5]))
    one = draws.rand(50)
    other = {
        "seed": Draws(2, torch.tensor([5])).rand(50),
        "position": Draws(1, torch.tensor([6])).rand(50),
        "call": draws.rand(50),
    }[kind]
    assert not (one == other).any()


def test_some_of_the_samples() -> None:
    positions = torch.arange(100, 200)
    draws, again = Draws(4, positions), Draws(4, positions)
    rows, chosen = draws.some(30)
    assert len(rows) == len(chosen) == 30
    assert (rows[1:] > rows[:-1]).all()
    assert torch.equal(chosen.positions, positions[rows])
    assert torch.equal(rows, again.rand().argsort()[:30].sort().values)  # those with the lowest draws
    # What they draw is their own: the same in any company, and nothing that the batch draws.
    (_, alone), theirs = Draws(4, positions[rows[:2]]).some(2), chosen.rand(2)
    assert torch.equal(alone.rand(2), theirs[:2])
    batch = torch.stack([again.rand(2)[rows] for _ in range(5)])
    assert not (batch == theirs).any()
    (_, second), (_, deeper) = draws.some(30), chosen.some(30)
    assert not torch.equal(second.rand(2), theirs)
    assert not torch.equal(deeper.rand(2), theirs)


def test_every_sample_is_chosen_as_often() -> None:
    counts = torch.zeros(10)
    for seed in range(1000):
        rows, _ = Draws(seed, torch.arange(10)).some(3)
        counts[rows] += 1
    # Standard deviation of one count: sqrt(1000 * 0.3 * 0.7) = 14.5.
    assert (counts - 300).abs().max() < 60


def test_no_samples() -> None:
    empty = Draws(0, torch.zeros(0, dtype=torch.int64))
    assert [tuple(drawn.shape) for drawn in all_kinds(empty)] == [(0,), (0, 3, 2), (0, 4), (0, 5, 2), (0,)]

import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.order import Order, uniforms

SEEDS = st.integers(0, 2**63)


def epoch(order: Order, number: int) -> list[int]:
    return order.at(np.arange(order.size) + number * order.size).tolist()


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=SEEDS, number=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(size: int, seed: int, number: int) -> None:
    assert sorted(epoch(Order(size, seed), number)) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025])
def test_sizes_around_powers_of_two(size: int) -> None:
    assert sorted(epoch(Order(size, 11), 3)) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(epoch(Order(50, seed), number)) for seed in range(5) for number in range(5)]
    assert len(set(orders)) == 25


def test_a_part_is_the_part_of_the_whole() -> None:
    order = Order(97, 5)
    whole = order.at(np.arange(300))
    assert (order.at(np.array([250, 3, 96, 97, 194])) == whole[[250, 3, 96, 97, 194]]).all()
    assert (order.at(np.arange(300).reshape(20, 15)) == whole.reshape(20, 15)).all()
    assert [order.epoch(p) for p in (0, 96, 97, 193, 194)] == [0, 0, 1, 1, 2]


def test_without_shuffling_it_is_the_identity() -> None:
    assert Order(4, 9, shuffle=False).at(np.arange(10)).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_every_small_permutation_turns_up_about_equally_often() -> None:
    counts = Counter(map(tuple, Order(3, 8).at(np.arange(9000)).reshape(-1, 3).tolist()))
    assert len(counts) == 6
    # Binomial(3000, 1/6): mean 500, standard deviation 20.4.
    assert all(abs(count - 500) < 5 * 20.4 for count in counts.values())


def test_a_place_is_uniform_over_the_samples() -> None:
    counts = np.bincount(Order(10, 1).at(np.arange(2000) * 10 + 3), minlength=10)
    assert (np.abs(counts - 200) < 5 * 13.4).all()


@pytest.mark.parametrize("size", [10**9, 2**31 + 1, 10**12])
def test_large_sizes_take_no_memory_and_stay_in_range(size: int) -> None:
    order = Order(size, 1)
    positions = np.concatenate([np.arange(1000), size - 1 - np.arange(1000)])
    found = order.at(positions)
    assert found.min() >= 0
    assert found.max() < size
    assert len(set(found.tolist())) == len(positions)
    assert (order.at(positions + size) != found).any()
    assert len(pickle.dumps(order)) < 500


def test_the_order_never_changes_between_processes_or_versions() -> None:
    # A change here breaks the resumption of every run: raise it in the changelog.
    program = (
        "import numpy as np\nfrom diptych.data.order import Order, uniforms\n"
        "print(Order(10, 3).at(np.arange(12)).tolist(), Order(10**9, 3).at(np.array([0, 10**12])).tolist())\n"
        "print(uniforms(7, np.array([5]), 1).tolist())"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    here = f"{Order(10, 3).at(np.arange(12)).tolist()} {Order(10**9, 3).at(np.array([0, 10**12])).tolist()}"
    assert output.splitlines()[0] == here
    assert here == "[7, 6, 2, 3, 5, 9, 4, 0, 8, 1, 2, 6] [826590366, 816436059]"
    assert output.splitlines()[1] == str(uniforms(7, np.array([5]), 1).tolist())


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=25),
    group_size=st.integers(2, 5),
    seed=SEEDS,
    shuffle=st.booleans(),
)
def test_groups_sit_beside_each_other(counts: list[int], group_size: int, seed: int, shuffle: bool) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = Order(len(groups), seed, shuffle, groups=groups, group_size=group_size)
    for number in (0, 1, 7):
        found = np.array(epoch(order, number))
        assert sorted(found) == list(range(len(groups)))
        whole = len(groups) // group_size * group_size
        blocks = groups[found[:whole]].reshape(-1, group_size)
        uniform = blocks[(blocks == blocks[:, :1]).all(1)][:, 0]
        # Oracle: a group of n members gives n // group_size blocks of its own, and no more.
        wanted = {g: n // group_size for g, n in enumerate(counts) if n >= group_size}
        assert Counter(uniform.tolist()) == wanted


def test_grouped_order_by_hand() -> None:
    # a: 0 2 5, b: 1 4, c: 3. Blocks of two: (a a) (b b), then what is left in the order of the groups: a c.
    order = Order(6, 0, False, groups=["a", "b", "a", "c", "b", "a"], group_size=2)
    assert epoch(order, 0) == [0, 2, 1, 4, 5, 3]


def test_left_over_members_stay_together_where_they_fit() -> None:
    # Four groups of five in blocks of three: one block each, and two members left of each.
    groups = np.repeat(np.arange(4), 5)
    found = groups[epoch(Order(20, 4, groups=groups, group_size=3), 0)]
    neighbours = int((found[1:] == found[:-1]).sum())
    assert neighbours >= 4 * 2 + 2


def test_other_members_form_the_block_each_epoch() -> None:
    groups = np.repeat(np.arange(20), 3)
    order = Order(60, 2, groups=groups, group_size=2)
    left_out = set()
    for number in range(12):
        found = np.array(epoch(order, number))
        blocks = found.reshape(-1, 2)
        paired = blocks[groups[blocks[:, 0]] == groups[blocks[:, 1]]].reshape(-1)
        left_out |= set(range(60)) - set(paired.tolist())
    assert len(left_out) > 55


def test_an_empty_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Order(0, 1)


def test_uniforms() -> None:
    positions = np.arange(20000)
    draws = uniforms(3, positions, 2)
    assert draws.shape == (20000, 2)
    assert draws.min() >= 0
    assert draws.max() < 1
    # Standard error of the mean is 0.289 / sqrt(20000) = 0.002.
    assert np.abs(draws.mean(0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.04
    assert (uniforms(3, np.array([77]), 1) == draws[77, :1]).all()
    assert (uniforms(4, positions, 2) != draws).all()
    assert (uniforms(3, positions, 2, stream=1) != draws).all()

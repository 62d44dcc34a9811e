"""The order for shards that are far away."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.blocked import BlockedOrder

SEEDS = st.integers(0, 2**63)
SIZES = st.integers(1, 400)


def epoch(order: BlockedOrder, number: int) -> list[int]:
    return order.at(np.arange(order.size) + number * order.size).tolist()


@settings(max_examples=80, deadline=None)
@given(
    size=SIZES, block=st.integers(1, 60), window=st.integers(1, 9), seed=SEEDS, number=st.integers(0, 10**6)
)
def test_every_epoch_is_a_permutation(size: int, block: int, window: int, seed: int, number: int) -> None:
    order = BlockedOrder(size, seed, block_size=block, window=window)
    assert sorted(epoch(order, number)) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, block=st.integers(1, 60), window=st.integers(1, 9), seed=SEEDS, number=st.integers(0, 50))
def test_only_the_blocks_of_a_window_are_mixed(
    size: int, block: int, window: int, seed: int, number: int
) -> None:
    """Oracle: cut an epoch where the blocks seen so far are complete; no piece has more than `window`."""
    order = BlockedOrder(size, seed, block_size=block, window=window)
    blocks = [i // block for i in epoch(order, number)]
    last = {b: p for p, b in enumerate(blocks)}
    pieces, start, end = [], 0, 0
    for position, b in enumerate(blocks):
        end = max(end, last[b])
        if position == end:
            pieces.append(len(set(blocks[start : end + 1])))
            start = position + 1
    assert max(pieces) <= window
    assert sum(pieces) == order.blocks


def test_blocks_come_in_another_order_each_epoch_and_the_short_one_anywhere() -> None:
    order = BlockedOrder(22, 3, block_size=5, window=1)
    orders = []
    for number in range(200):
        firsts = [i // 5 for i in epoch(order, number)]
        orders.append(tuple(dict.fromkeys(firsts)))
    assert all(sorted(o) == [0, 1, 2, 3, 4] for o in orders)
    # 120 orders are possible; 200 draws of them give 97 different ones on average.
    assert len(set(orders)) > 80
    places = np.bincount([o.index(4) for o in orders], minlength=5)
    # Binomial(200, 1/5): mean 40, standard deviation 5.7.
    assert (np.abs(places - 40) < 5 * 5.7).all()


def test_one_window_over_everything_is_a_full_shuffle() -> None:
    order = BlockedOrder(10, 1, block_size=3, window=4)
    counts = np.bincount(order.at(np.arange(2000) * 10 + 3), minlength=10)
    # Binomial(2000, 1/10): mean 200, standard deviation 13.4.
    assert (np.abs(counts - 200) < 5 * 13.4).all()


def test_a_part_is_the_part_of_the_whole() -> None:
    order = BlockedOrder(97, 5, block_size=8, window=3)
    whole = order.at(np.arange(300))
    assert (order.at(np.array([250, 3, 96, 97, 194])) == whole[[250, 3, 96, 97, 194]]).all()
    assert (order.at(np.arange(300).reshape(20, 15)) == whole.reshape(20, 15)).all()


def test_large_sizes_take_no_memory() -> None:
    size = 10**12 + 7
    order = BlockedOrder(size, 1, block_size=500, window=32)
    positions = np.concatenate([np.arange(1000), size - 1 - np.arange(1000)])
    found = order.at(positions)
    assert found.min() >= 0
    assert found.max() < size
    assert len(set(found.tolist())) == len(positions)
    assert len(np.unique(found[:1000] // 500)) <= 32
    assert len(pickle.dumps(order)) < 500


def test_the_order_never_changes_between_versions() -> None:
    # A change here breaks the resumption of runs: raise it in the changelog.
    assert epoch(BlockedOrder(10, 3, block_size=3, window=2), 0) == [8, 7, 1, 0, 2, 6, 9, 5, 4, 3]


def test_its_settings_are_its_identity() -> None:
    order = BlockedOrder(10, 3, block_size=3, window=2)
    assert order.identity() == {"shuffle": True, "block_size": 3, "block_window": 2}


@pytest.mark.parametrize(("block", "window"), [(0, 1), (1, 0)])
def test_empty_blocks_and_windows_are_refused(block: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockedOrder(4, 1, block_size=block, window=window)

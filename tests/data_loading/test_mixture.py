"""Shares, cycles and batches of several sources."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.mixture import Cycle, MixedStream, PartsPlan, quotas, shares
from diptych.data.order import Order
from diptych.data.plan import Drawn, OneSource, Plan, PositionPlan
from diptych.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**62)
COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def same(a: Drawn, b: Drawn) -> bool:
    return all((getattr(a, n) == getattr(b, n)).all() for n in ("sources", "rows", "positions"))


def joined(drawn: Sequence[Drawn]) -> Drawn:
    return Drawn(*(np.concatenate([getattr(d, n) for d in drawn]) for n in ("sources", "rows", "positions")))


# --- Shares ---


def test_shares_by_size_and_temperature() -> None:
    sizes, free, caps = [100, 400], [None, None], [0, 0]
    assert shares(sizes, free, caps, 1.0).tolist() == pytest.approx([0.2, 0.8])
    assert shares(sizes, free, caps, 2.0).tolist() == pytest.approx([1 / 3, 2 / 3])  # roots: 10 and 20
    assert shares(sizes, free, caps, 1e9).tolist() == pytest.approx([0.5, 0.5])


def test_a_cap_limits_the_size_that_counts() -> None:
    assert shares([100, 10**6], [None, None], [0, 300], 1.0).tolist() == pytest.approx([0.25, 0.75])


def test_sources_without_weight_divide_what_is_left() -> None:
    found = shares([10, 100, 300], [0.2, None, None], [0, 0, 0], 1.0)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.6])


def test_if_all_have_weights_only_their_ratios_count() -> None:
    assert shares([10, 20], [1.0, 3.0], [0, 0], 5.0).tolist() == [0.25, 0.75]


def test_extreme_sizes_and_temperatures_stay_finite() -> None:
    assert shares([10**12, 1], [None, None], [0, 0], 0.01).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "message"), [([0.7, 0.3, None], "add up to 1"), ([0.0, 0.0, 0.0], "all weights are 0")]
)
def test_impossible_weights_are_refused(weights: list[float | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shares([1, 2, 3], weights, [0, 0, 0], 1.0)


# --- Quotas ---


@pytest.mark.parametrize(
    ("wanted", "cycle", "expected"),
    [
        ([0.5, 0.5], 10, [5, 5]),
        ([0.29, 0.71], 100, [29, 71]),  # 0.29 * 100 is 28.999999999999996
        ([0.25, 0.35, 0.4], 10, [3, 3, 4]),  # 2.5, 3.5, 4.0: the first of equal remainders
        ([0.001, 0.999], 10, [1, 9]),
        ([0.01, 0.01, 0.49, 0.49], 10, [1, 1, 4, 4]),
    ],
)
def test_quotas_by_hand(wanted: list[float], cycle: int, expected: list[int]) -> None:
    assert quotas(np.array(wanted), cycle).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(raw=st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), cycle=st.integers(20, 2000))
def test_quotas_fill_the_cycle_close_to_the_shares(raw: list[float], cycle: int) -> None:
    wanted = np.array(raw) / sum(raw)
    found = quotas(wanted, cycle)
    assert found.sum() == cycle
    assert found.min() >= 1
    # Above the floor of 1 nobody is off by more than one unit and what the floors took.
    assert (np.abs(found - wanted * cycle) <= 1 + len(raw)).all()


def test_more_sources_than_a_cycle_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.mixture\.cycle = 2, but there are 3 sources"):
        quotas(np.full(3, 1 / 3), 2)


# --- Cycles ---


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, seed=SEEDS, start=st.integers(0, 10**9), length=st.integers(1, 60))
def test_a_cycle_numbers_the_draws_of_each_source(
    counts: list[int], seed: int, start: int, length: int
) -> None:
    """Oracle: count the draws one after another from the start of the cycle."""
    cycle = Cycle(np.array(counts), seed)
    begin = start // cycle.length * cycle.length
    units = np.arange(begin, start + length)
    sources, numbers = cycle.at(units)
    seen = [begin // cycle.length * count for count in counts]
    for source, number in zip(sources.tolist(), numbers.tolist(), strict=True):
        assert number == seen[source]
        seen[source] += 1
    for first in range(0, len(units) - cycle.length + 1, cycle.length):
        found = np.bincount(sources[first : first + cycle.length], minlength=len(counts))
        assert found.tolist() == counts
    picked = np.arange(start, start + length)
    again = Cycle(np.array(counts), seed).at(picked)
    assert (again[0] == sources[start - begin :]).all()
    assert (again[1] == numbers[start - begin :]).all()


def test_cycles_differ_and_keep_few_tables() -> None:
    cycle = Cycle(np.array([5, 5, 5]), 1)
    found = cycle.at(np.arange(15 * 40))[0].reshape(40, 15)
    assert len({tuple(row) for row in found.tolist()}) > 35
    assert len(cycle._tables) <= 4


def test_the_mixture_never_changes_between_versions() -> None:
    # A change here breaks the resumption of runs: raise it in the changelog.
    assert Cycle(np.array([1, 2, 3]), 7).at(np.arange(6))[0].tolist() == [2, 2, 1, 0, 2, 1]


# --- Plans ---


def mixed(sizes: Sequence[int], counts: Sequence[int], seed: int, batch_size: int) -> PositionPlan:
    orders = [Order(size, seed + i) for i, size in enumerate(sizes)]
    return PositionPlan(MixedStream(orders, Cycle(np.array(counts), seed), {}), batch_size)


def in_parts(sizes: Sequence[int], counts: Sequence[int], seed: int, part: int, parts: int) -> PartsPlan:
    plans: list[Plan] = [PositionPlan(OneSource(Order(size, seed + i)), part) for i, size in enumerate(sizes)]
    return PartsPlan(plans, Cycle(np.array(counts), seed), parts, {})


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 25), min_size=2, max_size=4),
    seed=SEEDS,
    parts=st.integers(0, 4),
    part=st.integers(1, 5),
    data=st.data(),
)
def test_every_sample_once_in_each_epoch_of_its_source(
    sizes: list[int], seed: int, parts: int, part: int, data: st.DataObject
) -> None:
    counts = [data.draw(st.integers(1, 5)) for _ in sizes]
    plan: Plan = in_parts(sizes, counts, seed, part, parts) if parts else mixed(sizes, counts, seed, part)
    drawn = joined([plan.batch(k) for k in range(40)])
    assert len(set(drawn.positions.tolist())) == len(drawn.positions)
    for source, size in enumerate(sizes):
        rows = drawn.rows[drawn.sources == source]
        for start in range(0, len(rows), size):
            whole = rows[start : start + size].tolist()
            assert len(set(whole)) == len(whole)
            assert max(whole) < size


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_share_a_batch_of_drawn_samples(world: int) -> None:
    plan = mixed([11, 5, 30], [2, 1, 4], 3, 12)
    for number in (0, 7, 1000):
        parts = [plan.batch(number, rank, world) for rank in range(world)]
        assert same(joined(parts), plan.batch(number))


@pytest.mark.parametrize(("parts", "world"), [(1, 1), (1, 3), (2, 1), (2, 2), (2, 4), (4, 2), (6, 3), (3, 6)])
def test_ranks_share_parts(parts: int, world: int) -> None:
    plan = in_parts([11, 5, 30], [2, 1, 4], 3, 12 // parts, parts)
    kinds = set()
    for number in (0, 1, 2, 7, 1000):
        whole = plan.batch(number)
        assert same(joined([plan.batch(number, rank, world) for rank in range(world)]), whole)
        for one in whole.sources.reshape(parts, -1):
            assert len(set(one.tolist())) == 1
        if world >= parts:
            kinds |= {len(set(plan.batch(number, rank, world).sources.tolist())) for rank in range(world)}
    assert kinds <= {1}


def test_parts_meet_the_quotas() -> None:
    plan = in_parts([11, 5, 30], [2, 1, 4], 3, 3, 7)
    for number in range(5):
        counts = Counter(plan.batch(number).sources.tolist())
        assert counts == {0: 6, 1: 3, 2: 12}


def test_ranks_that_do_not_fit_the_parts_are_refused() -> None:
    with pytest.raises(DataError, match=r"mixture\.parts = 2 does not go with 3 ranks"):
        in_parts([4, 4], [1, 1], 0, 2, 2).batch(0, 0, 3)


def test_what_an_epoch_takes() -> None:
    assert mixed([10, 20], [1, 1], 0, 6).batches_per_epoch == 5
    assert in_parts([10, 20], [1, 1], 0, 3, 2).batches_per_epoch == 5


def test_identities() -> None:
    assert mixed([10, 20], [1, 3], 0, 6).identity() == {"batch_size": 6, "quotas": [1, 3]}
    assert in_parts([10, 20], [1, 3], 0, 3, 2).identity() == {"quotas": [1, 3], "parts": 2}
    assert in_parts([10, 20], [1, 3], 0, 3, 2).anchor(5) == {}

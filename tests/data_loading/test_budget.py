"""Batches of about equal cost, and the windows they are cut from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.budget import BudgetCutter, WindowPlan, cut_by_budget, sample_costs
from diptych.data.config import DataConfig
from diptych.data.mixture import Cycle, MixedStream, PartsPlan
from diptych.data.order import Order
from diptych.data.plan import Drawn, OneSource, Plan
from diptych.errors import DataError

SEEDS = st.integers(0, 2**62)
COSTS = st.lists(st.integers(1, 40), min_size=1, max_size=120)


def plan_of(
    costs: Sequence[int], *, budget: int = 40, most: int = 50, window: int = 30, seed: int = 1
) -> WindowPlan:
    stream = OneSource(Order(len(costs), seed))
    cutter = BudgetCutter(seed, budget, most)
    return WindowPlan(stream, [np.array(costs, dtype=np.int32)], cutter, window, {"budget": budget})


def same(a: Drawn, b: Drawn) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("sources", "rows", "positions"))


# --- Cutting ---


@settings(max_examples=150, deadline=None)
@given(costs=COSTS, budget=st.integers(40, 300), most=st.integers(1, 20))
def test_every_sample_is_in_one_batch_within_the_budget(costs: list[int], budget: int, most: int) -> None:
    values = np.array(costs)
    found = cut_by_budget(values, budget, most)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(costs)))
    for members in found:
        assert 1 <= len(members) <= most
        assert len(members) * values[members].max() <= budget
    allowed = min(most, budget // max(costs))
    if len(costs) >= allowed:
        assert min(map(len, found)) >= (allowed + 1) // 2


def test_cutting_by_hand() -> None:
    # 6 6 | 5 3 | 3 1 -> the last batch has two of the four that fit: nothing to even out.
    found = cut_by_budget(np.array([1, 6, 3, 5, 6, 3]), 12, 9)
    assert [members.tolist() for members in found] == [[1, 4], [3, 2], [5, 0]]
    # 3 3 3 | 2 -> 3 3 | 3 2: the last two batches share what is left.
    found = cut_by_budget(np.array([2, 3, 3, 3]), 9, 9)
    assert [members.tolist() for members in found] == [[1, 2], [3, 0]]


# --- Windows ---


@settings(max_examples=40, deadline=None)
@given(costs=COSTS, seed=SEEDS, window=st.integers(1, 60))
def test_every_sample_once_an_epoch(costs: list[int], seed: int, window: int) -> None:
    plan = plan_of(costs, window=window, seed=seed)
    seen: list[int] = []
    positions: list[int] = []
    number = 0
    while len(seen) < 3 * len(costs):
        drawn = plan.batch(number)
        assert len(drawn.rows) * max(costs[row] for row in drawn.rows) <= 40
        seen += drawn.rows.tolist()
        positions += drawn.positions.tolist()
        number += 1
    # Batches never straddle epochs, so three epochs end exactly here.
    for start in range(0, len(seen), len(costs)):
        assert sorted(seen[start : start + len(costs)]) == list(range(len(costs)))
    assert sorted(positions) == list(range(len(seen)))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(costs=COSTS, seed=SEEDS, data=st.data())
def test_any_batch_from_any_start(costs: list[int], seed: int, data: st.DataObject) -> None:
    plan = plan_of(costs, window=17, seed=seed)
    expected = [plan.batch(k) for k in range(40)]
    for k in data.draw(st.lists(st.integers(0, 39), min_size=5, max_size=5)):
        assert same(plan.batch(k), expected[k])
        assert same(plan_of(costs, window=17, seed=seed).batch(k), expected[k])
        resumed = plan_of(costs, window=17, seed=seed)
        resumed.start(plan.anchor(k))
        assert resumed.anchor(k) == plan.anchor(k)
        assert same(resumed.batch(k), expected[k])
        # Before the anchor: the long way round.
        assert same(resumed.batch(0), expected[0])


def test_an_anchor_spares_the_walk() -> None:
    costs = list(range(1, 41)) * 25
    plan = plan_of(costs)
    anchor = plan.anchor(5000)
    resumed = plan_of(costs)
    resumed.start(anchor)
    asked: list[int] = []
    cut = resumed._cut_window
    resumed._cut_window = lambda window: asked.append(window) or cut(window)  # type: ignore
    assert same(resumed.batch(5000), plan.batch(5000))
    assert asked == [anchor["window"]]


def test_going_back_a_little_does_not_walk_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.budget.KEPT_WINDOWS", 3)
    plan = plan_of([4] * 100)  # batches of ten, three windows of 33 or 34 samples: four batches each
    expected = [plan.batch(k) for k in range(100)]
    assert len(plan._firsts) <= 6
    asked: list[int] = []
    cut = plan._cut_window
    plan._cut_window = lambda window: asked.append(window) or cut(window)  # type: ignore
    assert same(plan.batch(92), expected[92])
    assert len(asked) <= 2
    assert same(plan.batch(3), expected[3])


def test_reading_ahead_cuts_each_window_once() -> None:
    plan = plan_of([4] * 300)  # nine windows of four batches
    asked: list[int] = []
    cut = plan._cut_window
    plan._cut_window = lambda window: asked.append(window) or cut(window)  # type: ignore
    for number in range(100):
        plan.batch(number + 9)
        plan.batch(number)
    assert len(asked) == len(set(asked))


def test_ranks_get_every_other_sample() -> None:
    plan = plan_of(list(range(1, 41)) * 5, budget=200)
    for number in range(20):
        whole = plan.batch(number)
        for world in (1, 2, 3):
            ranks = [plan.batch(number, rank, world) for rank in range(world)]
            for rank, drawn in enumerate(ranks):
                assert drawn.rows.tolist() == whole.rows[rank::world].tolist()
                assert drawn.positions.tolist() == whole.positions[rank::world].tolist()


def test_a_batch_that_does_not_reach_all_ranks_is_refused() -> None:
    with pytest.raises(DataError, match=r"batch 0 has 1 samples for 2 ranks; raise data\.loader\.budget"):
        plan_of([40] * 5).batch(0, 1, 2)


def test_batches_of_a_window_come_in_random_order() -> None:
    plan = plan_of(list(range(1, 41)) * 10, window=400)
    sizes = [len(plan.batch(k).rows) for k in range(int(plan.batches_per_epoch))]
    assert sizes != sorted(sizes)
    assert sizes != sorted(sizes, reverse=True)


def test_batches_of_an_epoch_are_counted_where_all_windows_are_looked_at() -> None:
    plan = plan_of(list(range(1, 41)) * 5)  # 7 windows
    number = seen = 0
    while seen < 200:
        seen += len(plan.batch(number).rows)
        number += 1
    assert plan.batches_per_epoch == number


def test_budgets_of_a_mixture_of_samples() -> None:
    sizes = [30, 50]
    stream = MixedStream([Order(n, i) for i, n in enumerate(sizes)], Cycle(np.array([1, 2]), 5), {})
    costs = [np.full(30, 10, np.int32), np.full(50, 4, np.int32)]
    plan = WindowPlan(stream, costs, BudgetCutter(5, 40, 9), 20, {})
    drawn = [plan.batch(k) for k in range(30)]
    for batch in drawn:
        worst = max(int(costs[s][r]) for s, r in zip(batch.sources, batch.rows, strict=True))
        assert worst * len(batch.rows) <= 40
    positions = np.concatenate([batch.positions for batch in drawn])
    assert len(set(positions.tolist())) == len(positions)
    # Four windows of 20 an epoch: the first two are over when 40 samples were seen, and nothing is missing.
    ends = np.cumsum([len(batch.rows) for batch in drawn])
    assert sorted(positions[:40].tolist()) == list(range(40))
    assert 40 in ends.tolist()


def test_budgets_in_parts_are_of_one_source_and_resume() -> None:
    def make() -> PartsPlan:
        plans: list[Plan] = [plan_of([10] * 30, seed=3), plan_of(list(range(1, 41)), seed=4)]
        return PartsPlan(plans, Cycle(np.array([1, 2]), 5), 1, {})

    plan = make()
    expected = [plan.batch(k) for k in range(50)]
    assert all(len(set(d.sources.tolist())) == 1 for d in expected)
    positions = np.concatenate([d.positions for d in expected])
    assert len(set(positions.tolist())) == len(positions)
    resumed = make()
    resumed.start(plan.anchor(31))
    assert all(same(resumed.batch(k), expected[k]) for k in range(31, 50))


# --- Costs ---


class Table:
    """Stands in for a selection: columns of an index."""

    name = "table"

    def __init__(self, **columns: Any) -> None:
        self.values = columns
        self.dataset = self
        self.columns = list(columns)

    def column(self, name: str) -> Any:
        return self.values[name]


def costs_of(by: str, max_tokens: int = 40, **columns: Any) -> list[int]:
    config = DataConfig.model_validate({"text": {"max_tokens": max_tokens}})
    return sample_costs(Table(**columns), config, by).tolist()  # type: ignore[arg-type]


def test_texts_cost_their_tokens() -> None:
    letters = np.array([0, 1, 4, 5, 1000])
    assert costs_of("text", text_chars=letters) == [2, 3, 3, 4, 40]
    assert costs_of("text", text_chars=letters, text_tokens=np.array([0, 1, 7, 38, 90])) == [2, 3, 9, 40, 40]


def test_pictures_cost_their_patches() -> None:
    assert costs_of("image", width=[16, 17, 224, None], height=[16, 16, 224, None]) == [1, 2, 196, 1]


def test_clips_cost_their_frames_and_columns_their_values() -> None:
    assert costs_of("frames", frames=[None, 8]) == [1, 8]
    assert costs_of("seconds", seconds=np.array([0.0, 0.4, 2.5])) == [1, 1, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None, None], "2 samples of table have no value; leave them out with data.where"),
        (["a", "b", "c"], "expected a column of numbers in table, it holds str"),
        (np.array([True, False]), "expected a column of numbers in table, it holds bool"),
        (np.array([1e12]), "that is too much"),
    ],
)
def test_columns_that_are_no_costs_are_refused(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        costs_of("stars", stars=values)

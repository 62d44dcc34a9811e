"""Batches of pictures of similar shape: what shares one, once an epoch, on any number of ranks, resumed."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diptych.data.bucket import SQUARE, PublishedGroups, ShapeCutter, published_groups, shape_codes
from diptych.data.budget import WindowPlan
from diptych.data.config import DataConfig
from diptych.data.fit import fit_size, padded, waste
from diptych.data.order import Order
from diptych.data.plan import Drawn, OneSource, Plan
from diptych.data.selection import Selection
from diptych.data.sources import make_plan
from diptych.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**62)
SHAPES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=90)
BUCKETS = st.sampled_from(["aspect", "shape"])


class Pictures:
    """As much of a selection as plans need to know."""

    def __init__(self, shapes: list[Any], **columns: list[Any]) -> None:
        self.columns = {"width": [s[0] for s in shapes], "height": [s[1] for s in shapes], **columns}
        self.dataset = SimpleNamespace(name="toy")
        self._size = len(shapes)

    def __len__(self) -> int:
        return self._size

    def column(self, name: str) -> list[Any]:
        return self.columns[name]


def pictures(shapes: list[Any], **columns: list[Any]) -> Selection:
    return cast(Selection, Pictures(shapes, **columns))


def config_of(bucket: str, batch: int = 4, window: int = 20, **more: Any) -> DataConfig:
    loader = {"bucket": bucket, "batch_size": batch, "budget_window": window, **more}
    return DataConfig.model_validate({"loader": loader})


def plan_of(shapes: list[Any], bucket: str, *, seed: int = 1, world: int = 1, **more: Any) -> Plan:
    return make_plan({"data": pictures(shapes)}, config_of(bucket, **more), seed=seed, world=world)


def same(a: Drawn, b: Drawn) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("sources", "rows", "positions"))


def test_codes_by_hand() -> None:
    shapes = [(100, 100), (50, 100), (200, 100), (1, 100_000_000), (4001, 4000), (100_000_000, 1)]
    codes = shape_codes(pictures([*shapes, (4_000_001, 4_000_000)]))
    assert codes.dtype == np.int32
    assert codes.tolist()[:4] == [SQUARE, SQUARE // 2, 2 * SQUARE, 1]
    assert codes[4] > SQUARE
    assert codes[5] == 1 << 30  # the flattest are all alike
    assert codes[6] == SQUARE + 1  # hardly wider than high, but wider


@pytest.mark.parametrize("wrong", [[(None, 4)], [(4, 0)], [(4, None), (3, 3)]])
def test_pictures_without_sizes_are_refused(wrong: list[Any]) -> None:
    with pytest.raises(DataError, match=r"1 samples of toy have no width and height; .*data\.where"):
        shape_codes(pictures([(5, 5), *wrong]))
    unknown = Pictures([(5, 5)])
    unknown.columns.clear()
    with pytest.raises(DataError, match="1 samples of toy"):
        shape_codes(cast(Selection, unknown))


@settings(max_examples=35, deadline=None)
@given(SHAPES, BUCKETS, SEEDS, st.integers(1, 7), st.integers(1, 40))
def test_upright_and_lying_pictures_never_meet_and_all_come_once_an_epoch(
    shapes: list[tuple[int, int]], bucket: str, seed: int, batch: int, window: int
) -> None:
    plan = plan_of(shapes, bucket, seed=seed, batch=batch, window=window)
    number, positions = 0, []
    for _ in range(2):
        seen: list[int] = []
        while len(seen) < len(shapes):
            drawn = plan.batch(number)
            rows = drawn.rows.tolist()
            assert len({shapes[r][0] > shapes[r][1] for r in rows}) == 1
            assert 1 <= len(rows) <= batch
            seen += rows
            positions += drawn.positions.tolist()
            number += 1
        assert sorted(seen) == list(range(len(shapes)))
    assert sorted(positions) == list(range(2 * len(shapes)))  # no position, and so no draw, comes twice


@settings(max_examples=20, deadline=None)
@given(SHAPES, BUCKETS, SEEDS, st.integers(1, 4))
def test_ranks_share_every_batch(shapes: list[tuple[int, int]], bucket: str, seed: int, world: int) -> None:
    if len(shapes) < world:
        return
    plan = plan_of(shapes, bucket, seed=seed, world=world, batch=world + 2, window=len(shapes))
    for number in range(6):
        whole = plan.batch(number)
        parts = [plan.batch(number, rank, world) for rank in range(world)]
        assert all(len(part.rows) for part in parts)
        assert max(len(p.rows) for p in parts) - min(len(p.rows) for p in parts) <= 1
        joined = np.concatenate([part.positions for part in parts])
        assert sorted(joined.tolist()) == sorted(whole.positions.tolist())


@settings(max_examples=20, deadline=None)
@given(SHAPES, BUCKETS, SEEDS, st.data())
def test_a_plan_goes_on_from_an_anchor(
    shapes: list[tuple[int, int]], bucket: str, seed: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, 60))
    plan, other = (plan_of(shapes, bucket, seed=seed, window=10) for _ in range(2))
    expected = [plan.batch(number + i) for i in range(3)]
    other.start(plan.anchor(number))
    assert all(same(a, other.batch(number + i)) for i, a in enumerate(expected))
    assert other.identity() == plan.identity()


def test_settings_and_seeds_make_other_plans() -> None:
    shapes = [(10 + i, 20) for i in range(30)]
    known = plan_of(shapes, "shape")
    for other in (
        plan_of(shapes, "aspect"),
        plan_of(shapes, "shape", batch=5),
        plan_of(shapes, "shape", window=9),
    ):
        assert other.identity() != known.identity()
    firsts = {tuple(plan_of(shapes, "shape", seed=seed).batch(0).rows.tolist()) for seed in range(8)}
    assert len(firsts) > 4
    # The next epoch has other batches.
    count = round(known.batches_per_epoch)
    assert not same(known.batch(0), known.batch(count))


def test_a_group_too_small_for_the_ranks_joins_the_other() -> None:
    codes = np.array([2 * SQUARE] * 5 + [SQUARE // 2])
    for sort in (False, True):

        def sizes(codes: np.ndarray, least: int, sort: bool = sort) -> list[int]:
            return sorted(len(cut.members) for cut in ShapeCutter(0, 4, sort=sort, least=least)(codes, 0))

        # Five are two batches of about one size, not four and one.
        assert sizes(codes, 1) == [1, 2, 3]
        # With two ranks a batch needs two samples: the upright one joins the others.
        assert sizes(codes, 2) == [3, 3]
        assert sizes(codes[:5], 2) == [2, 3]
        # With three, five cannot be two batches.
        assert sizes(codes[:5], 3) == [5]
        assert sizes(codes[:0], 1) == []


def test_sorted_batches_by_hand() -> None:
    shapes = [(40, 10), (10, 40), (20, 10), (10, 20), (41, 10), (21, 10), (10, 10), (10, 41)]
    plan = plan_of(shapes, "shape", batch=2, window=8)
    found = {frozenset(plan.batch(i).rows.tolist()) for i in range(4)}
    assert found == {frozenset({0, 4}), frozenset({2, 5}), frozenset({1, 7}), frozenset({3, 6})}


def wasted(shapes: list[tuple[int, int]], plan: Plan, epochs: int = 3) -> float:
    """Return the padded share of all pixels within 1000 x 600."""
    full = real = 0.0
    number = seen = 0
    while seen < epochs * len(shapes):
        rows = plan.batch(number).rows.tolist()
        sizes = torch.tensor([fit_size(*shapes[r], 1000, 600)[::-1] for r in rows])
        height, width = (padded(int(side), 32) for side in sizes.max(0).values)
        pixels = len(rows) * height * width
        full += pixels
        real += pixels * (1 - float(waste(sizes, height, width)))
        number, seen = number + 1, seen + len(rows)
    return 1 - real / full


def test_similar_shapes_waste_least() -> None:
    random = np.random.default_rng(0)
    # Photographs: mostly 4:3 and 3:2, a third of them upright, some panoramas.
    ratios = random.choice([4 / 3, 3 / 2, 16 / 9, 1.0, 2.5], 600, p=[0.45, 0.35, 0.1, 0.05, 0.05])
    shapes = [
        (round(480 * r), 480) if random.random() < 0.67 else (480, round(480 * r)) for r in ratios.tolist()
    ]
    shares = {
        name: wasted(shapes, plan_of(shapes, name, batch=16, window=300))
        for name in ("none", "aspect", "shape")
    }
    assert shares["shape"] < 0.07 < shares["aspect"] < shares["none"]
    assert shares["none"] > 0.3


def test_window_plans_are_those_of_other_budgets() -> None:
    shapes = [(10 + i % 7, 12) for i in range(25)]
    stream = OneSource(Order(25, 3))
    cutter = ShapeCutter(3, 4, sort=True, least=1)
    by_hand = WindowPlan(stream, [shape_codes(pictures(shapes))], cutter, 20, {})
    made = plan_of(shapes, "shape", seed=3)
    assert all(same(by_hand.batch(i), made.batch(i)) for i in range(12))


# --- The published sampler ---


def slow_published(lying: list[bool], batch: int, world: int, epoch: int) -> list[list[int]]:
    """Write the published order down sample by sample."""
    generator = torch.Generator().manual_seed(epoch)
    batches: list[list[int]] = []
    for flag in (False, True):
        members = [i for i, value in enumerate(lying) if value == flag]
        if not members:
            continue
        mixed = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        while len(mixed) % (batch * world):
            mixed.append(mixed[len(mixed) - len(members)])  # from the first on, again and again
        batches += [mixed[i : i + batch] for i in range(0, len(mixed), batch)]
    order = torch.randperm(len(batches), generator=generator).tolist()
    each = len(order) // world
    return [[i for b in order[r * each : (r + 1) * each] for i in batches[b]] for r in range(world)]


@settings(max_examples=35, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 3), st.integers(0, 9)
)
def test_published_groups(lying: list[bool], batch: int, world: int, epoch: int) -> None:
    found = published_groups(np.array(lying), batch, world, epoch).tolist()
    assert found == slow_published(lying, batch, world, epoch)


def test_the_published_plan_gives_each_rank_its_part_of_each_epoch() -> None:
    shapes = [(20, 10)] * 7 + [(10, 20)] * 4 + [(10, 10)]
    lying = [True] * 7 + [False] * 5
    # Per rank two samples of a batch of four: 8 upright in 2 batches of each rank, 8 lying likewise.
    for world, rank in ((2, 0), (2, 1), (1, 0)):
        plan = plan_of(shapes, "published", world=world)
        assert plan.batches_per_epoch == 4
        for epoch in range(3):
            drawn = [plan.batch(4 * epoch + i, rank, world) for i in range(4)]
            rows = [row for part in drawn for row in part.rows.tolist()]
            assert rows == slow_published(lying, 4 // world, world, epoch)[rank]
            for part in drawn:
                assert len({lying[row] for row in part.rows.tolist()}) == 1
    plan = plan_of(shapes, "published", world=2)
    positions = [p for i in range(8) for r in range(2) for p in plan.batch(i, r, 2).positions.tolist()]
    assert sorted(positions) == list(range(32))
    # Any batch may be asked for, in any order.
    assert same(plan.batch(9, 1, 2), plan_of(shapes, "published", world=2).batch(9, 1, 2))
    assert plan.identity() == {"batch_size": 4, "bucket": "published", "ranks": 2}
    plan.start(plan.anchor(5))


def test_what_the_published_plan_cannot_do() -> None:
    with pytest.raises(DataError, match="expected a multiple of the number of ranks, 3"):
        PublishedGroups(pictures([(1, 2)]), 4, 3)
    two = {"a": pictures([(1, 2)]), "b": pictures([(2, 1)])}
    with pytest.raises(ConfigError, match="takes one source"):
        make_plan(two, config_of("published"), seed=0)


@pytest.mark.parametrize("more", [{"group_size": 2}, {"budget": 100}, {"pack": True}])
def test_one_way_to_put_batches_together(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="bucket: shape decides which samples share a batch"):
        config_of("shape", **more)
    with pytest.raises(ValidationError, match="and so does block_size"):
        config_of("published", block_size=8)
    config_of("shape", block_size=8)


def test_sources_are_mixed_in_buckets() -> None:
    shapes = {"a": [(20, 10), (10, 20)] * 9, "b": [(30, 10)] * 6}
    config = DataConfig.model_validate(
        {
            "sources": {name: {"path": name} for name in shapes},
            "loader": {"bucket": "aspect", "batch_size": 4, "budget_window": 12},
        }
    )
    plan = make_plan({name: pictures(list(s)) for name, s in shapes.items()}, config, seed=2)
    kinds = set()
    for number in range(12):
        drawn = plan.batch(number)
        flags = {
            shapes["ab"[source]][row][0] > shapes["ab"[source]][row][1]
            for source, row in zip(drawn.sources.tolist(), drawn.rows.tolist(), strict=True)
        }
        assert len(flags) == 1
        kinds |= set(drawn.sources.tolist())
    assert kinds == {0, 1}

"""From settings to the sources of a run and the plan of its batches."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from diptych.config.layers import resolve
from diptych.data.blocked import BlockedOrder
from diptych.data.budget import WindowPlan
from diptych.data.config import DataConfig
from diptych.data.index import Selection, ShardDataset
from diptych.data.mixture import PartsPlan
from diptych.data.order import Order, derived
from diptych.data.plan import Drawn, OneSource, Plan, PositionPlan
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.sources import make_plan, open_sources, source_configs, source_labels
from diptych.errors import ConfigError, DataError


def write(folder: Path, count: int) -> Path:
    """A dataset of texts: sample i has 4 * (i % 7 + 1) letters and the stars i."""
    with ShardWriter(folder, folder.name) as writer:
        for i in range(count):
            writer.write(
                Sample(
                    key=f"{folder.name}{i:03d}",
                    media={},
                    captions=("abcd" * (i % 7 + 1),),
                    split="test" if i % 5 == 4 else "train",
                    meta={"stars": i, "group": f"g{i % 3}"},
                )
            )
    return folder


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("d") / "books", 50)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("d") / "films", 20)


def settings(**values: Any) -> DataConfig:
    base = {"loader": {"batch_size": 6}, "text": {"max_tokens": 12}}
    for name, given in values.items():
        base[name] = {**base.get(name, {}), **given} if isinstance(given, dict) else given
    return DataConfig.model_validate(base)


def plan_of(config: DataConfig, *, seed: int = 1, world: int = 1) -> Plan:
    return make_plan(open_sources(config), config, seed=seed, world=world)


def same(a: Drawn, b: Drawn) -> bool:
    return all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in ("sources", "rows", "positions", "packs")
    )


# --- Opening ---


def test_without_sources_data_is_the_only_one(books: Path) -> None:
    config = settings(path=str(books), split="train", where="stars < 20")
    found = open_sources(config)
    assert list(found) == ["data"]
    assert found["data"].column("stars").tolist() == [i for i in range(20) if i % 5 < 4]  # type: ignore[union-attr]
    assert source_labels(config) == ["data"]


def test_sources_take_from_data_what_they_do_not_say(books: Path, films: Path) -> None:
    config = settings(
        path=str(books),
        split="train",
        where="stars < 10",
        sources={
            "a": {},
            "b": {"split": "test", "task": "vqa"},
            "c": {"path": str(films), "split": "all", "where": ""},
            "off": {"path": "nowhere", "weight": 0},
        },
    )
    found = open_sources(config)
    assert {name: len(selection) for name, selection in found.items()} == {"a": 8, "b": 2, "c": 20}
    assert source_labels(config) == ["a", "vqa", "c"]
    assert found["a"].dataset is found["b"].dataset


def test_sources_without_a_dataset_or_samples_are_refused(books: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.path: no dataset is given"):
        open_sources(settings())
    with pytest.raises(ConfigError, match=r"^data\.sources\.x\.path: no dataset is given"):
        open_sources(settings(sources={"x": {}}))
    with pytest.raises(DataError, match=r"data\.sources\.x\.where = stars > 99 select no samples"):
        open_sources(settings(sources={"x": {"path": str(books), "where": "stars > 99"}}))
    with pytest.raises(ConfigError, match="all weights are 0"):
        source_configs(settings(sources={"x": {"path": str(books), "weight": 0}}))


def test_sources_on_the_command_line(books: Path) -> None:
    arguments = [f"sources.a.path={books}", "sources.a.weight=0.25", "mixture.temperature=3"]
    config = resolve(DataConfig, None, arguments).config
    assert config.sources["a"].weight == 0.25
    assert config.mixture.temperature == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixture": {"parts": 4}}, "mixture.parts = 4 does not divide loader.batch_size = 6"),
        ({"loader": {"block_size": 5, "group_size": 2}}, "together with group_size = 2"),
        ({"loader": {"budget": 50, "group_size": 2}}, "sorts samples by length"),
        ({"loader": {"pack": True, "budget": 11}}, "expected at least 12"),
    ],
)
def test_settings_that_exclude_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**values)


# --- One source ---


def test_the_plain_plan_is_the_order_of_the_first_version(books: Path) -> None:
    plan = plan_of(settings(path=str(books)), seed=9)
    assert isinstance(plan, PositionPlan)
    assert plan.batch(3).rows.tolist() == Order(50, 9).at(np.arange(18, 24)).tolist()
    assert plan.identity() == {
        "batch_size": 6,
        "shuffle": True,
        "group_size": 1,
        "group_by": "match_id",
    }


def test_groups_and_blocks(books: Path) -> None:
    grouped = plan_of(settings(path=str(books), loader={"group_size": 2, "group_by": "group"}))
    rows = np.concatenate([grouped.batch(k).rows for k in range(8)]).reshape(-1, 2)
    # Groups of 17, 17 and 16: one pair is made of what is left.
    assert (rows[:, 0] % 3 != rows[:, 1] % 3).sum() <= 1
    blocked = plan_of(settings(path=str(books), loader={"block_size": 10, "block_window": 1}))
    assert isinstance(blocked, PositionPlan)
    assert isinstance(blocked.stream, OneSource)
    assert isinstance(blocked.stream.order, BlockedOrder)
    assert blocked.identity()["block_size"] == 10
    in_order = plan_of(settings(path=str(books), loader={"block_size": 10, "shuffle": False}))
    assert in_order.batch(1).rows.tolist() == [6, 7, 8, 9, 10, 11]


# --- Several sources ---


def two(books: Path, films: Path, **values: Any) -> DataConfig:
    return settings(sources={"books": {"path": str(books)}, "films": {"path": str(films)}}, **values)


def test_shares_by_size(books: Path, films: Path) -> None:
    plan = plan_of(two(books, films, mixture={"cycle": 7}))
    drawn = np.concatenate([plan.batch(k).sources for k in range(7)])
    assert Counter(drawn.tolist()) == {0: 30, 1: 12}
    assert plan.batches_per_epoch == pytest.approx(70 / 6)
    assert plan.identity() == {
        "batch_size": 6,
        "sources": ["books", "films"],
        "quotas": [5, 2],
        "shuffle": True,
        "group_size": 1,
        "group_by": "match_id",
    }


def test_the_order_of_a_source_does_not_depend_on_the_others(books: Path, films: Path) -> None:
    plan = plan_of(two(books, films), seed=4)
    drawn = [plan.batch(k) for k in range(30)]
    rows = np.concatenate([d.rows[d.sources == 1] for d in drawn])
    assert rows.tolist() == Order(20, derived(4, "films")).at(np.arange(len(rows))).tolist()


def test_parts_with_ranks(books: Path, films: Path) -> None:
    config = two(books, films, mixture={"parts": 2})
    plan = plan_of(config, world=2)
    assert isinstance(plan, PartsPlan)
    kinds = {tuple(len(set(plan.batch(k, r, 2).sources.tolist())) for r in (0, 1)) for k in range(20)}
    assert kinds == {(1, 1)}
    with pytest.raises(DataError, match=r"data\.mixture\.parts = 2 does not go with 3 ranks"):
        plan_of(config, world=3)


VARIANTS: dict[str, dict[str, Any]] = {
    "samples": {},
    "parts": {"mixture": {"parts": 2}},
    "blocks": {"loader": {"block_size": 4, "block_window": 2}},
    "budget": {"loader": {"budget": 40, "budget_window": 16}},
    "budget in one part": {"loader": {"budget": 40, "budget_window": 16}, "mixture": {"parts": 1}},
    "packed": {"loader": {"pack": True, "budget_window": 16, "batch_size": 2}},
    "packed parts": {"loader": {"pack": True, "budget_window": 16}, "mixture": {"parts": 3}},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_plan_goes_on_from_an_anchor(variant: str, books: Path, films: Path) -> None:
    config = two(books, films, **VARIANTS[variant])
    plan, resumed = plan_of(config), plan_of(config)
    expected = [plan.batch(k) for k in range(60)]
    resumed.start(plan.anchor(40))
    assert resumed.identity() == plan.identity()
    assert all(same(resumed.batch(k), expected[k]) for k in range(40, 60))
    assert not same(plan_of(config, seed=2).batch(7), expected[7])
    positions = np.concatenate([d.positions for d in expected])
    assert len(set(positions.tolist())) == len(positions)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_plan_shows_all_of_each_source_alike(variant: str, books: Path, films: Path) -> None:
    """Walk until every source had some epochs: samples of a source are seen equally often, give or take one.

    A window may bring a sample of the next epoch before one of this: then it is two.
    """
    config = two(books, films, **VARIANTS[variant])
    plan = plan_of(config)
    drawn = [plan.batch(k) for k in range(round(4 * plan.batches_per_epoch))]
    spread = 2 if "budget" in variant or "packed" in variant else 1
    for source, size in enumerate((50, 20)):
        rows = np.concatenate([d.rows[d.sources == source] for d in drawn])
        counts = np.bincount(rows, minlength=size)
        assert counts.max() - counts.min() <= spread
        assert counts.min() >= 2


@pytest.mark.parametrize("variant", ["budget", "budget in one part"])
def test_budgets_hold(variant: str, books: Path, films: Path) -> None:
    plan = plan_of(two(books, films, **VARIANTS[variant]))
    for k in range(40):
        rows = plan.batch(k).rows
        # Letters over four, and two special tokens.
        assert len(rows) * max(int(row) % 7 + 3 for row in rows) <= 40
        assert len(rows) <= 6


# --- Budgets that cannot work ---


def test_a_budget_below_a_sample_is_refused(books: Path) -> None:
    config = settings(path=str(books), loader={"budget": 8})
    message = (
        r"data\.loader\.budget = 8: 7 samples of data cost more than the 8 of a batch \(by "
        r"data\.loader\.budget_by = text up to 9\)"
    )
    with pytest.raises(DataError, match=message):
        plan_of(config)


def test_a_budget_below_a_sample_for_each_rank_is_refused(books: Path) -> None:
    config = settings(path=str(books), loader={"budget": 20})
    plan_of(config)
    with pytest.raises(DataError, match=r"samples of data cost up to 9, .* for 2 ranks; raise .* to 36"):
        plan_of(config, world=2)
    plan_of(settings(path=str(books), loader={"budget": 36}), world=2)


def test_a_budget_by_a_column_of_the_index(books: Path) -> None:
    plan = plan_of(settings(path=str(books), loader={"budget": 60, "budget_by": "stars"}))
    assert isinstance(plan, WindowPlan)
    assert plan.identity()["budget_by"] == "stars"
    for k in range(20):
        rows = plan.batch(k).rows
        assert len(rows) * rows.max() <= 60
    with pytest.raises(DataError, match="no column 'star' in books; did you mean 'stars'"):
        plan_of(settings(path=str(books), loader={"budget": 60, "budget_by": "star"}))


def test_sources_of_different_selections_of_one_dataset(books: Path) -> None:
    dataset = ShardDataset.open(books)
    sources: dict[str, Selection] = {"a": dataset.select("train"), "b": dataset.select("test")}
    config = settings(path=str(books), sources={"a": {"weight": 1}, "b": {"weight": 1}})
    plan = make_plan(sources, config, seed=0)
    counts = np.bincount(np.concatenate([plan.batch(k).sources for k in range(500)]))
    assert counts.tolist() == [1500, 1500]

"""Which source each drawn batch is of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diptych.data.config import DataConfig
from diptych.data.turns import Repeated, drawn_before, draws_of, make_turns
from diptych.errors import DataError


class Sized:
    """Stands for a selection: only its size is asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def config_of(rule: str, draw: str = "rank_batches", **sources: float) -> DataConfig:
    return DataConfig.model_validate(
        {
            "sources": {name: {"weight": weight} for name, weight in sources.items()},
            "mixture": {"draw": draw, "rule": rule, "cycle": 10},
        }
    )


def order(rule: str, count: int, draws: int, units: int) -> list[int]:
    names = {f"s{i}": 1.0 for i in range(count)}
    sizes = {name: Sized(7) for name in names}
    turns = make_turns(sizes, config_of(rule, **names), draws, seed=3)  # type: ignore[arg-type]
    return list(turns.at(np.arange(units))[0])


def test_in_turn_all_draws_of_a_step_are_of_one_source() -> None:
    assert order("turn", 3, 2, 8) == [0, 0, 1, 1, 2, 2, 0, 0]


def test_fixed_draws_keep_their_source() -> None:
    assert order("fixed", 2, 3, 7) == [0, 1, 0, 0, 1, 0, 0]


def test_shifted_draws_move_on_by_one_each_step() -> None:
    assert order("shifted", 3, 2, 8) == [0, 1, 1, 2, 2, 0, 0, 1]


def test_by_weights_a_cycle_has_each_source_as_often_as_it_should() -> None:
    config = config_of("weights", a=7.0, b=2.0, c=1.0)
    sizes = {name: Sized(5) for name in "abc"}
    turns = make_turns(sizes, config, 2, seed=1)  # type: ignore[arg-type]
    for cycle in range(3):
        sources = turns.at(np.arange(10 * cycle, 10 * cycle + 10))[0]
        assert np.bincount(sources).tolist() == [7, 2, 1]


@given(
    st.sampled_from(["weights", "turn", "fixed", "shifted"]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 60),
)
def test_draws_of_a_source_are_numbered_as_they_come(rule: str, count: int, draws: int, unit: int) -> None:
    names = {f"s{i}": 1.0 for i in range(count)}
    sizes = {name: Sized(3) for name in names}
    turns = make_turns(sizes, config_of(rule, **names), draws, seed=9)  # type: ignore[arg-type]
    sources, numbers = turns.at(np.arange(unit + 1))
    seen = [0] * count
    for u in range(unit):
        assert numbers[u] == seen[sources[u]]
        seen[sources[u]] += 1
    assert drawn_before(turns, unit) == seen


def test_a_round_that_lacks_a_source_never_draws_it() -> None:
    turns = Repeated(np.array([0, 2, 0]), 3)
    assert turns.quotas.tolist() == [2, 0, 1]
    assert turns.at(np.array([3, 4, 5]))[1].tolist() == [2, 1, 3]


def test_draws_of_a_step() -> None:
    config = config_of("weights", a=1.0, b=1.0)
    assert draws_of(config, 2, world=4) == 4
    assert draws_of(config_of("fixed", "batches", a=1.0, b=1.0), 2, world=4) == 2
    assert draws_of(config_of("turn", "batches", a=1.0, b=1.0), 2, world=4) == 1
    three = config.with_(mixture=config.mixture.with_(draws=3))
    assert draws_of(three, 2, world=1) == 3
    with pytest.raises(DataError, match="set it to a multiple of 2"):
        draws_of(three, 2, world=2)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="draws = 2 goes with draw = batches"):
        DataConfig.model_validate({"mixture": {"draws": 2}})
    with pytest.raises(ValidationError, match="set parts = 0, or draw = samples"):
        DataConfig.model_validate({"mixture": {"draw": "batches", "parts": 2}})
    with pytest.raises(ValidationError, match="a source has settings of its own in"):
        DataConfig.model_validate({"sources": {"a": {"settings": {"path": "x"}}}})

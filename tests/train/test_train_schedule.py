import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.train.config import ScheduleConfig, TrainConfig
from diptych.train.schedule import Extent, lr_factor

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "eve"
PUBLISHED = json.loads((GOLDEN / "lr_schedules.json").read_text())["cases"]


def factors(config, steps):
    extent = Extent(steps, 0.0)
    return [lr_factor(config, extent, step, step / steps) for step in range(steps)]


def test_linear_by_hand():
    # 10 steps, 2 of warm-up: 1/3, 2/3, then 1 - t/8
    found = factors(ScheduleConfig(name="linear", warmup=2), 10)
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    zero = factors(ScheduleConfig(name="linear", warmup=2, zero_first_step=True), 10)
    assert zero[:3] == [0, 0.5, 1]
    assert zero[3:] == found[3:]


def test_cosine_by_hand():
    found = factors(ScheduleConfig(name="cosine", warmup=0.0, final=0.1), 4)
    # 0.1 + 0.9 * (1 + cos(pi t / 4)) / 2
    assert found == pytest.approx([1, 0.1 + 0.45 * (1 + 0.5**0.5), 0.55, 0.1 + 0.45 * (1 - 0.5**0.5)])


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["config"]["sched"])
def test_published_schedules(case):
    facts = case["config"]
    expected = [rates[0] / facts["lr"] for rates in case["lr_per_step_for_groups_with_mult_1_and_10"]]
    name = {"linear": "linear", "cos": "cosine"}[facts["sched"]]
    config = ScheduleConfig(
        name=name,
        warmup=facts["num_warmup_steps"],
        final=facts.get("eta_min", 0.0) / facts["lr"] if name == "cosine" else 0.0,
        zero_first_step=True,
    )
    steps = facts["epochs"] * facts["step_per_epoch"]
    found = factors(config, steps)
    assert found == pytest.approx(expected[:steps], abs=1e-9)


def test_a_budget_takes_the_place_of_steps():
    extent = Extent.of(TrainConfig(cpu_seconds=50.0, steps=7))
    assert extent == Extent(None, 50.0)
    assert extent.progress(1000, 25.0) == 0.5
    assert extent.progress(1, 60.0) == 1
    linear = ScheduleConfig(name="linear", warmup=0.2)
    assert [lr_factor(linear, extent, 9, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )
    by_steps = ScheduleConfig(name="linear", warmup=3)
    assert [lr_factor(by_steps, extent, s, 0.0) for s in (0, 1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1, 1]


@given(
    st.sampled_from(["linear", "cosine", "constant"]),
    st.one_of(st.integers(1, 50), st.floats(0, 0.99)),
    st.floats(0, 1),
    st.integers(1, 60),
)
def test_rates_stay_between_zero_and_the_peak_and_fall_after_warmup(name, warmup, final, steps):
    config = ScheduleConfig(name=name, warmup=warmup, final=final)
    found = factors(config, steps)
    assert all(0 < factor <= 1 + 1e-12 for factor in found)
    warm = warmup if isinstance(warmup, int) else int(warmup * steps)
    after = found[warm:]
    assert after == sorted(after, reverse=True)
    assert found[:warm] == sorted(found[:warm])


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0.5), (1, 1), (200, 200), (0, 0.0), (3.0, 3)])
def test_warmup_is_a_fraction_or_steps(value, expected):
    found = ScheduleConfig(warmup=value).warmup
    assert found == expected
    assert type(found) is type(expected)


def test_warmup_between_is_refused():
    with pytest.raises(ValueError, match="a fraction below 1 or a whole number"):
        ScheduleConfig(warmup=1.5)


def test_steps_by_hand():
    """Warm-up from a half over two steps of two batches each: batches 1 and 3 of 4 decide."""
    config = ScheduleConfig(name="step", warmup=2, warmup_from=0.5, milestones=(3, 5), gamma=0.1)
    found = [lr_factor(config, Extent(6, 0.0), step, step / 6, 2) for step in range(6)]
    assert found == pytest.approx([0.5 + 0.5 / 4, 0.5 + 0.5 * 3 / 4, 1, 0.1, 0.1, 0.01])
    fractions = ScheduleConfig(name="step", warmup=0.0, milestones=(0.5, 0.9))
    assert factors(fractions, 6) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1])
    budget = Extent(None, 10.0)
    rising = ScheduleConfig(name="step", warmup=0.2, milestones=(0.5,))
    assert [lr_factor(rising, budget, 7, p) for p in (0.1, 0.3, 0.5)] == pytest.approx([0.5, 1, 0.1])


@pytest.mark.parametrize("milestones", [(0.5, 7), (5, 3), (1.5,), (-1,)])
def test_milestones_that_make_no_sense(milestones):
    with pytest.raises(ValueError, match="expected"):
        ScheduleConfig(name="step", milestones=milestones)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_rates_stop_at_the_floor_instead_of_bending_towards_it(name):
    free = factors(ScheduleConfig(name=name, warmup=0), 10)
    kept = factors(ScheduleConfig(name=name, warmup=0, floor=0.3), 10)
    assert kept == [max(0.3, rate) for rate in free]
    assert 0.3 in kept

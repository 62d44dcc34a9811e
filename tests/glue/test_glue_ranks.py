"""GLUE on two ranks: losses, gradients and evaluations are those of one process.

The words of the classes are encoded in shares; unlabelled rows make the ranks count unequal numbers.
"""

from typing import Any

import numpy as np
import pytest
from tests.glue.test_glue_task import PAIR, batch_of, task_of
from tests.rank_data import data_of, part_of
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World, set_world
from diptych.data.draws import Draws
from diptych.systems.task import StepContext

pytestmark = pytest.mark.slow

PAIRS = [
    PAIR,
    ("a cat", "it is"),
    ("this bad cat.", "yes"),
    ("it is wonderful", "a cat"),
    ("no", "a cat sits."),
]
TOLD: dict[str, list[Any]] = {"mnli": [1, 0, None, 2, 1], "sts-b": [4.0, None, 1.5, 0.0, 5.0]}
SPLIT = (3, 2)


def run(world: World) -> dict[str, Any]:
    """Return loss, metrics, averaged gradients and the evaluation of each task."""
    found: dict[str, Any] = {}
    for name, told in TOLD.items():
        task, whole = task_of(name).eval(), batch_of(PAIRS, told, scores=name == "sts-b")
        batch = part_of(whole, world, SPLIT)
        set_world(task, world)
        result = task(batch, StepContext(0, 0.0, Draws(3, batch.positions), world))
        result.total.backward()
        set_world(task, ALONE)
        found[name] = {
            "loss": (world.sum(result.total.detach()) / world.size).item(),
            "metrics": {n: (world.sum(v.detach()) / world.size).item() for n, v in result.metrics.items()},
            "gradients": {
                n: (world.sum(p.grad) / world.size).numpy()
                for n, p in task.named_parameters()
                if p.grad is not None
            },
            "evaluation": task.evaluate(data_of(whole, world, SPLIT), lambda *_: None),
        }
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run(ALONE)


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    return run_ranks(run, timeout=60)


@pytest.mark.parametrize("name", TOLD)
def test_two_ranks_train_what_one_process_trains(
    alone: dict[str, Any], together: list[dict[str, Any]], name: str
) -> None:
    expected = alone[name]
    assert any(np.abs(gradient).max() > 1e-4 for gradient in expected["gradients"].values())
    for rank in together:
        assert rank[name]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert rank[name]["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
        assert rank[name]["gradients"].keys() == expected["gradients"].keys()
        for weight, gradient in expected["gradients"].items():
            found = rank[name]["gradients"][weight]
            np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=2e-6, err_msg=weight)


@pytest.mark.parametrize("name", TOLD)
def test_two_ranks_find_what_one_process_finds(
    alone: dict[str, Any], together: list[dict[str, Any]], name: str
) -> None:
    expected = alone[name]["evaluation"]
    for rank in together:
        found = rank[name]["evaluation"]
        for figure, value in expected.metrics.items():
            if figure != "cpu_seconds":
                near = value if not isinstance(value, float) else pytest.approx(value, rel=1e-4)
                assert found.metrics[figure] == near, figure
        assert [row["index"] for row in found.predictions] == [row["index"] for row in expected.predictions]
        for row, other in zip(found.predictions, expected.predictions, strict=True):
            exact = isinstance(other["prediction"], str)
            assert row["prediction"] == (
                other["prediction"] if exact else pytest.approx(other["prediction"], abs=1e-4)
            )

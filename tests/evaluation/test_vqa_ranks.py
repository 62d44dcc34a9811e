"""Question answering and NLVR2 on two ranks: losses, gradients and evaluations are those of one process.

Dropout and router noise are off, since each rank draws them for itself. One question has no answer in the
list, so that the ranks count unequal numbers of questions.
"""

from typing import Any

import numpy as np
import pytest
from tests.evaluation.conftest import toy_tokenizer
from tests.evaluation.test_nlvr_task import ENTRIES as STATEMENTS
from tests.evaluation.test_nlvr_task import make as make_nlvr
from tests.evaluation.test_nlvr_task import make_batch as make_statements
from tests.evaluation.test_vqa_task import ENTRIES as QUESTIONS
from tests.evaluation.test_vqa_task import make as make_vqa
from tests.evaluation.test_vqa_task import make_batch as make_questions
from tests.rank_data import data_of, part_of
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World, set_world
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.systems.task import StepContext, Task

pytestmark = pytest.mark.slow

ASKED = [*QUESTIONS, QUESTIONS[0]]
SAID = [*STATEMENTS, STATEMENTS[0], STATEMENTS[2]]
SPLIT = (3, 2)


def cases() -> dict[str, tuple[Task, Batch]]:
    """Return a task and the whole batch of each case."""
    words = toy_tokenizer()
    found: dict[str, tuple[Task, Batch]] = {
        "vqa": (make_vqa(words, add_gate_loss=True, gate_weight=0.1), make_questions(words, ASKED))
    }
    for interaction in ("plain", "biattn"):
        task = make_nlvr(words, interaction=interaction, gate_weight=0.1)
        found[f"nlvr {interaction}"] = (task, make_statements(words, SAID))
    return found


def quiet(stage: str, done: int, total: int) -> None:
    assert done <= total


def run(world: World) -> dict[str, Any]:
    """Return loss, metrics and averaged gradients, and the evaluation, of each case."""
    found: dict[str, Any] = {}
    for name, (task, whole) in cases().items():
        batch = part_of(whole, world, SPLIT)
        set_world(task, world)
        result = task.train()(batch, StepContext(0, 0.0, Draws(3, batch.positions), world))
        result.total.backward()
        set_world(task, ALONE)  # in an evaluation ranks have unequal numbers of batches
        found[name] = {
            "parts": {n: (world.sum(p.detach()) / world.size).item() for n, p in result.parts.items()},
            "accuracy": (world.sum(result.metrics["accuracy"]) / world.size).item(),
            "gradients": {
                n: (world.sum(p.grad) / world.size).numpy()
                for n, p in task.named_parameters()
                if p.grad is not None
            },
            "evaluation": task.evaluate(data_of(whole, world, SPLIT), quiet),
        }
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run(ALONE)


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    return run_ranks(run, timeout=60)


@pytest.mark.parametrize("name", ["vqa", "nlvr plain", "nlvr biattn"])
def test_two_ranks_train_what_one_process_trains(
    alone: dict[str, Any], together: list[dict[str, Any]], name: str
) -> None:
    for rank in together:
        assert rank[name]["parts"] == pytest.approx(alone[name]["parts"], rel=1e-5)
        assert rank[name]["accuracy"] == pytest.approx(alone[name]["accuracy"], rel=1e-6)
        ours, theirs = rank[name]["gradients"], alone[name]["gradients"]
        assert ours.keys() == theirs.keys()
        for weight, expected in theirs.items():
            np.testing.assert_allclose(ours[weight], expected, rtol=1e-4, atol=2e-6, err_msg=weight)


@pytest.mark.parametrize("name", ["vqa", "nlvr plain", "nlvr biattn"])
def test_two_ranks_find_what_one_process_finds(
    alone: dict[str, Any], together: list[dict[str, Any]], name: str
) -> None:
    expected = alone[name]["evaluation"]
    for rank in together:
        found = rank[name]["evaluation"]
        assert {**found.metrics, "cpu_seconds": 0} == {**expected.metrics, "cpu_seconds": 0}
        assert found.extra == expected.extra
        for row, other in zip(found.predictions, expected.predictions, strict=True):
            assert row["key"] == other["key"]
            assert row["answer"] == other["answer"]

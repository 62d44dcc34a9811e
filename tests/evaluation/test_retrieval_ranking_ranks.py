"""Evaluation of retrieval by several ranks, beside that of one process."""

from typing import Any

import pytest
from tests.evaluation.conftest import toy_data, toy_task, toy_tokenizer
from tests.evaluation.test_retrieval_ranking import CAPTIONS, MATCH_IDS, quiet
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World
from diptych.errors import DataError
from diptych.systems.task import Evaluation

pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "pairs": {"k_texts": 4, "k_images": 2, "pair_batch": 4, "rerank_score": "sum"},
    "pixels": {"k_test": 3, "embedding_memory_mb": 0},
    "queries": {"k_test": 3, "rerank_batching": "queries", "text_batch": 2},
    "contrastive": {"matching": False},
}


def evaluations(world: World) -> dict[str, Evaluation | str]:
    """Evaluate in all these ways; `one` is a split with fewer pictures than ranks."""
    tokenizer = toy_tokenizer()
    found: dict[str, Evaluation | str] = {}
    for name, settings in SETTINGS.items():
        data = toy_data(CAPTIONS, MATCH_IDS, batch=2, skipped={"decode": 2}, world=world)
        found[name] = toy_task(tokenizer, **settings).evaluate(data, quiet)
    one = toy_data([["red cat", "sad cat"]], [5], world=world)
    found["one"] = toy_task(tokenizer, k_test=3).evaluate(one, quiet)
    try:
        toy_task(tokenizer).evaluate(toy_data([], [], world=world), quiet)
    except DataError as error:
        found["none"] = str(error)
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return evaluations(ALONE)


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    return run_ranks(evaluations, ranks=3)


@pytest.mark.parametrize("way", [*SETTINGS, "one"])
def test_ranks_find_what_one_process_finds(
    alone: dict[str, Any], together: list[dict[str, Any]], way: str
) -> None:
    expected = alone[way]
    for found in (rank[way] for rank in together):
        for row, other in zip(found.predictions, expected.predictions, strict=True):
            assert {**row, "top": []} == {**other, "top": []}
            assert [a["id"] for a in row["top"]] == [a["id"] for a in other["top"]]
            scores = [a["score"] for a in other["top"]]
            assert [a["score"] for a in row["top"]] == pytest.approx(scores, abs=1e-5)
        assert found.extra == expected.extra
        assert {**found.metrics, "cpu_seconds": 0} == {**expected.metrics, "cpu_seconds": 0}
    assert len({rank[way].metrics["cpu_seconds"] for rank in together}) == 1


def test_all_ranks_find_nothing(alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    assert "no readable picture" in alone["none"]
    assert [rank["none"] for rank in together] == [alone["none"]] * 3

"""Multiple choice on toys: losses and figures by hand, other heads and systems, wrong entries."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.evaluation.conftest import TINY as TINY_EVE
from tests.video_tasks.video_toys import (
    WORDS,
    quiet,
    rows_split,
    spread,
    step,
    toy_batch,
    toy_model,
    toy_tokenizer,
)

from diptych.data.batch import Batch
from diptych.errors import DataError, RunError, UsageError
from diptych.metrics.accuracy import by_order, shared_accuracy
from diptych.systems.eve.model import EveModel
from diptych.systems.two_tower.system import SYSTEM as TWO_TOWER
from diptych.tasks.multiple_choice import MultipleChoiceTask, right_option
from diptych.tasks.multiple_choice_config import MultipleChoiceConfig
from diptych.tasks.retrieval_levels import RetrievalLevelsTask
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig

TOKENS = toy_tokenizer()
OPTIONS = [list(WORDS[:5]), list(WORDS[1:6]), list(reversed(WORDS[:5]))]
ENTRIES: list[dict[str, Any]] = [
    {"options": OPTIONS[0], "answer": 2, "question_id": 1, "kind": "action", "ordered": True},
    {"options": OPTIONS[1], "answer": 0, "question_id": 2, "kind": "colour", "ordered": False},
    {"options": OPTIONS[2], "answer": None, "question_id": 3, "kind": "colour", "ordered": False},
]


def make(**settings: Any) -> MultipleChoiceTask:
    task = MultipleChoiceTask(toy_model(), MultipleChoiceConfig(dropout=0.0, **settings), TOKENS)
    spread(task, task.match, task.itm)
    return task


def choices(entries: list[dict[str, Any]] = ENTRIES) -> Batch:
    return toy_batch(TOKENS, OPTIONS, {"choices": entries})


def one_by_one(task: MultipleChoiceTask, batch: Batch) -> torch.Tensor:
    """Return the scores of all options, each read alone."""
    rows = []
    for row in range(len(batch)):
        one = batch.take(torch.tensor([row]))
        assert one.text_ids is not None
        assert one.text_mask is not None
        scores = [
            task.logits(
                replace(one, text_ids=one.text_ids[:, c : c + 1], text_mask=one.text_mask[:, c : c + 1])
            )[0]
            for c in range(5)
        ]
        rows.append(torch.cat(scores, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("settings", [{}, {"head": "matching"}, {"scores": "features"}])
def test_the_loss_is_cross_entropy_over_options_with_an_answer(settings: dict[str, Any]) -> None:
    task, batch = make(**settings), choices()
    found = step(task, batch)
    with torch.no_grad():
        scores = one_by_one(task, batch)
    torch.testing.assert_close(task.logits(batch)[0], scores, rtol=1e-4, atol=1e-5)
    expected = F.cross_entropy(scores[:2], torch.tensor([2, 0]))
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    right = (scores[:2].argmax(1) == torch.tensor([2, 0])).float().mean()
    assert found.metrics["accuracy"].item() == pytest.approx(right.item())
    found.total.backward()
    heads = [n for n, p in task.named_parameters() if not n.startswith("model.") and p.grad is None]
    assert heads == []


def test_figures_and_rows() -> None:
    task = make()
    found = task.evaluate(rows_split(choices()), quiet)
    scores = one_by_one(task.eval(), choices())
    right = [float(scores[0].argmax() == 2), float(scores[1].argmax() == 0)]
    metrics = found.metrics
    assert (metrics["questions"], metrics["scored"], metrics["headline"]) == (3, 2, "accuracy")
    assert metrics["accuracy"] == pytest.approx(sum(right) / 2)
    assert metrics["kinds"] == {
        "action": {"accuracy": right[0], "count": 1},
        "colour": {"accuracy": right[1], "count": 1},
    }
    assert (metrics["ordered"], metrics["unordered"]) == (
        {"accuracy": right[0], "count": 1},
        {"accuracy": right[1], "count": 1},
    )
    # Places 2 and 0 are right once each.
    chance = {"most_frequent": 0.5, "most_frequent_by_kind": 1.0, "random": 0.2}
    assert metrics["chance"] == pytest.approx(chance)
    row = found.predictions[0]
    assert row["answer"] == OPTIONS[0][int(scores[0].argmax())]
    assert (row["right"], row["right_choice"]) == ([OPTIONS[0][2]], 2)
    assert (found.predictions[2]["accuracy"], found.predictions[2]["right"]) == (None, [])
    assert found.extra["submission"] == [
        {"question_id": i + 1, "answer": int(scores[i].argmax())} for i in range(3)
    ]


def test_equal_scores_are_a_guess() -> None:
    assert shared_accuracy([0.5, 2.0, 1.0], 1) == 1
    assert shared_accuracy([0.5, 2.0, 1.0], 2) == 0
    assert shared_accuracy([1.0, 1.0, 0.0, 1.0], 3) == pytest.approx(1 / 3)
    assert shared_accuracy([0.0] * 5, 0) == pytest.approx(0.2)


def test_order_is_told_where_it_is_known() -> None:
    assert by_order([1.0, 0.0, 0.5, 1.0], [True, True, False, None]) == {
        "ordered": {"accuracy": 0.5, "count": 2},
        "unordered": {"accuracy": 0.5, "count": 1},
    }
    assert by_order([1.0], [None]) == {}


def test_a_blind_control_sees_the_same_clip_everywhere() -> None:
    task = make(blind="image")
    batch = toy_batch(TOKENS, [OPTIONS[0]] * 2, {"choices": [ENTRIES[0]] * 2})
    scores = task.eval().logits(batch)[0]
    torch.testing.assert_close(scores[0], scores[1])
    seen = make().eval().logits(batch)[0]
    assert not torch.allclose(seen[0], seen[1])


def test_the_head_of_retrieval_fits() -> None:
    """As published: a retrieval model answers without further training."""
    before = RetrievalLevelsTask(toy_model(), RetrievalLevelsConfig(), TOKENS).state_dict()
    assert make().state_dict().keys() == before.keys()


def test_other_systems() -> None:
    eve = MultipleChoiceTask(EveModel(TINY_EVE), MultipleChoiceConfig(head="matching"), TOKENS)
    batch = choices()
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    found = step(eve, replace(batch, images=pictures))
    assert set(found.parts) == {"choice", "routing"}
    towers = TWO_TOWER.build(TWO_TOWER.toy_config())
    side = towers.image_spec.size
    config = MultipleChoiceConfig(scores="features")
    assert MultipleChoiceTask.needs(config) <= towers.capabilities
    pictures = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    task = MultipleChoiceTask(towers, config, TOKENS)
    step(task, replace(batch, images=pictures)).total.backward()
    assert task.itc is not None
    assert task.itc.visual.weight.grad is not None


def test_rows_that_are_no_choices() -> None:
    task = make()
    with pytest.raises(UsageError, match=r"data\.examples=choices"):
        step(task, toy_batch(TOKENS, list(WORDS[:2])))
    with pytest.raises(UsageError, match=r"data\.examples=choices"):
        step(task, toy_batch(TOKENS, OPTIONS))


@pytest.mark.parametrize("answer", [5, -1, "2", True, 1.0])
def test_answers_that_are_no_place(answer: Any) -> None:
    with pytest.raises(DataError, match="place of the right one of its 5 options"):
        right_option({"options": OPTIONS[0], "answer": answer, "question_id": 4})


def test_a_model_that_diverged() -> None:
    task = make()
    with torch.no_grad():
        task.model.cross_pooler.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.evaluate(rows_split(choices()), quiet)


def test_without_answers_there_is_no_accuracy() -> None:
    entries = [{"options": options} for options in OPTIONS]
    metrics = make().evaluate(rows_split(choices(entries)), quiet).metrics
    assert (metrics["scored"], "accuracy" in metrics) == (0, False)

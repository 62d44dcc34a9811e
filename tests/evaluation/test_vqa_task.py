"""Question answering on a toy EVE: answers, targets, loss, controls, evaluation."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.evaluation.conftest import TINY

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import DataError, RunError, UsageError
from diptych.systems.eve.model import EveModel
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.fused import visible_text
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_answers import Answers, frequent_answers, read_answers
from diptych.tasks.vqa_config import VqaConfig

ANSWERS = ["yes", "no", "2", "red"]
ENTRIES: list[dict[str, Any]] = [
    {"question": "red cat", "answer": "yes", "question_id": 7, "kind": "presence"},
    {"question": "blue dog", "answers": ["Two"] * 9 + ["three"], "question_id": 8, "kind": "count"},
    {"question": "old car", "answers": ["no"] * 2 + ["red"] * 8, "question_id": 9},
    {"question": "hot sun", "answer": "unheard of", "question_id": 10, "kind": "count"},
]


def make(tokenizer: Tokenizer, **settings: Any) -> VqaTask:
    torch.manual_seed(3)
    task = VqaTask(EveModel(TINY), VqaConfig(**settings), tokenizer, ANSWERS)
    torch.nn.init.normal_(task.vqa.classifier.weight, std=0.5)  # so that scores differ clearly
    return task


def make_batch(tokenizer: Tokenizer, entries: list[dict[str, Any]]) -> Batch:
    count = len(entries)
    ids, mask = tokenizer.encode([entry["question"] for entry in entries], 8)
    generator = torch.Generator().manual_seed(1)
    return Batch(
        keys=[f"picture{i}" for i in range(count)],
        positions=torch.arange(count),
        match_ids=torch.arange(count),
        images=torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8),
        text_ids=ids,
        text_mask=mask,
        extra={"questions": entries},
    )


def step(task: VqaTask, batch: Batch) -> Any:
    return task.train()(batch, StepContext(0, 0.0, Draws(0, batch.positions)))


def test_targets_of_answers_in_and_out_of_the_list() -> None:
    targets = Answers(ANSWERS).targets(ENTRIES)
    expected = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0.6, 0, 1], [0, 0, 0, 0]]
    assert torch.equal(targets, torch.tensor(expected))


def test_an_answer_is_looked_up_as_it_stands_first() -> None:
    answers = Answers(["two", "2", "Red", "red"])
    assert [answers.find(name) for name in ("two", "2", "red", "Red", "the red", "blue")] == [
        0,
        1,
        3,
        2,
        2,
        None,
    ]


def test_loss_is_the_published_one(tokenizer: Tokenizer) -> None:
    task, batch = make(tokenizer), make_batch(tokenizer, ENTRIES)
    result = step(task, batch)
    with torch.no_grad():
        logits = task.logits(batch)[:3]
    targets = Answers(ANSWERS).targets(ENTRIES)[:3]
    # The last question has no answer in the list: it does not count.
    published = F.binary_cross_entropy_with_logits(logits, targets) * len(ANSWERS)
    assert result.total.item() == pytest.approx(published.item(), rel=1e-6)
    assert set(result.parts) == {"vqa"}
    assert result.metrics["answerable"].item() == 0.75
    right = targets.gather(1, logits.argmax(1, keepdim=True)).mean()
    assert result.metrics["accuracy"].item() == pytest.approx(right.item())


def test_answers_that_compete(tokenizer: Tokenizer) -> None:
    task, batch = make(tokenizer, loss="softmax"), make_batch(tokenizer, ENTRIES)
    result = step(task, batch)
    with torch.no_grad():
        logits = task.logits(batch)
    # One right answer each, but 3 : 5 for the third question; the last one does not count.
    shares = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0.375, 0, 0.625]])
    expected = F.cross_entropy(logits[:3], shares)
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(task.probabilities(logits).sum(1), torch.ones(4))
    torch.testing.assert_close(make(tokenizer).probabilities(logits), logits.sigmoid())


def test_answers_start_as_improbable_as_asked(tokenizer: Tokenizer) -> None:
    assert make(tokenizer, answer_bias=-2.5).vqa.classifier.bias.tolist() == [-2.5] * 4


def test_routing_loss_is_reported_or_trained(tokenizer: Tokenizer) -> None:
    batch = make_batch(tokenizer, ENTRIES)
    told, trained = (
        step(make(tokenizer, add_gate_loss=add, gate_weight=0.5), batch) for add in (False, True)
    )
    assert told.metrics["routing"].item() == pytest.approx(trained.parts["routing"].item())
    assert trained.total.item() == pytest.approx(told.total.item() + told.metrics["routing"].item(), rel=1e-6)
    trained.total.backward()


def test_a_batch_without_any_answer_trains_nothing(tokenizer: Tokenizer) -> None:
    task = make(tokenizer)
    result = step(task, make_batch(tokenizer, ENTRIES[3:]))
    result.total.backward()
    assert result.total.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())


def test_rows_that_are_no_questions(tokenizer: Tokenizer) -> None:
    batch = make_batch(tokenizer, ENTRIES)
    batch.extra.clear()
    with pytest.raises(UsageError, match=r"data\.examples=questions"):
        step(make(tokenizer), batch)


def test_pictures_of_another_size(tokenizer: Tokenizer) -> None:
    from dataclasses import replace

    batch = replace(make_batch(tokenizer, ENTRIES), images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"data\.image\.size: pictures of 8 x 8"):
        step(make(tokenizer), batch)


@torch.no_grad()
def test_controls_see_one_input_only(tokenizer: Tokenizer) -> None:
    from dataclasses import replace

    batch = make_batch(tokenizer, ENTRIES)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    others = replace(batch, images=batch.images.flip(0))
    asked = replace(batch, text_ids=batch.text_ids.flip(0), text_mask=batch.text_mask.flip(0))
    for blind, same, different in (("image", others, asked), ("text", asked, others)):
        task = make(tokenizer, blind=blind).eval()
        assert torch.equal(task.logits(batch), task.logits(same))
        assert not torch.allclose(task.logits(batch), task.logits(different))
    ids, mask = visible_text(batch.text_ids, batch.text_mask, tokenizer, "text")
    assert ids[0].tolist() == [tokenizer.cls_id, tokenizer.sep_id] + [tokenizer.pad_id] * 6
    assert mask.sum(1).tolist() == [2] * 4


def split_of(batches: list[Batch]) -> EvalData:
    def read() -> Iterator[Batch]:
        yield from batches

    return EvalData("toy", "test", sum(map(len, batches)), read)


def quiet(stage: str, done: int, total: int) -> None:
    assert stage == "questions"
    assert done <= total


def test_evaluation(tokenizer: Tokenizer) -> None:
    task, batch = make(tokenizer).train(), make_batch(tokenizer, ENTRIES)
    # The weights say "2" whatever is asked.
    torch.nn.init.zeros_(task.vqa.classifier.weight)
    with torch.no_grad():
        task.vqa.classifier.bias.copy_(torch.tensor([0.0, -1.0, 2.0, 1.0]))
    parts = [batch.take(torch.tensor(rows)) for rows in ([0, 1], [2, 3])]
    result = task.evaluate(split_of(parts), quiet)
    assert task.training
    metrics = result.metrics
    assert metrics["task"] == "vqa"
    assert metrics["questions"] == metrics["scored"] == 4
    assert metrics["accuracy"] == pytest.approx(0.25)
    assert metrics["kinds"] == {
        "count": {"accuracy": 0.5, "count": 2},
        "presence": {"accuracy": 0.0, "count": 1},
    }
    assert metrics["reachable"] == pytest.approx(0.75)
    assert metrics["chance"] == {"most_frequent": 0.25, "most_frequent_by_kind": 0.75, "random": 0.25}
    row = result.predictions[1]
    assert (row["key"], row["question_id"], row["answer"], row["accuracy"]) == ("picture1", 8, "2", 1.0)
    assert [top["answer"] for top in row["top"]] == ["2", "red", "yes", "no"]
    assert row["top"][0]["score"] == pytest.approx(1 / (1 + 2.718281828**-2))
    assert result.extra["submission"] == [{"question_id": i, "answer": "2"} for i in (7, 8, 9, 10)]
    assert {layer["layer"] for layer in result.extra["experts"]["layers"]} == {1}
    json.dumps(result.extra)


def test_submission_has_each_question_once_and_needs_no_answers(tokenizer: Tokenizer) -> None:
    entries = [{"question": e["question"], "question_id": e["question_id"] % 9} for e in ENTRIES]
    entries.append({"question": "sad cat"})
    result = make(tokenizer).evaluate(split_of([make_batch(tokenizer, entries)]), quiet)
    assert result.metrics["scored"] == 0
    assert "accuracy" not in result.metrics
    ids = [row["question_id"] for row in result.extra["submission"]]
    assert ids == [7, 8, 0, 1, "picture4/sad cat"]
    repeated = make(tokenizer).evaluate(
        split_of([make_batch(tokenizer, [ENTRIES[0], *ENTRIES[:1]] * 2)]), quiet
    )
    assert len(repeated.extra["submission"]) == 1


def test_weights_that_are_not_finite_and_splits_without_questions(tokenizer: Tokenizer) -> None:
    task = make(tokenizer)
    with pytest.raises(DataError, match="no question"):
        task.evaluate(split_of([]), quiet)
    torch.nn.init.constant_(task.vqa.classifier.bias, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.evaluate(split_of([make_batch(tokenizer, ENTRIES)]), quiet)


# Where the list of answers comes from


def test_answers_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS))
    assert read_answers(path) == ANSWERS
    assert VqaTask.find_assets(VqaConfig(answers=str(path)), [], {}) == {"answers": ANSWERS}
    for content, words in (
        ("{", "no JSON"),
        ("[]", "list of texts"),
        ("[1]", "list of texts"),
        ('["a", "b", "a"]', "there twice: 'a'"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=words):
            read_answers(path)
    with pytest.raises(DataError, match=r"task\.answers = .*nothing\.json: cannot be read"):
        read_answers(tmp_path / "nothing.json")


def test_frequent_answers_by_number_then_by_alphabet() -> None:
    entries = [{"answers": ["Two", "2", "the dog", "a"]}, {"answer": "zebra"}, {"answer": "cat"}, {}]
    assert frequent_answers(entries, 10) == ["2", "a", "cat", "dog", "zebra"]
    assert frequent_answers(entries, 2) == ["2", "a"]
    with pytest.raises(DataError, match=r"task\.answers = auto"):
        frequent_answers([{}], 3)


def test_answers_of_the_model_before_those_of_the_dataset() -> None:
    config = VqaConfig()
    source: Any = SimpleNamespace(dataset=SimpleNamespace(info={"facts": {"answers": ["x", "y"]}}))
    assert VqaTask.find_assets(config, [("", source)], {"answers": ["b"]}) == {"answers": ["b"]}
    assert VqaTask.find_assets(config, [("", source)], {}) == {"answers": ["x", "y"]}


def test_a_model_without_answers(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"set task\.answers"):
        VqaTask.create(EveModel(TINY), VqaConfig(), tokenizer, {})
    task = VqaTask.create(EveModel(TINY), VqaConfig(), tokenizer, {"answers": ANSWERS})
    assert task.assets() == {"answers": ANSWERS}

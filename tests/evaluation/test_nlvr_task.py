"""Statements about two pictures on a toy EVE: heads, loss, controls, evaluation."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.evaluation.conftest import TINY

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import DataError, RunError, UsageError
from diptych.objectives.two_pictures import PairedAttentionHead
from diptych.systems.eve.model import EveModel
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.nlvr import NlvrTask
from diptych.tasks.nlvr_config import NlvrConfig
from diptych.tasks.nlvr_results import label_of

ENTRIES: list[dict[str, Any]] = [
    {"statement": "red cat", "label": True, "kind": "more", "identifier": "dev-1"},
    {"statement": "red cat", "label": "False", "kind": "more", "identifier": "dev-2"},
    {"statement": "old car", "label": False, "kind": "both", "identifier": "dev-3"},
]
INTERACTIONS = ("plain", "biattn")


def make(tokenizer: Tokenizer, **settings: Any) -> NlvrTask:
    torch.manual_seed(3)
    task = NlvrTask(EveModel(TINY), NlvrConfig(**{"dropout": 0.0, **settings}), tokenizer)
    torch.nn.init.normal_(task.nlvr.classifier.weight, std=0.5)  # so that scores differ clearly
    return task


def make_batch(tokenizer: Tokenizer, entries: list[dict[str, Any]] = ENTRIES) -> Batch:
    count = len(entries)
    ids, mask = tokenizer.encode([entry["statement"] for entry in entries], 8)
    generator = torch.Generator().manual_seed(1)
    return Batch(
        keys=[f"pair{i}" for i in range(count)],
        positions=torch.arange(count),
        match_ids=torch.arange(count),
        images=torch.randint(0, 256, (count, 2, 3, 16, 16), generator=generator, dtype=torch.uint8),
        text_ids=ids,
        text_mask=mask,
        extra={"statements": entries},
    )


def step(task: NlvrTask, batch: Batch) -> Any:
    return task.train()(batch, StepContext(0, 0.0, Draws(0, batch.positions)))


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_loss_is_cross_entropy_and_routing(tokenizer: Tokenizer, interaction: str) -> None:
    task = make(tokenizer, interaction=interaction, gate_weight=0.1)
    batch = make_batch(tokenizer)
    result = step(task, batch)
    logits, routing = task.read(batch)
    labels = torch.tensor([1, 0, 0])
    assert len(routing) == 2
    assert result.parts["nlvr"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert result.parts["routing"].item() == pytest.approx(0.1 * torch.stack(routing).mean().item(), rel=1e-6)
    assert result.total.item() == pytest.approx(sum(p.item() for p in result.parts.values()), rel=1e-6)
    assert result.metrics["accuracy"].item() == pytest.approx(
        (logits.argmax(1) == labels).float().mean().item()
    )
    result.total.backward()
    assert [n for n, p in task.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("interaction", INTERACTIONS)
@torch.no_grad()
def test_joint_pass_equals_separate_passes(tokenizer: Tokenizer, interaction: str) -> None:
    batch = make_batch(tokenizer)
    both = [
        make(tokenizer, interaction=interaction, passes=passes).eval().read(batch)[0]
        for passes in ("separate", "joint")
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interaction", INTERACTIONS)
@torch.no_grad()
def test_order_of_the_pictures_and_padding(tokenizer: Tokenizer, interaction: str) -> None:
    task, batch = make(tokenizer, interaction=interaction).eval(), make_batch(tokenizer)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    swapped = replace(batch, images=batch.images.flip(1))
    assert not torch.allclose(task.read(batch)[0], task.read(swapped)[0])
    used = int(batch.text_mask.sum(1).max())
    trimmed = replace(batch, text_ids=batch.text_ids[:, :used], text_mask=batch.text_mask[:, :used])
    torch.testing.assert_close(task.read(batch)[0], task.read(trimmed)[0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_paired_attention_by_a_plain_oracle() -> None:
    torch.manual_seed(0)
    head = PairedAttentionHead(8, 2, 0.0).eval()
    first, second = torch.randn(2, 3, 5, 8)
    masks = (
        torch.ones(3, 5, dtype=torch.bool),
        torch.tensor([[True] * n + [False] * (5 - n) for n in (5, 4, 2)]),
    )

    def attend(module: torch.nn.MultiheadAttention, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """One statement, [S, D]; masked keys are left out beforehand."""
        weight, bias = module.in_proj_weight.split(8), module.in_proj_bias.split(8)
        q, k, v = (F.linear(x, weight[i], bias[i]) for i, x in enumerate((query, key, key)))
        heads = [((q[:, h] @ k[:, h].T) / 4**0.5).softmax(-1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
        return module.out_proj(torch.cat(heads, 1))

    def pool(found: torch.Tensor, states: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        joined = F.relu(head.joint(torch.cat([found, states], 1)))[keep]
        return F.relu(head.pool(joined))[:, 0].softmax(0) @ joined

    rows = []
    for i in range(3):
        (a, b), (keep_a, keep_b) = (first[i], second[i]), (masks[0][i], masks[1][i])
        left = pool(attend(head.first_attention, a, b[keep_b]), a, keep_a)
        right = pool(attend(head.second_attention, b, a[keep_a]), b, keep_b)
        rows.append(head.classifier(torch.cat([left, right])))
    torch.testing.assert_close(head(first, second, masks), torch.stack(rows), rtol=1e-5, atol=1e-6)


def test_dropout_only_in_training(tokenizer: Tokenizer) -> None:
    task, batch = make(tokenizer, dropout=0.5), make_batch(tokenizer)
    torch.manual_seed(0)
    assert step(task, batch).total.item() != step(task, batch).total.item()
    task.eval()
    assert torch.equal(task.read(batch)[0], task.read(batch)[0])


@torch.no_grad()
def test_controls_see_one_input_only(tokenizer: Tokenizer) -> None:
    batch = make_batch(tokenizer)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    others = replace(batch, images=batch.images.flip(0))
    said = replace(batch, text_ids=batch.text_ids.flip(0), text_mask=batch.text_mask.flip(0))
    for blind, same, different in (("image", others, said), ("text", said, others)):
        task = make(tokenizer, blind=blind).eval()
        assert torch.equal(task.read(batch)[0], task.read(same)[0])
        assert not torch.allclose(task.read(batch)[0], task.read(different)[0])


def test_attention_heads(tokenizer: Tokenizer) -> None:
    head = make(tokenizer).nlvr
    assert isinstance(head, PairedAttentionHead)
    assert head.first_attention.num_heads == TINY.heads
    assert make(tokenizer, heads=4).nlvr.first_attention.num_heads == 4  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"task\.heads: 3 attention heads do not divide"):
        make(tokenizer, heads=3)


def test_what_is_no_statement(tokenizer: Tokenizer) -> None:
    batch, task = make_batch(tokenizer), make(tokenizer)
    assert batch.images is not None
    with pytest.raises(UsageError, match=r"data\.examples=statements"):
        step(task, replace(batch, images=batch.images[:, 0]))
    with pytest.raises(UsageError, match=r"data\.examples=statements"):
        step(task, replace(batch, extra={}))
    unlabelled = replace(batch, extra={"statements": [{"statement": "x"}] * 3})
    with pytest.raises(UsageError, match="'pair0' have no `label`"):
        step(task, unlabelled)
    assert [label_of({"label": x}) for x in (True, "True", "false", 1, None)] == [
        True,
        True,
        False,
        True,
        None,
    ]
    with pytest.raises(DataError, match="expected true or false, got 'perhaps'"):
        label_of({"label": "perhaps"})


def split_of(batches: list[Batch]) -> EvalData:
    def read() -> Iterator[Batch]:
        yield from batches

    return EvalData("toy", "dev", sum(map(len, batches)), read)


def quiet(stage: str, done: int, total: int) -> None:
    assert stage == "statements"
    assert done <= total


def test_evaluation(tokenizer: Tokenizer) -> None:
    task, batch = make(tokenizer).train(), make_batch(tokenizer)
    # The weights say "true" to everything.
    torch.nn.init.zeros_(task.nlvr.classifier.weight)
    with torch.no_grad():
        task.nlvr.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    parts = [batch.take(torch.tensor(rows)) for rows in ([0, 1], [2])]
    result = task.evaluate(split_of(parts), quiet)
    assert task.training
    metrics = result.metrics
    assert metrics["statements"] == metrics["scored"] == 3
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    # "red cat" is said of two pairs, and judged rightly for one of them.
    assert metrics["consistency"] == 0.0
    assert metrics["kinds"] == {
        "both": {"accuracy": 0.0, "count": 1},
        "more": {"accuracy": 0.5, "count": 2},
    }
    assert metrics["chance"]["most_frequent"] == pytest.approx(2 / 3)
    row = result.predictions[1]
    assert (row["key"], row["statement"], row["answer"], row["label"], row["right"]) == (
        "pair1", "red cat", True, False, False,
    )  # fmt: skip
    assert row["score"] == pytest.approx(1 / (1 + 2.718281828**-1))
    assert result.extra["submission"] == [{"identifier": f"dev-{i}", "label": "True"} for i in (1, 2, 3)]
    json.dumps(result.extra)


def test_evaluation_without_labels_or_statements(tokenizer: Tokenizer) -> None:
    task = make(tokenizer)
    unlabelled = make_batch(tokenizer, [{"statement": "red cat"}, {"statement": "old car"}])
    result = task.evaluate(split_of([unlabelled]), quiet)
    assert result.metrics["scored"] == 0
    assert "accuracy" not in result.metrics
    assert [row["identifier"] for row in result.extra["submission"]] == ["pair0/red cat", "pair1/old car"]
    with pytest.raises(DataError, match="no statement"):
        task.evaluate(split_of([]), quiet)
    torch.nn.init.constant_(task.nlvr.classifier.bias, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.evaluate(split_of([make_batch(tokenizer)]), quiet)

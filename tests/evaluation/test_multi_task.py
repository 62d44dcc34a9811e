"""Several tasks on one model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.evaluation.conftest import TINY, WORDS
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.task import Loss, StepContext
from diptych.tasks.multi import MultiTask, MultiTaskConfig
from diptych.tasks.retrieval_config import RetrievalConfig

PAIRS = RetrievalConfig(matching=False)
TWO = MultiTaskConfig(tasks={"coco": PAIRS, "sbu": PAIRS.with_(label_smoothing=0.1)}, weights={"sbu": 0.5})


def build(config: MultiTaskConfig, system: EveConfig = TINY) -> MultiTask:
    torch.manual_seed(3)
    return MultiTask(EveModel(system), config, Tokenizer.train([*WORDS, *WORDS], 100)).train()


def make_batch(labels: list[str]) -> Batch:
    tokenizer = Tokenizer.train([*WORDS, *WORDS], 100)
    n = len(labels)
    ids, mask = tokenizer.encode(list(WORDS[:n]), 8)
    generator = torch.Generator().manual_seed(1)
    return Batch(
        keys=[str(i) for i in range(n)],
        positions=torch.arange(n),
        match_ids=torch.arange(n),
        images=torch.randint(0, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8),
        text_ids=ids,
        text_mask=mask,
        labels=labels,
    )


def step(task: MultiTask, batch: Batch, world: World = ALONE) -> Loss:
    return task(batch, StepContext(0, 0.0, Draws(0, batch.positions), world))


def test_the_loss_is_the_weighted_mean_over_samples() -> None:
    task, batch = build(TWO), make_batch(["coco", "sbu", "coco", "coco", "sbu", "coco"])
    found = step(task, batch)
    coco, sbu = torch.tensor([0, 2, 3, 5]), torch.tensor([1, 4])
    singles = [
        task.tasks[label](batch.take(rows), StepContext(0, 0.0, Draws(0, rows)))
        for label, rows in (("coco", coco), ("sbu", sbu))
    ]
    wanted = 4 / 6 * singles[0].total + 2 / 6 * 0.5 * singles[1].total
    assert torch.allclose(found.total, wanted)
    assert torch.allclose(torch.stack(list(found.parts.values())).sum(), found.total)
    assert torch.allclose(found.parts["sbu/itc"], singles[1].parts["itc"] / 6)
    assert "coco/itc_accuracy" in found.metrics


def test_a_task_without_samples_is_left_out() -> None:
    found = step(build(TWO), make_batch(["coco"] * 4))
    assert {name.partition("/")[0] for name in found.parts} == {"coco"}


def test_heads_of_one_name_are_one_module() -> None:
    masked = EvePretrainConfig(itc_weight=1.0, itm_weight=0.0, image_mask_ratio=0.5)
    task = build(MultiTaskConfig(tasks={"pairs": PAIRS, "masked": masked}))
    assert task.tasks["pairs"].itc is task.tasks["masked"].itc
    assert {name.partition(".")[0] for name in task.state_dict()} == {"model", "itc", "mlm", "mim"}
    assert task.eval().tasks["pairs"].training is False


def test_heads_of_one_name_and_two_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"task\.tasks\.b: its head 'itc' has another shape"):
        build(MultiTaskConfig(tasks={"a": PAIRS, "b": PAIRS.with_(itc_dim=5)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["coco", "sub", "coco"]}, r"labelled 'sub'; did you mean 'sbu'\?|'sub'.*sbu"),
        ({"images": None}, r"task\.tasks\.coco needs images"),
    ],
)
def test_samples_that_fit_no_task_are_refused(change: dict[str, Any], message: str) -> None:
    batch = replace(make_batch(["coco", "sbu", "coco"]), **change)
    with pytest.raises(UsageError, match=message):
        step(build(TWO), batch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected at least one"),
        ({"tasks": {"coco": PAIRS}, "weights": {"cocoo": 1.0}}, "did you mean 'coco'"),
        ({"tasks": {"coco": PAIRS}, "evaluate": "x"}, "no task is called 'x'"),
    ],
)
def test_wrong_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MultiTaskConfig.model_validate(values)


def _gradients(task: MultiTask) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in task.named_parameters()
    }


def _on_rank(world: World, labels: list[str]) -> tuple[float, dict[str, torch.Tensor]]:
    task, batch = build(TWO), make_batch(labels)
    half = len(labels) // world.size
    loss = step(task, batch.take(torch.arange(half * world.rank, half * (world.rank + 1))), world)
    loss.total.backward()
    return float(loss.total.detach()), _gradients(task)


def _alone(batch: Batch, parts: list[tuple[str, list[int], float]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the sum of `factor` times a task's own loss over `rows`, each worked out by itself."""
    task = build(TWO)
    total = torch.zeros(())
    for label, rows, factor in parts:
        own = torch.tensor(rows)
        loss = task.tasks[label](batch.take(own), StepContext(0, 0.0, Draws(0, own))).total
        total = total + factor * loss
    total.backward()
    return float(total.detach()), _gradients(task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        # Each rank its own task: both work on their own samples.
        (["coco"] * 3 + ["sbu"] * 3, [("coco", [0, 1, 2], 0.5), ("sbu", [3, 4, 5], 0.25)]),
        # Both ranks have coco, which sees the samples of both; only the second has sbu.
        (["coco"] * 3 + ["sbu", "coco", "sbu"], [("coco", [0, 1, 2, 4], 4 / 6), ("sbu", [3, 5], 1 / 6)]),
    ],
)
def test_ranks_with_different_tasks(labels: list[str], parts: list[tuple[str, list[int], float]]) -> None:
    ranks = run_ranks(_on_rank, labels)
    wanted, gradients = _alone(make_batch(labels), parts)
    assert sum(loss for loss, _ in ranks) / 2 == pytest.approx(wanted, rel=1e-5)
    for name, gradient in gradients.items():
        mean = (ranks[0][1][name] + ranks[1][1][name]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_batches_are_taken_apart() -> None:
    batch: Batch = make_batch(["a", "b", "c", "d"])
    taken = batch.take(torch.tensor([2, 0]))
    assert taken.keys == ["2", "0"]
    assert taken.labels == ["c", "a"]
    assert batch.images is not None
    assert taken.images is not None
    assert torch.equal(taken.images, batch.images[[2, 0]])
    assert taken.texts is None

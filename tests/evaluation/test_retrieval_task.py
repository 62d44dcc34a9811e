"""Training side of the retrieval task, on a toy EVE."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.systems.task import Loss, StepContext
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_batch import batch_texts
from diptych.tasks.retrieval_config import RetrievalConfig

MakeTask = Callable[..., RetrievalTask]


@pytest.fixture
def batch(tokenizer: Tokenizer) -> Batch:
    """Six samples: two pictures of concept 1, and two concepts (2 and 3) that have one name."""
    texts = ["red cat", "red cat", "blue dog", "blue dog", "old car", "green tree"]
    ids, mask = tokenizer.encode(texts, 8)
    images = torch.randint(
        0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    return Batch(
        keys=[str(i) for i in range(6)],
        positions=torch.arange(6),
        match_ids=torch.tensor([1, 1, 2, 3, 4, 5]),
        images=images,
        text_ids=ids,
        text_mask=mask,
    )


def step(task: RetrievalTask, batch: Batch, progress: float = 0.0, seed: int = 0) -> Loss:
    return task.train()(batch, StepContext(0, progress, Draws(seed, batch.positions)))


def test_texts_of_a_batch_once_each(batch: Batch) -> None:
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    texts = batch_texts(batch.text_ids, batch.text_mask, batch.match_ids, distinct=True)
    assert texts.ids.shape == (4, 8)
    assert torch.equal(texts.ids[texts.of_sample], batch.text_ids)
    assert torch.equal(texts.mask[texts.of_sample], batch.text_mask)
    assert texts.of_sample[0] == texts.of_sample[1]
    assert texts.of_sample[2] == texts.of_sample[3]
    # Either picture of a shared name matches it; every sample matches exactly its own text here.
    matching = texts.relation(soft=True).block()
    assert matching.sum(1).tolist() == [1] * 6
    assert torch.equal(matching, texts.relation(soft=False).block())


def test_texts_of_a_batch_as_they_are(batch: Batch) -> None:
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    texts = batch_texts(batch.text_ids, batch.text_mask, batch.match_ids, distinct=False)
    assert torch.equal(texts.relation(soft=False).block(), torch.eye(6).bool())
    assert texts.relation(soft=True).block().sum(1).tolist() == [2, 2, 1, 1, 1, 1]


def test_loss_is_the_sum_of_its_parts_and_reaches_every_weight(make_task: MakeTask, batch: Batch) -> None:
    task = make_task(image_contrast=0.5, gate_weight=0.1)
    result = step(task, batch)
    assert set(result.parts) == {"itc", "image_contrast", "itm", "routing"}
    assert result.total.item() == pytest.approx(sum(part.item() for part in result.parts.values()), rel=1e-6)
    assert set(result.metrics) == {"temperature", "itc_accuracy", "itm_accuracy"}
    result.total.backward()
    # Rows of tables that no text of the batch uses have zero gradients, so look at whole tensors.
    missing = [n for n, p in task.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_randomness_comes_from_the_draws_alone(make_task: MakeTask, batch: Batch) -> None:
    task = make_task(itm_batch=3)
    losses = []
    for seed in (0, 0, 1, 2, 3):
        torch.rand(1)  # the global generator moves on
        losses.append(step(task, batch, seed=seed).parts["itm"].item())
    assert losses[0] == losses[1]
    assert len(set(losses)) > 1


@pytest.mark.parametrize("distinct", [False, True])
def test_joint_pass_equals_separate_passes_without_dropping(
    make_task: MakeTask, batch: Batch, distinct: bool
) -> None:
    gradients = []
    for passes in ("separate", "joint"):
        task = make_task(itm_passes=passes, distinct_texts=distinct)
        result = step(task, batch)
        result.parts["itm"].backward()
        weights = dict(task.named_parameters())
        gradients.append((result.parts["itm"], weights["model.layers.0.attention.qkv.weight"].grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_matching_subset(make_task: MakeTask, batch: Batch) -> None:
    task = make_task(itm_batch=2, distinct_texts=True)
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    texts = batch_texts(batch.text_ids, batch.text_mask, batch.match_ids, distinct=True)
    seen, matching = set(), texts.relation(soft=True).block()
    nothing = torch.zeros(6, 3), torch.zeros(4, 3)
    for seed in range(20):
        right, wrong_image, wrong_text = task.draw_passes(
            nothing, torch.tensor(0.1), texts, StepContext(0, 0.0, Draws(seed, batch.positions))
        )
        assert len(right.images) == 2
        seen |= set(right.images.tolist())
        assert matching[right.images, right.texts].all()
        assert not matching[wrong_image.images, wrong_image.texts].any()
        assert not matching[wrong_text.images, wrong_text.texts].any()
        assert torch.equal(wrong_image.texts, right.texts)
        assert torch.equal(wrong_text.images, right.images)
    assert seen == set(range(6))


def test_matching_starts_when_asked(make_task: MakeTask, batch: Batch) -> None:
    task = make_task(itm_from=0.5)
    assert "itm" not in step(task, batch, progress=0.49).parts
    assert "itm" in step(task, batch, progress=0.5).parts


def test_soft_labels_change_the_contrastive_target(make_task: MakeTask, batch: Batch) -> None:
    # Samples 0 and 2 are one concept with two captions.
    batch = replace(batch, match_ids=torch.tensor([1, 2, 1, 3, 4, 5]))
    soft, hard = (step(make_task(soft_labels=s), batch).parts["itc"].item() for s in (True, False))
    assert soft != pytest.approx(hard, rel=1e-4)


def test_routing_part_is_the_mean_over_passes(make_task: MakeTask, batch: Batch) -> None:
    # Two single-modality passes alone, without matching.
    task = make_task(matching=False, gate_weight=1.0)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    image = task.model.encode_visual(task.embed(batch.images)).aux["routing"]
    text = task.model.encode_text(batch.text_ids, batch.text_mask).aux["routing"]
    assert step(task, batch).parts["routing"].item() == pytest.approx((image + text).item() / 2, rel=1e-5)


def test_wrong_picture_size(make_task: MakeTask) -> None:
    with pytest.raises(
        UsageError, match=r"data\.image\.size: pictures of 8 x 8 .* 16 x 16; set data\.image\.size=16"
    ):
        make_task().embed(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_needs() -> None:
    both = {"encode_visual", "encode_text"}
    assert RetrievalTask.needs(RetrievalConfig()) == both | {"fuse"}
    assert RetrievalTask.needs(RetrievalConfig(matching=False)) == both


def test_temperature_outside_its_bounds_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"within temperature_bounds \(0\.001 to 0\.5, above 0\), got 0\.6"
    ):
        RetrievalConfig(temperature=0.6)


def test_head_names_are_those_of_pretraining(make_task: MakeTask) -> None:
    names = {name for name in make_task().state_dict() if not name.startswith("model.")}
    assert names == {
        "itc.temperature",
        "itc.visual.weight",
        "itc.text.weight",
        "itm.classifier.weight",
        "itm.classifier.bias",
    }


def test_controls_train_on_one_input_only(make_task: MakeTask, batch: Batch) -> None:
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    pictures = replace(batch, images=255 - batch.images)
    read = replace(batch, text_ids=batch.text_ids.flip(0), text_mask=batch.text_mask.flip(0))
    for blind, same, different in (("image", pictures, read), ("text", read, pictures)):
        task = make_task(blind=blind)
        assert torch.equal(step(task, batch).total, step(task, same).total)
        assert not torch.equal(step(task, batch).total, step(task, different).total)

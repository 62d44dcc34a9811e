"""Classification: labels, losses, zero-shot targets, views, and the sets of targets behind it."""

import json
import math
from pathlib import Path

import pytest
import torch

from diptych.blocks.collective import ALONE
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError
from diptych.objectives.likelihood import labelled_loss
from diptych.objectives.mixing import mix_pictures
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.classes import UNKNOWN, Classes, read_classes
from diptych.tasks.classification import ClassificationTask
from diptych.tasks.classification_config import ClassificationConfig
from diptych.tasks.classification_results import probabilities
from diptych.tasks.target_sets import Targets

NAMES = [["cat", "tom cat"], ["dog"], ["big red fox"]]
WORDS = ["cat dog big red fox tom"] * 3


def task_of(system: str = "uniperceiver", **settings: object) -> ClassificationTask:
    torch.manual_seed(0)
    found = look_up(SYSTEMS, system, "system")
    model = found.build(found.toy_config())
    tokenizer = Tokenizer.train(WORDS, 60, "uniperceiver")
    config = ClassificationConfig.model_validate(settings)
    return ClassificationTask.create(model, config, tokenizer, {"classes": NAMES, "target": "auto"})


def batch_of(images: torch.Tensor, labels: list[object]) -> Batch:
    numbers = torch.arange(len(images))
    keys = [f"k{i}" for i in range(len(images))]
    return Batch(keys, numbers, numbers, images, extra={"label": labels})


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def context(batch: Batch, step: int = 0) -> StepContext:
    return StepContext(step, 0.0, Draws(0, batch.positions), ALONE)


def test_labels_are_numbers_or_names() -> None:
    classes = Classes([["crane", "bird"], ["crane"], ["dog", "bird"]])
    assert [classes.find(x) for x in (2, "crane", "bird", "dog", None, -1)] == [2, 0, 0, 2, UNKNOWN, UNKNOWN]
    for wrong in (3, "cow", True, -2):
        with pytest.raises(DataError, match="none of 3 classes"):
            classes.find(wrong)


def test_targets_from_files(tmp_path: Path) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text("cat\ttom cat\ndog\n")
    assert read_classes(str(listed)) == [["cat", "tom cat"], ["dog"]]
    assert read_classes("sst2") == [["bad"], ["wonderful"]]
    with pytest.raises(UsageError, match=r"task\.target = imagenet-1kk"):
        read_classes("imagenet-1kk")


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    p = math.exp(2) / (math.exp(2) + 1)
    expected = 0.9 * -math.log(p) + 0.1 * (-math.log(p) - math.log(1 - p)) / 2
    assert float(labelled_loss(logits, torch.tensor([0]), 0.1)) == pytest.approx(expected)


def test_unlabelled_samples_do_not_train() -> None:
    task = task_of().eval()
    images = pictures(3, 3, 16, 16)
    whole = batch_of(images, ["cat", None, 2])
    some = batch_of(images[[0, 2]], [0, "big red fox"])
    one, other = (task.compute_loss(b, context(b)) for b in (whole, some))
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(one.metrics["accuracy"], other.metrics["accuracy"])


def test_training_reaches_all_of_the_model() -> None:
    task = task_of(synonyms="mean")
    batch = batch_of(pictures(2, 3, 16, 16), ["cat", "dog"])
    task.train().compute_loss(batch, context(batch)).total.backward()
    for name in ("model.text.words.weight", "model.visual.patches.weight", "model.likelihood.scales.img_cls"):
        grad = dict(task.named_parameters())[name].grad
        assert grad is not None
        assert grad.abs().sum() > 0, name
    clips = batch_of(pictures(2, 2, 3, 16, 16), ["cat", "dog"])
    task.compute_loss(clips, context(clips)).total.backward()
    assert task.model.likelihood.scales["video_cls"].grad is not None


def test_several_views_are_averaged() -> None:
    task = task_of().eval()
    rows = pictures(2, 4, 3, 16, 16)
    with torch.no_grad():
        found = probabilities(task, rows, frames=2)
        single = [task.logits(rows[:, i : i + 2]).softmax(1) for i in (0, 2)]
    torch.testing.assert_close(found, (single[0] + single[1]) / 2)


def test_synonyms() -> None:
    task = task_of().eval()
    model, targets = task.model, task.targets
    assert targets.counts.tolist() == [2, 1, 1]
    with torch.no_grad():
        first = targets.features(model)
        seen = {
            bool(torch.equal(targets.features(model, synonyms="random", seed=s)[0], first[0]))
            for s in range(9)
        }
        assert seen == {True, False}
        alone = Targets.of_names([["tom cat"]], task.tokenizer).features(model)[0]
        mean = targets.features(model, synonyms="mean")
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(mean[0], unit(first[0], dim=0) + unit(alone, dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mean[1], unit(first[1], dim=0), atol=1e-5, rtol=1e-4)


def test_targets_are_encoded_once_while_the_weights_stay() -> None:
    task = task_of().eval()
    model, targets = task.model, task.targets
    with torch.no_grad():
        first = targets.features(model)
        assert targets.features(model) is first
        assert targets.encoded == 1
        model.text.words.weight += 0.1
        second = targets.features(model)
        assert targets.encoded == 2
        assert not torch.allclose(first, second)
        model.load_state_dict({n: t * 1.01 for n, t in model.state_dict().items()})
        targets.features(model)
        assert targets.encoded == 3
    with torch.inference_mode():
        targets.features(model)
        targets.features(model)
    assert targets.encoded == 3
    assert targets.features(model).requires_grad
    assert targets.encoded == 4


def test_every_word_is_a_target() -> None:
    tokenizer = Tokenizer.train(WORDS, 60, "uniperceiver")
    words = Targets.of_vocabulary(tokenizer)
    assert len(words) == tokenizer.vocab_size
    assert words.rows.ids[:6].tolist() == [0, 2, 1, 2, 2, 2]


def test_evaluation_of_another_list_of_names(tmp_path: Path) -> None:
    task = task_of().eval()
    images = pictures(4, 3, 16, 16)
    labels = ["cat", "dog", None, 2]
    data = EvalData("toy", "all", 4, lambda: iter([batch_of(images, labels)]))
    result = task.evaluate(data, lambda *_: None)
    assert result.metrics["pictures"] == 4
    assert result.metrics["scored"] == 3
    assert result.metrics["chance"] == {"most_frequent": pytest.approx(1 / 3), "random": pytest.approx(1 / 3)}
    right = [row["correct"] for row in result.predictions if row["correct"] is not None]
    assert result.metrics["accuracy"] == pytest.approx(sum(right) / 3)
    assert result.predictions[2]["right"] is None
    listed = tmp_path / "new.txt"
    listed.write_text("fox\nred\n")
    config = ClassificationConfig(target=str(listed), label="label")
    other = ClassificationTask.create(task.model, config, task.tokenizer, task.assets())
    assert other.classes.names == [["fox"], ["red"]]
    assert json.loads(json.dumps(other.assets())) == {"classes": [["fox"], ["red"]], "target": str(listed)}
    again = ClassificationTask.create(task.model, config, task.tokenizer, other.assets())
    assert again.classes.names == other.classes.names


@pytest.mark.parametrize("head", ["contrastive", "linear"])
def test_other_systems_classify_too(head: str) -> None:
    torch.manual_seed(0)
    found = look_up(SYSTEMS, "two_tower", "system")
    model = found.build(found.toy_config())
    tokenizer = Tokenizer.train(WORDS, 60)
    config = ClassificationConfig.model_validate({"head": head})
    task = ClassificationTask.create(model, config, tokenizer, {"classes": NAMES, "target": "auto"})
    side = model.image_spec.size
    batch = batch_of(pictures(2, 3, side, side), ["cat", "dog"])
    task.compute_loss(batch, context(batch)).total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters())


def test_mixed_pictures() -> None:
    images = pictures(4, 3, 8, 8)
    blended = mix_pictures(images, 0.8, 0.0, 1.0, 5)
    values = images.float() / 255
    expected = blended.share * values + (1 - blended.share) * values.flip(0)
    torch.testing.assert_close(blended.images, expected)
    assert blended.partner.tolist() == [3, 2, 1, 0]
    cut = mix_pictures(images, 0.0, 1.0, 1.0, 5)
    changed = (cut.images != images).any(0).any(0)
    assert cut.images.dtype == torch.uint8
    assert 1 - cut.share >= changed.float().mean().item()
    assert torch.equal(cut.images[..., changed], images.flip(0)[..., changed])
    assert mix_pictures(images, 0.8, 1.0, 0.0, 5).share == 1.0
    kinds = {mix_pictures(images, 0.8, 1.0, 1.0, s).images.dtype for s in range(8)}
    assert kinds == {torch.uint8, torch.float32}


def test_a_mixed_batch_has_both_labels() -> None:
    task = task_of(mixup=0.8, label_smoothing=0.1)
    task.model.visual.config = task.model.visual.config.with_(random_frames=False)
    batch = batch_of(pictures(2, 3, 16, 16), ["cat", 2])
    found = task.train().compute_loss(batch, context(batch, 4))
    mixed = mix_pictures(batch.images, 0.8, 0.0, 1.0, 4)
    logits = task.logits(mixed.images, seed=4)
    target = torch.full((2, 3), 0.1 / 3)
    target[0, 0] += 0.9 * mixed.share
    target[0, 2] += 0.9 * (1 - mixed.share)
    target[1, 2] += 0.9 * mixed.share
    target[1, 0] += 0.9 * (1 - mixed.share)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found.total, expected)
    assert "accuracy" not in found.metrics


def test_some_classes_in_place_of_all() -> None:
    whole, some = task_of(label_smoothing=0.0), task_of(label_smoothing=0.0, candidates=1)
    batch = batch_of(pictures(2, 3, 16, 16), ["dog", 2])
    for task in (whole, some):
        task.model.visual.config = task.model.visual.config.with_(random_frames=False)
        task.train()
    chosen = some._candidates(torch.tensor([1, 2]), ALONE, 0)
    assert chosen is not None
    assert {1, 2} <= set(chosen.tolist()) <= {0, 1, 2}
    seed = next(s for s in range(20) if len(some._candidates(torch.tensor([1, 2]), ALONE, s)) == 2)
    found = some.compute_loss(batch, context(batch, seed))
    logits = whole.logits(batch.images, seed=seed)[:, 1:]
    torch.testing.assert_close(found.total, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])))


def test_classes_of_a_column(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "mine", "mine") as writer:
        for i, kind in enumerate(("dog", "cat", "dog")):
            writer.write(
                Sample(f"s{i}", {}, ("x",), split="a" if i < 1 else "b", meta={"kind": kind, "n": i})
            )
    place = str(tmp_path / "mine")
    assert read_classes(f"{place}#kind") == [["cat"], ["dog"]]
    with pytest.raises(DataError, match="no such column"):
        read_classes(f"{place}#kinds")
    with pytest.raises(DataError, match="no names"):
        read_classes(f"{place}#n")

"""The task `captioning`: its loss by hand, words of all texts, files and figures of an evaluation."""

import math
from collections.abc import Iterator

import pytest
import torch

from diptych.blocks.collective import ALONE
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Specials, Tokenizer
from diptych.errors import ConfigError, RunError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.captioning import CaptioningTask
from diptych.tasks.captioning_config import CaptioningConfig
from diptych.tasks.captioning_results import figures, number_of, one_each, submission
from diptych.tasks.fused import normal_pictures
from diptych.train.build import check_config
from diptych.train.config import RunConfig

WORDS = ["a red cat", "a big dog", "two foxes"] * 3


def task_of(specials: Specials = "uniperceiver", **settings: object) -> CaptioningTask:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(WORDS, 60, specials)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model = system.build(system.toy_config().with_(slot=tokenizer.mask_id, end=tokenizer.sep_id))
    config = CaptioningConfig.model_validate({"steps": 6, **settings})
    return CaptioningTask.create(model, config, tokenizer, {})


def batch_of(task: CaptioningTask, texts: list[str], clips: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(3)
    shape = (len(texts), *([clips] if clips else []), 3, 16, 16)
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    numbers = torch.arange(len(texts))
    ids, mask = task.tokenizer.encode(texts, 10)
    keys = [f"k{i}" for i in range(len(texts))]
    return Batch(keys, numbers, numbers, images, texts=texts, text_ids=ids, text_mask=mask)


def context(batch: Batch) -> StepContext:
    return StepContext(0, 0.0, Draws(0, batch.positions), ALONE)


def test_the_loss_is_the_mean_over_words() -> None:
    task = task_of(label_smoothing=0.1, weight=2.0).eval().requires_grad_(False)
    batch = batch_of(task, ["a red cat", "dog"])
    found = task.compute_loss(batch, context(batch))
    total, count, right = 0.0, 0, 0
    for i, text in enumerate(batch.texts or []):
        ids = torch.tensor([[*task.tokenizer.tokens(text), task.tokenizer.sep_id]])
        assert batch.images is not None
        visual = task.model.embed_visual(normal_pictures(task.model, batch.images[i : i + 1]))
        words = task.vocabulary()
        logits = task.model.caption_logits(visual, ids, ids >= 0, words, "caption")
        logs = logits.log_softmax(-1)
        for row, word in zip(logs, ids[0], strict=True):
            total += float(-0.9 * row[word] - 0.1 * row.mean())
            right += int(row.argmax() == word)
            count += 1
    assert float(found.total) == pytest.approx(2 * total / count, rel=1e-4)
    assert float(found.metrics["accuracy"]) == pytest.approx(right / count)


@pytest.mark.parametrize("specials", ["bert", "uniperceiver"])
def test_texts_lose_their_start_token_only(specials: Specials) -> None:
    task = task_of(specials)
    batch = batch_of(task, ["a red cat"])
    seen: list[torch.Tensor] = []
    inner = task.model.caption_logits

    def spy(visual: torch.Tensor, ids: torch.Tensor, *more: object) -> torch.Tensor:
        seen.append(ids)
        return inner(visual, ids, *more)  # type: ignore[arg-type]

    task.model.caption_logits = spy  # type: ignore[method-assign, assignment]
    task.compute_loss(batch, context(batch))
    expected = [*task.tokenizer.tokens("a red cat"), task.tokenizer.sep_id]
    assert seen[0][0, : len(expected)].tolist() == expected


@pytest.mark.slow
def test_a_toy_learns_its_captions() -> None:
    task = task_of().train()
    batch = batch_of(task, ["a red cat", "a big dog", "two foxes"])
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.compute_loss(batch, context(batch))
        loss.total.backward()
        optimizer.step()
    assert float(loss.metrics["accuracy"]) == 1.0
    assert batch.images is not None
    found = task.eval().write(batch.images)
    assert [task.say(ids[0]) for ids in found.ids] == batch.texts


def evaluated(task: CaptioningTask, batches: list[Batch]) -> tuple[dict, list, dict]:
    def each() -> Iterator[Batch]:
        yield from batches

    data = EvalData("toys", "test", sum(map(len, batches)), each, frames=2)
    found = task.evaluate(data, lambda *_: None)
    return found.metrics, found.predictions, found.extra


def test_evaluation_has_a_caption_a_picture() -> None:
    task = task_of(meteor=False)
    batch = batch_of(task, ["a red cat", "a red cat", "two foxes"])
    batch = Batch(
        **{
            **{name: getattr(batch, name) for name in ("keys", "positions", "match_ids", "images")},
            "captions": [("a red cat", "cat"), ("a red cat", "a fox"), ("two foxes",)],
            "extra": {"coco_id": [7, 7, None]},
        }
    )
    metrics, rows, extra = evaluated(task, [batch])
    assert (metrics["pictures"], metrics["repeated"], metrics["scored"]) == (2, 1, 2)
    assert [row["image_id"] for row in rows] == [7, "k2"]
    assert rows[0]["references"] == ["a red cat", "cat", "a fox"]
    assert extra["submission"] == [{"image_id": r["image_id"], "caption": r["caption"]} for r in rows]
    assert metrics["headline"] == "cider"
    assert {"bleu_4", "rouge_l", "cider", "words", "different"} <= set(metrics)
    assert metrics["unavailable"]["meteor"] == "task.meteor is false"
    assert "spice" in metrics["unavailable"]
    assert metrics["chance"]["most_frequent"]["caption"] == "a red cat"
    assert all(0 <= row["bleu_4"] <= 1 for row in rows)


def test_clips_of_several_views_are_described_once() -> None:
    task = task_of(meteor=False).eval()
    batch = batch_of(task, ["a red cat", "two foxes"], clips=4)
    assert batch.images is not None
    expected = [task.say(ids[0]) for ids in task.write(batch.images[:, :2]).ids]
    _, rows, _ = evaluated(task, [batch])
    assert [row["caption"] for row in rows] == expected


def test_figures_by_hand() -> None:
    rows = [
        {"image_id": 1, "caption": "a cat sits here", "references": ["a cat sits here", "a dog"]},
        {"image_id": 2, "caption": "nothing", "references": ["two foxes run fast", "a dog"]},
        {"image_id": 3, "caption": "a test", "references": []},
    ]
    found = figures(rows, meteor=False)
    assert found["scored"] == 2
    # 4 of 5 words are right; the references nearest in length have 4 and 2 words, one more.
    assert found["bleu_1"] == pytest.approx(4 / 5 * math.exp(1 - 6 / 5), abs=1e-6)
    assert rows[0]["rouge_l"] == 1.0
    assert rows[1]["rouge_l"] == 0.0
    assert found["words"] == pytest.approx(2.5)
    assert found["chance"]["most_frequent"]["caption"] == "a dog"
    assert figures(rows[2:], meteor=False) == {"scored": 0}
    assert len(submission(rows)) == 3


def test_names_of_pictures() -> None:
    assert number_of("COCO_val2014_000000391895") == 391895
    assert number_of("000000391895") == 391895
    assert number_of(12) == 12
    assert number_of("noto_1f600") == "noto_1f600"
    rows = [{"image_id": 1, "caption": c, "references": ["x", "x"]} for c in "ab"]
    assert one_each(rows) == [{"image_id": 1, "caption": "a", "references": ["x", "x"]}]


def test_numbers_that_are_none_are_told() -> None:
    task = task_of(meteor=False)
    task.model.text.words.weight.data.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(RunError, match="not finite"):
        evaluated(task, [batch_of(task, ["a red cat"])])


def test_systems_that_do_not_write_are_refused() -> None:
    system = look_up(SYSTEMS, "eve", "system").toy_config()
    config = RunConfig.model_validate(
        {"system": system.model_dump(mode="json"), "task": {"name": "captioning"}}
    )
    with pytest.raises(ConfigError, match=r"captioning is nothing that system\.name = eve can do"):
        check_config(config)

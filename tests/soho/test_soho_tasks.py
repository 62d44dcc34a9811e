"""Downstream tasks with SOHO: published targets, entailment, what starts from what."""

import json
from pathlib import Path

import pytest
import torch
from soho_files import SMALL, published_pretraining
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError
from diptych.metrics.vqa import entry_accuracy
from diptych.systems.soho.convert import from_published
from diptych.systems.soho.model import SohoModel
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.retrieval_matching import RetrievalMatchingTask
from diptych.tasks.retrieval_matching_config import RetrievalMatchingConfig
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_config import VqaConfig
from diptych.train.config import InitConfig, resolve_run
from diptych.train.export import Weights
from diptych.train.init import fill

VERDICTS = ["contradiction", "entailment", "neutral"]
PLAIN = SMALL.with_(neck="plain", dropout=0.0, attention_dropout=0.0)
TEXTS = ["a red cat", "two dogs", "a man sleeps"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 2, 60)


def questions(tokenizer: Tokenizer, entries: list[dict[str, object]]) -> Batch:
    """Return a batch of pictures of two shapes, padded."""
    count = len(entries)
    ids, mask = tokenizer.encode([TEXTS[i % 3] for i in range(count)], 12)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 64, 128), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 128] if i % 2 else [64, 70] for i in range(count)])
    numbers = torch.arange(count)
    return Batch(
        [f"s{i}" for i in range(count)],
        numbers,
        numbers,
        images=images,
        image_sizes=sizes,
        text_ids=ids,
        text_mask=mask,
        extra={"questions": entries},
    )


def vqa(tokenizer: Tokenizer, answers: list[str], **settings: object) -> VqaTask:
    torch.manual_seed(1)
    config = VqaConfig.model_validate({"name": "vqa", "head": "dropout"} | settings)
    return VqaTask(SohoModel(PLAIN), config, tokenizer, answers).eval()


@pytest.mark.parametrize(("unanswerable", "counted"), [("skip", 2), ("count", 3)])
def test_loss_over_published_targets(tokenizer: Tokenizer, unanswerable: str, counted: int) -> None:
    """Mean over rows and answers times the number of answers; a row without targets counts or not."""
    entries: list[dict[str, object]] = [
        {"question": "q", "scores": {"yes": 1.0, "cat": 0.3}},
        {"question": "q", "scores": {}},
        {"question": "q", "scores": {"no": 0.6}},
    ]
    task = vqa(tokenizer, ["yes", "no", "cat"], unanswerable=unanswerable)
    batch = questions(tokenizer, entries)
    with torch.no_grad():
        loss = task.compute_loss(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
        logits = task.logits(batch)
    targets = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.0, 0.0], [0.0, 0.6, 0.0]])
    terms = targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()
    rows = -terms.sum(1)
    expected = rows.mean() if counted == 3 else (rows[0] + rows[2]) / 2
    assert float(loss.parts["vqa"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(loss.metrics["answerable"]) == pytest.approx(2 / 3)


def test_accuracy_over_published_targets(tokenizer: Tokenizer) -> None:
    assert entry_accuracy("Two", {"scores": {"2": 0.6, "3": 0.3}}) == 0.6
    assert entry_accuracy("cat", {"scores": {}}) == 0.0
    assert entry_accuracy("cat", {"question": "?"}) is None
    entries: list[dict[str, object]] = [
        {"question": "a", "question_id": 1, "scores": {"yes": 0.9, "no": 0.3}},
        {"question": "b", "question_id": 2, "scores": {}},
        {"question": "c", "question_id": 3},
    ]
    task = vqa(tokenizer, ["yes", "no", "cat"])
    with torch.no_grad():
        task.vqa.classifier.weight.zero_()
        task.vqa.classifier.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))  # always no
    batch = questions(tokenizer, entries)
    found = task.evaluate(EvalData("toy", "val", 3, lambda: iter([batch])), lambda *_: None)
    assert found.metrics["scored"] == 2
    assert found.metrics["accuracy"] == pytest.approx(0.15)
    assert found.metrics["reachable"] == pytest.approx(0.45)
    assert found.metrics["chance"]["most_frequent"] == 0.5
    assert found.predictions[0]["right"] == ["yes", "no"]
    assert [row["accuracy"] for row in found.predictions] == [0.3, 0.0, None]
    assert found.extra["submission"][2] == {"question_id": 3, "answer": "no"}


@pytest.mark.slow
def test_entailment_is_a_question_with_three_answers(tokenizer: Tokenizer) -> None:
    entries: list[dict[str, object]] = [
        {"question": TEXTS[i % 3], "question_id": str(i), "dataset": "snli-ve", "answer": VERDICTS[i % 3]}
        for i in range(6)
    ]
    torch.manual_seed(0)
    task = vqa(tokenizer, VERDICTS, loss="softmax").train()
    batch = questions(tokenizer, entries)
    optimizer = torch.optim.Adam(task.parameters(), 2e-3)
    for step in range(25):
        loss = task.compute_loss(batch, StepContext(step, 0.0, Draws(step, batch.positions)))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    found = task.evaluate(EvalData("snli-ve", "test", 6, lambda: iter([batch])), lambda *_: None)
    assert found.metrics["accuracy"] > 0.6
    assert found.metrics["chance"]["random"] == pytest.approx(1 / 3)


def weights(tmp_path: Path) -> Weights:
    state: dict[str, Tensor] = from_published(published_pretraining()).state
    return Weights(state, 0, tmp_path, None)


def test_question_answering_starts_from_pretraining(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As published: the dictionary, gate, alignment, hidden token and matching stay behind."""
    config = resolve_run("soho/finetune/vqa").config
    task, source = vqa(tokenizer, ["yes", "no"]), weights(tmp_path)
    found = fill(task, source, config.init_from)
    assert {name.split(".")[0] for name in found.fresh} == {"vqa"}
    own = task.state_dict()
    for name in (
        "model.backbone.layer2.0.conv1.weight",
        "model.neck.bn.running_mean",
        "model.text.norm.bias",
    ):
        assert torch.equal(own[name], source.state[name])
    dropped = next(line for line in found.report if "dropped" in line)
    assert "model.neck.dictionary.codes" in dropped or "more" in dropped
    with pytest.raises(CheckpointError, match=r"model\.neck\.dictionary"):
        fill(task, source, InitConfig(allow_missing=("vqa.*",), allow_unexpected=("itm.*",)))


def test_retrieval_takes_the_matching_head_of_pretraining(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = resolve_run("soho/finetune/flickr").config
    assert isinstance(config.task, RetrievalMatchingConfig)
    task, source = RetrievalMatchingTask(SohoModel(PLAIN), config.task, tokenizer), weights(tmp_path)
    assert fill(task, source, config.init_from).fresh == []
    assert torch.equal(task.state_dict()["itm.weight"], source.state["itm.weight"])


def test_facts_of_the_entailment_card_name_the_answers(tmp_path: Path) -> None:
    from diptych.data.cards.snli_ve import facts

    assert sorted(facts(None, {})["answers"]) == VERDICTS
    assert json.dumps(facts(None, {}))

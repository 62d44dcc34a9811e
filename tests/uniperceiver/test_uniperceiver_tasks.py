"""Uni-Perceiver through its pre-training on words, retrieval and questions."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.objectives.likelihood import paired_losses
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.target_sets import Targets
from diptych.systems.task import EvalData, StepContext
from diptych.systems.uniperceiver.attributes import TARGETS
from diptych.systems.uniperceiver.pretrain import WordsConfig, WordsTask
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_levels import RetrievalLevelsTask
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig
from diptych.tasks.vqa import VqaTask, with_slot
from diptych.tasks.vqa_config import VqaConfig

TEXTS = ["a red cat", "the dog sleeps here", "two cats"]
TOKENIZER = Tokenizer.train(TEXTS * 3, 90, "uniperceiver")


def model_of() -> VisionLanguageModel:
    torch.manual_seed(0)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model: VisionLanguageModel = system.build(system.toy_config())
    return model


def batch_of(texts: list[str], **extra: object) -> Batch:
    numbers = torch.arange(len(texts))
    images = torch.randint(0, 256, (len(texts), 3, 16, 16), generator=torch.Generator().manual_seed(3))
    ids, mask = TOKENIZER.encode(texts, 12)
    return Batch(
        [f"k{i}" for i in range(len(texts))],
        numbers,
        numbers,
        images.to(torch.uint8),
        texts=texts,
        text_ids=ids,
        text_mask=mask,
        captions=[(text,) for text in texts],
        extra=dict(extra),
    )


def context(batch: Batch, world: World = ALONE) -> StepContext:
    return StepContext(0, 0.0, Draws(0, batch.positions), world)


def test_words_of_lines_are_put_together_and_hidden() -> None:
    task = WordsTask(model_of(), WordsConfig(ratio=1.0, words=4, tokens=128), TOKENIZER)
    ids, mask, labels = task.hide(["a red\ncat", "two"], Draws(0, torch.arange(2)))
    end = TOKENIZER.sep_id
    a, red, cat, two = ([i for word in TOKENIZER.words(w) for i in word] for w in ("a", "red", "cat", "two"))
    # The first text has five words with its ends; the second is filled up by the first.
    first = [*a, *red, end, *cat, end]
    assert labels[0][: len(first)].tolist() == first
    assert labels[1].tolist() == [*two, end, *first][: labels.shape[1]]
    assert mask[0].sum() == len(first)
    assert (labels[~mask] == -1).all()
    assert ids.shape == labels.shape
    once = WordsTask(model_of(), WordsConfig(ratio=1.0, words=4, lines="once"), TOKENIZER)
    assert len(once.hide(["a red\ncat", "two"], Draws(0, torch.arange(2)))[0]) == 2
    assert len(once.hide(["a", "two"], Draws(0, torch.arange(2)))[0]) == 1


def test_long_sequences_keep_their_last_token() -> None:
    task = WordsTask(model_of(), WordsConfig(ratio=0.5, words=9, tokens=6), TOKENIZER)
    ids, _, labels = task.hide(TEXTS, Draws(1, torch.arange(3)))
    assert ids.shape == (3, 6)
    assert all(
        i == TOKENIZER.sep_id or label == TOKENIZER.sep_id
        for i, label in zip(ids[:, -1], labels[:, -1], strict=True)
    )


def test_word_loss_is_that_of_every_word_as_a_target() -> None:
    task = WordsTask(model_of().eval(), WordsConfig(ratio=0.5, words=4), TOKENIZER)
    model, batch = task.model, batch_of(TEXTS)
    found = task.compute_loss(batch, context(batch))
    ids, mask, labels = task.hide(TEXTS, Draws(0, batch.positions))
    states = model.read_text(ids, mask).tokens[:, 1:]
    pairs = torch.stack([torch.arange(90).clamp(max=TOKENIZER.vocab_size - 1), torch.full((90,), 2)], 1)
    pairs = pairs[: TOKENIZER.vocab_size]
    words = model.likelihood.features(
        model.encode_targets(pairs, None, model.segments(TARGETS["vocabulary"]))[:, 0]
    )
    asked = labels >= 0
    cosines = F.normalize(model.likelihood.features(states[asked]), dim=-1) @ F.normalize(words, dim=-1).t()
    expected = F.cross_entropy(cosines / 0.07, labels[asked])
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-4)


def test_words_are_evaluated_always_alike() -> None:
    task = WordsTask(model_of(), WordsConfig(ratio=0.5, words=4), TOKENIZER)
    data = EvalData("toy", "all", 3, lambda: iter([batch_of(TEXTS)]))
    first, second = (task.evaluate(data, lambda *_: None) for _ in range(2))
    assert first.predictions == second.predictions
    assert task.vocabulary.encoded == 1
    metrics = first.metrics
    assert metrics["words"] == len(first.predictions)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["accuracy"] == sum(r["rank"] == 1 for r in first.predictions) / metrics["words"]


def test_retrieval_is_the_published_loss() -> None:
    task = RetrievalTask(
        model_of().eval(),
        RetrievalConfig(matching=False, soft_labels=False, label_smoothing=0.1),
        TOKENIZER,
    )
    assert not [name for name, _ in task.named_parameters() if not name.startswith("model.")]
    batch = batch_of(TEXTS)
    found = task.compute_loss(batch, context(batch))
    pictures = task.picture_features(task.model.encode_visual(task.embed(batch.images)))
    texts = task.text_features(task.model.encode_text(batch.text_ids, batch.text_mask))
    both = paired_losses(pictures @ texts.t() / task.model.temperature("retrieve"), 0.1)
    torch.testing.assert_close(found.total, (both[0] + both[1]) / 2)
    found.total.backward()
    assert task.model.likelihood.scales["retrieve"].grad.abs() > 0


def test_retrieval_is_evaluated() -> None:
    data = EvalData("toy", "all", 3, lambda: iter([batch_of(TEXTS)]), max_tokens=12)
    for task in (
        RetrievalTask(model_of(), RetrievalConfig(matching=False), TOKENIZER),
        RetrievalLevelsTask(
            model_of(), RetrievalLevelsConfig.model_validate({"level1": "batch", "level2": False}), TOKENIZER
        ),
    ):
        scores = task.evaluate(data, lambda *_: None).metrics["scores"]
        assert all(0 <= s["image_to_text"]["R@1"] <= 1 for s in scores.values())


def test_the_slot_stands_in_front_of_the_end() -> None:
    ids, mask = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    longer, kept = with_slot(ids, mask, TOKENIZER)
    assert longer.tolist() == [[5, 6, 3, 2], [7, 3, 2, 0]]
    assert kept.tolist() == [[True, True, True, True], [True, True, True, False]]


def test_questions_by_likelihood() -> None:
    answers = ["red", "a cat", "two"]
    config = VqaConfig.model_validate({"head": "likelihood", "loss": "softmax"})
    task = VqaTask(model_of().eval(), config, TOKENIZER, answers)
    assert task.needs(config) == {"fuse", "likelihood"}
    entries = [{"question": t, "answer": a} for t, a in zip(TEXTS, answers, strict=True)]
    batch = batch_of(TEXTS, questions=entries)
    logits = task.logits(batch)
    model = task.model
    ids, mask = TOKENIZER.encode([TEXTS[1]], 12)
    row = [i for i, m in zip(ids[0].tolist(), mask[0].tolist(), strict=True) if m]
    plain = torch.tensor([[*row[:-1], TOKENIZER.mask_id, TOKENIZER.sep_id]])
    fused = model.fuse(model.embed_visual(_normal(task, batch)[1:2]), plain, torch.ones_like(plain).bool())
    targets = Targets.of_names([[a] for a in answers], TOKENIZER, "answers").features(model)
    expected = model.compare(fused.text[:, -2], targets, "downstream")
    torch.testing.assert_close(logits[1:2], expected, rtol=1e-4, atol=1e-4)
    task.compute_loss(batch, context(batch)).total.backward()
    assert model.likelihood.scales["downstream"].grad.abs() > 0


def _normal(task: VqaTask, batch: Batch) -> torch.Tensor:
    from diptych.tasks.fused import normal_pictures

    return normal_pictures(task.model, batch.images)


NAMES = [["a red cat", "cat"], ["dog"], ["two cats here"], ["red"], ["the dog sleeps"]]


def shared(world: World) -> list[torch.Tensor]:
    """Features and gradients of a loss that every rank weights otherwise; the mean over ranks counts."""
    model = model_of()
    targets = Targets.of_names(NAMES, TOKENIZER)
    found = targets.features(model, world, synonyms="random", seed=4)
    weights = torch.randn(2, *found.shape, generator=torch.Generator().manual_seed(5))
    mine = weights.mean(0) if world.size == 1 else weights[world.rank]
    (found * mine).sum().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return [found.detach(), *(world.sum(g) / world.size for g in grads)]


@pytest.mark.slow
def test_ranks_that_share_a_set_do_what_one_does() -> None:
    alone, ranks = shared(ALONE), run_ranks(shared)
    for rank in ranks:
        for expected, found in zip(alone, rank, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

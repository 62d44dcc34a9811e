"""Retrieval by matching alone: pairs of training, scores of all pairs, several ranks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.conftest import TINY, toy_data, toy_tokenizer
from tests.evaluation.test_retrieval_ranking import CAPTIONS, MATCH_IDS, quiet
from tests.ranks import run_ranks
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.blocks.resnet import ResNetConfig
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError, DataError, RunError
from diptych.objectives.matching import IGNORED, draw_others
from diptych.systems.eve.model import EveModel
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.model import SohoModel
from diptych.systems.task import EvalData, Evaluation, StepContext
from diptych.tasks.fused import embed_pictures
from diptych.tasks.retrieval_matching import RetrievalMatchingTask
from diptych.tasks.retrieval_matching_config import RetrievalMatchingConfig
from diptych.train.config import resolve_run

SOHO = SohoConfig(
    backbone=ResNetConfig(stem_channels=4, base_channels=4, stem="small"),
    pool=False,
    width=16,
    layers=2,
    heads=2,
    hidden=24,
    vocab_size=100,
    max_text_tokens=8,
    dropout=0.0,
    attention_dropout=0.0,
)


def toy_matching(system: str, tokenizer: Tokenizer, **settings: Any) -> RetrievalMatchingTask:
    """Return a task with random weights; equal settings give equal weights."""
    torch.manual_seed(3)
    model: VisionLanguageModel = SohoModel(SOHO) if system == "soho" else EveModel(TINY)
    task = RetrievalMatchingTask(model, RetrievalMatchingConfig(**settings), tokenizer)
    for head in task.itm.parameters():
        torch.nn.init.normal_(head, std=0.5)
    return task.eval()


def score(task: RetrievalMatchingTask, batch: Batch, picture: int, text: str) -> float:
    """Score one pair by itself."""
    assert batch.images is not None
    with torch.no_grad():
        visual = embed_pictures(task.model, batch.images[picture : picture + 1])
        ids, mask = task.tokenizer.encode([text], 8)
        logits = task.itm(task.model.fuse(visual, ids, mask).pooled)[0]
    return float(logits[1] - logits[0])


@pytest.mark.slow
@pytest.mark.parametrize("system", ["soho", "eve"])
@pytest.mark.parametrize("pair_batch", [1, 5, 256])
def test_every_pair_is_scored_as_by_itself(tokenizer: Tokenizer, system: str, pair_batch: int) -> None:
    task = toy_matching(system, tokenizer, pair_batch=pair_batch)
    data = toy_data(CAPTIONS, MATCH_IDS, batch=2)
    (everything,) = toy_data(CAPTIONS, MATCH_IDS, batch=100).batches()
    found = task.evaluate(data, quiet)
    texts = list(dict.fromkeys(caption for captions in CAPTIONS for caption in captions))
    expected = np.array(
        [[score(task, everything, i, text) for text in texts] for i in range(len(CAPTIONS))], np.float32
    )
    assert found.metrics["headline"] == "matching"
    assert found.metrics["pairs"] == expected.size
    by_image = [row for row in found.predictions if row["direction"] == "image_to_text"]
    for row in by_image:
        i = int(row["query"].removeprefix("picture"))
        for answer in row["top"]:
            assert answer["score"] == pytest.approx(expected[i, texts.index(answer["id"])], abs=1e-4)
        # A right answer is one of any picture with the same match id.
        right = {c for j, captions in enumerate(CAPTIONS) for c in captions if MATCH_IDS[j] == MATCH_IDS[i]}
        assert right <= set(row["right"])
        best = max(expected[i, texts.index(text)] for text in row["right"])
        wrong = [expected[i, k] for k, text in enumerate(texts) if text not in row["right"]]
        assert row["rank"] == 1 + sum(value >= best - 1e-6 for value in wrong)


def test_draw_others_never_matches_and_takes_all() -> None:
    ids = torch.tensor([4, 7, 4, 9])
    share = torch.linspace(0, 0.999, 50).expand(4, 50)
    source, there = draw_others(ids, share)
    assert there.all()
    assert [sorted(set(row)) for row in source.tolist()] == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    assert not draw_others(torch.tensor([5, 5]), torch.zeros(2, 3))[1].any()


def test_pairs_of_training(tokenizer: Tokenizer) -> None:
    task = toy_matching("soho", tokenizer, wrong_texts=2, wrong_pictures=1)
    ids = torch.tensor([1, 2, 1, 3])
    pairs = task.draw_pairs(ids, 3, Draws(0, torch.arange(4)))
    assert len(pairs.labels) == 4 * 3 * 4
    owner = pairs.texts // 3
    for image, text, label in zip(pairs.images.tolist(), owner.tolist(), pairs.labels.tolist(), strict=True):
        assert (ids[image] == ids[text]) == (label == 1)
    assert pairs.texts[:12].tolist() == list(range(12))
    alone = task.draw_pairs(torch.tensor([1, 1]), 1, Draws(0, torch.arange(2)))
    assert alone.labels.tolist() == [1, 1] + 6 * [IGNORED]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["soho", "eve"])
def test_training_learns_the_pairs_of_a_batch(tokenizer: Tokenizer, system: str) -> None:
    torch.manual_seed(5)
    task = toy_matching(system, tokenizer, head="unbiased").train()
    (batch,) = toy_data([["red cat"], ["blue dog"], ["old car"]], [1, 2, 3]).batches()
    ids, mask = tokenizer.encode(["red cat", "blue dog", "old car"], 8)
    batch = replace(batch, text_ids=ids[:, None], text_mask=mask[:, None])
    optimizer = torch.optim.Adam(task.parameters(), 5e-3)
    losses = []
    for step in range(100):
        loss = task.compute_loss(batch, StepContext(step, 0.0, Draws(step, batch.positions)))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.parts["itm"].detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert ("routing" in loss.parts) == (system == "eve")


def test_refusals(tokenizer: Tokenizer, make_data: Callable[..., EvalData]) -> None:
    task = toy_matching("soho", tokenizer)
    with pytest.raises(DataError, match="no readable picture"):
        task.evaluate(make_data([], []), quiet)
    with pytest.raises(DataError, match="no picture of this selection has a caption"):
        task.evaluate(make_data([[]], [1]), quiet)
    with torch.no_grad():
        next(task.itm.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.evaluate(make_data(CAPTIONS, MATCH_IDS), quiet)
    with pytest.raises(ConfigError, match="at least one wrong pair"):
        resolve_run(
            None,
            [
                "system.name=soho",
                "task.name=retrieval_matching",
                "task.wrong_texts=0",
                "task.wrong_pictures=0",
            ],
        )


def evaluations(world: World) -> list[Evaluation]:
    """Evaluate a split, and one with fewer pictures than ranks."""
    task = toy_matching("soho", toy_tokenizer(), pair_batch=4)
    return [
        task.evaluate(toy_data(CAPTIONS, MATCH_IDS, batch=1, skipped={"decode": 2}, world=world), quiet),
        task.evaluate(toy_data([["red cat", "sad cat"]], [5], world=world), quiet),
    ]


@pytest.mark.slow
def test_ranks_find_what_one_process_finds() -> None:
    for rank in run_ranks(evaluations, ranks=3):
        for found, expected in zip(rank, evaluations(ALONE), strict=True):
            assert {**found.metrics, "cpu_seconds": 0} == {**expected.metrics, "cpu_seconds": 0}
            for row, other in zip(found.predictions, expected.predictions, strict=True):
                assert (row["rank"], row["query"], row["right"]) == (
                    other["rank"],
                    other["query"],
                    other["right"],
                )
                scores: list[Tensor] = [a["score"] for a in other["top"]]
                assert [a["score"] for a in row["top"]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("blind", "direction"), [("image", "image_to_text"), ("text", "text_to_image")])
def test_controls_score_all_queries_alike(tokenizer: Tokenizer, blind: str, direction: str) -> None:
    data = toy_data(CAPTIONS, MATCH_IDS, batch=2)
    found = toy_matching("eve", tokenizer, blind=blind).evaluate(data, quiet)
    scores = [
        {answer["id"]: answer["score"] for answer in row["top"]}
        for row in found.predictions
        if row["direction"] == direction
    ]
    for row in scores:
        assert row == pytest.approx(scores[0], abs=1e-5)
    assert len(set(scores[0].values())) > 3

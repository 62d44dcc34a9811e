"""Retrieval on two levels on a toy SNP-S3: losses beside written out formulas, ranks beside a plain loop."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.evaluation.conftest import TINY as TINY_EVE
from tests.ranks import run_ranks
from tests.video_tasks.video_toys import (
    FRAMES,
    WORDS,
    clips,
    quiet,
    spread,
    step,
    toy_batch,
    toy_model,
    toy_split,
    toy_tokenizer,
)
from torch import Tensor

from diptych.blocks.collective import World
from diptych.data.image import normalise
from diptych.errors import UsageError
from diptych.objectives.pair_scores import mine_hard
from diptych.systems.eve.model import EveModel
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_levels import RetrievalLevelsTask
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig

TOKENS = toy_tokenizer()
# As in MSVD: many captions a clip, two clips share one, and equal captions of a clip come again.
CAPTIONS = [
    ["red cat runs", "old car turns", "red cat runs"],
    ["blue dog sits", "hot sun"],
    ["red cat runs", "green tree falls"],
    ["small house burns"],
    ["hot sun", "blue dog", "sun"],
]
TEXTS = list(dict.fromkeys(text for captions in CAPTIONS for text in captions))


def make(**settings: Any) -> RetrievalLevelsTask:
    task = RetrievalLevelsTask(toy_model(), RetrievalLevelsConfig(dropout=0.0, **settings), TOKENS)
    spread(task, task.match)
    return task


class Plain:
    """Both levels pair by pair, nothing shared, nothing batched."""

    def __init__(self, task: RetrievalLevelsTask) -> None:
        self.task, self.model = task.eval(), task.model

    @torch.no_grad()
    def features(self, clip: Tensor) -> Tensor:
        frames = torch.stack([normalise(frame[None], self.model.image_spec)[0] for frame in clip])
        return self.model.see(frames[None]).features[0]

    @torch.no_grad()
    def pair(self, clip: Tensor, text: str) -> tuple[list[float], float]:
        """Return the cosines of the clips of a video with a text, and what reading both gives."""
        ids, mask = TOKENS.encode([text], 8)
        read = self.model.encode_text(ids, mask).pooled[0]
        frames = torch.stack([normalise(frame[None], self.model.image_spec)[0] for frame in clip])
        fused = self.model.fuse(frames[None], ids, mask)
        return (self.features(clip) @ read).tolist(), float(self.task.match(fused.pooled))

    def matrices(self, videos: Tensor, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return both levels' scores [texts, videos]."""
        pairs = [[self.pair(video, text) for video in videos] for text in texts]
        first = [[np.log(np.sum(np.exp(cosines))) for cosines, _ in row] for row in pairs]
        return np.array(first), np.array([[score for _, score in row] for row in pairs])


def test_losses_are_those_of_the_reference_page() -> None:
    """MIL-NCE of the middle frame without a temperature, and of pairs with one clip each."""
    texts = list(WORDS[:3])
    found = step(make(), toy_batch(TOKENS, texts))
    plain, videos = Plain(make()), clips(3)
    cosines = [[plain.pair(video, text)[0] for video in videos] for text in texts]
    first = 0.0
    middle = FRAMES // 2
    for j in range(3):
        over_texts = [cosines[i][j][middle] for i in range(3) for _ in range(FRAMES)]
        over_clips = [c for k in range(3) if k != j for c in cosines[j][k]]
        own = [cosines[j][j][middle]] * FRAMES
        first += np.log(np.sum(np.exp(over_texts + over_clips))) - np.log(np.sum(np.exp(own)))
    _, scores = plain.matrices(videos, texts)
    second = 0.0
    for j in range(3):
        others = sum(np.exp(scores[j, k]) for k in range(3) if k != j)
        second += np.log(np.exp(scores[:, j]).sum() + others) - scores[j, j]
    assert set(found.parts) == {"level1", "level2"}
    assert found.parts["level1"].item() == pytest.approx(first / 3, rel=1e-5)
    assert found.parts["level2"].item() == pytest.approx(second / 3, rel=1e-5)
    right = [float(np.argmax(row) == i) for i, row in enumerate(scores)]
    assert found.metrics["level2_r1"].item() == pytest.approx(np.mean(right))
    assert found.total.item() == pytest.approx(sum(p.item() for p in found.parts.values()), rel=1e-6)


def test_a_temperature_divides_the_first_level_alone() -> None:
    batch = toy_batch(TOKENS, list(WORDS[:3]))
    published, sharp = (step(make(batch_temperature=t), batch).parts for t in (1.0, 0.1))
    assert sharp["level2"].item() == pytest.approx(published["level2"].item(), rel=1e-6)
    assert sharp["level1"].item() != pytest.approx(published["level1"].item(), rel=1e-2)


def test_every_weight_learns() -> None:
    task = make()
    step(task, toy_batch(TOKENS, list(WORDS))).total.backward()
    missing = [n for n, p in task.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_queues_follow_and_fill() -> None:
    task = make(level1="queue", level2=False, queue=8, momentum=0.5)
    batch = toy_batch(TOKENS, list(WORDS[:3]))
    assert task.moco is not None
    with torch.no_grad():
        task.model.text_pooler.weight.add_(1.0)  # as `init_from` does, after the copies were made
    step(task, batch).total.backward()
    assert all(p.grad is None for p in task.moco.parameters())
    torch.testing.assert_close(task.moco.keys.text_pooler.weight, task.model.text_pooler.weight)
    assert int(task.moco.text_queue.filled) == 3
    assert int(task.moco.visual_queue.filled) == 3 * FRAMES
    with torch.no_grad():
        task.model.text_pooler.weight.add_(1.0)
    step(task, batch, number=1)
    gap = task.model.text_pooler.weight - task.moco.keys.text_pooler.weight
    torch.testing.assert_close(gap, torch.full_like(gap, 0.5))


def test_queues_need_the_system_they_belong_to() -> None:
    with pytest.raises(UsageError, match="level1=batch"):
        RetrievalLevelsTask(EveModel(TINY_EVE), RetrievalLevelsConfig(level1="queue"), TOKENS)


def test_hard_pairs_by_hand() -> None:
    first = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.3, 0.4, 0.7]])
    # Text 0 belongs to video 1, text 1 to video 2. Two videos each; the own takes its place on the diagonal.
    assert mine_hard(first, "top_k", start=1).tolist() == [[1, 3], [0, 2]]
    # Nearest to 0.9: 0.5 (video 2), then 0.2; nearest to 0.4: 0.3 (video 1), then 0.7.
    assert mine_hard(first, "nearliest", start=1).tolist() == [[1, 3], [1, 2]]


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="leave no loss"):
        RetrievalLevelsConfig(level1="none", level2=False)
    with pytest.raises(ValidationError, match="set level2 = true"):
        RetrievalLevelsConfig(level2=False, hard="top")


def expected_ranks(matrix: np.ndarray, right: list[set[int]]) -> list[int]:
    """Return the best rank of a right answer of each row, ties against us."""
    ranks = []
    for row, answers in zip(matrix, right, strict=True):
        best = max(row[a] for a in answers)
        ranks.append(1 + sum(score >= best for a, score in enumerate(row) if a not in answers))
    return ranks


@pytest.mark.slow
@pytest.mark.parametrize("each", [False, True])
def test_ranks_are_those_of_a_plain_loop_where_captions_repeat(each: bool) -> None:
    task = make(eval_texts="each" if each else "distinct", embedding_memory_mb=0 if each else 100)
    found = task.evaluate(toy_split(CAPTIONS), quiet)
    texts = [t for captions in CAPTIONS for t in captions] if each else TEXTS
    owner = [i for i, captions in enumerate(CAPTIONS) for _ in captions]
    right = [
        {owner[j]} if each else {i for i, c in enumerate(CAPTIONS) if text in c}
        for j, text in enumerate(texts)
    ]
    levels = Plain(task).matrices(clips(len(CAPTIONS), 11), texts)
    back = [{j for j, answers in enumerate(right) if i in answers} for i in range(len(CAPTIONS))]
    assert found.metrics["headline"] == "level2"
    for name, matrix in zip(("level1", "level2"), levels, strict=True):
        for direction, scores, answers in (
            ("text_to_image", matrix, right),
            ("image_to_text", matrix.T, back),
        ):
            if each and direction == "image_to_text":
                continue  # equal texts of other clips tie with the right ones, up to rounding
            got, ranks = found.metrics["scores"][name][direction], expected_ranks(scores, answers)
            recalls = {f"R@{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}
            assert got == pytest.approx(
                {**recalls, "mean_recall": np.mean(list(recalls.values())), "median_rank": np.median(ranks)}
            )
    assert found.metrics["candidates"]["pairs"] == len(texts) * len(CAPTIONS)
    assert found.metrics["texts"] == (11 if each else 8)


def test_few_candidates_are_read_again() -> None:
    found = make(k_test=2).evaluate(toy_split(CAPTIONS), quiet)
    assert found.metrics["candidates"]["k"] == 2
    assert found.metrics["candidates"]["pairs"] < len(TEXTS) * len(CAPTIONS)


def test_dual_softmax_is_the_product_of_both() -> None:
    task = make(dual_softmax=7.0)
    found = task.evaluate(toy_split(CAPTIONS), quiet)
    levels = Plain(task).matrices(clips(len(CAPTIONS), 11), TEXTS)
    right = [{i for i, captions in enumerate(CAPTIONS) if text in captions} for text in TEXTS]
    for name, matrix, scale in zip(("level1", "level2"), levels, (7.0, 1.0), strict=True):
        odds = np.exp(scale * matrix)
        product = (odds / odds.sum(0)) * (odds / odds.sum(1, keepdims=True))
        got = found.metrics["scores"][f"{name}_dual_softmax"]["text_to_image"]
        assert got["R@1"] == pytest.approx(np.mean([r == 1 for r in expected_ranks(product, right)]))
        assert got["median_rank"] == np.median(expected_ranks(product, right))
    assert found.metrics["headline"] == "level2"


def test_towers_alone_have_one_level() -> None:
    found = make(level2=False).evaluate(toy_split(CAPTIONS), quiet)
    assert set(found.metrics["scores"]) == {"level1"}
    assert "candidates" not in found.metrics


def test_other_systems_get_a_head_for_features() -> None:
    task = RetrievalLevelsTask(EveModel(TINY_EVE), RetrievalLevelsConfig(dropout=0.0), TOKENS)
    assert task.itc is not None
    batch = toy_batch(TOKENS, list(WORDS[:3]))
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    found = step(task, type(batch)(**{**vars(batch), "images": pictures}))
    assert set(found.parts) == {"level1", "level2", "routing"}
    found.total.backward()
    unused = {"itc.temperature"}
    assert {n for n, p in task.named_parameters() if p.grad is None} == unused


def test_plain_retrieval_takes_clips_too() -> None:
    task = RetrievalTask(toy_model(), RetrievalConfig(k_test=3), TOKENS)
    step(task, toy_batch(TOKENS, list(WORDS[:3]))).total.backward()
    found = task.evaluate(toy_split(CAPTIONS), quiet)
    assert found.metrics["headline"] == "reranked"
    assert found.metrics["images"] == len(CAPTIONS)


def over_ranks(world: World) -> dict[str, Any]:
    """Return losses and gradients of a batch that the ranks share, and an evaluation."""
    rows = torch.arange(4)[world.slice_of(4)]
    result: dict[str, Any] = {}
    for name, settings in {
        "levels": {"level2": False},
        "hard": {"level1": "none", "hard": "nearest"},
        "local": {"level1": "none"},
    }.items():
        task = make(**settings)
        loss = step(task, toy_batch(TOKENS, list(WORDS[:4])).take(rows), world=world).total
        loss.backward()
        gradient = task.model.text_pooler.weight.grad
        result[name] = (loss.item(), None if gradient is None else gradient / 1.0)
    result["evaluation"] = make().evaluate(toy_split(CAPTIONS, world=world), quiet).metrics["scores"]
    return result


@pytest.mark.slow
def test_ranks_share_the_first_level_and_the_evaluation() -> None:
    alone, together = over_ranks(World()), run_ranks(over_ranks, ranks=2)
    loss, gradient = alone["levels"]
    assert np.mean([rank["levels"][0] for rank in together]) == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(
        sum(rank["levels"][1] for rank in together) / 2, gradient, rtol=1e-4, atol=1e-6
    )
    for rank in together:
        assert rank["evaluation"] == alone["evaluation"]
        # Pairs of two samples are not those of four.
        assert rank["local"][0] != pytest.approx(alone["local"][0], rel=1e-3)
        assert np.isfinite(rank["hard"][0])

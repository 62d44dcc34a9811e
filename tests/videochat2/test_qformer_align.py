"""Stage 1 of VideoChat2: its losses by slow oracles, retrieval, and two ranks against one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.ranks import run_ranks
from videochat2_toys import CAPTIONS, TOKENIZER, context, make_batch, make_task

from diptych.blocks.collective import World
from diptych.cli.main import run
from diptych.errors import UsageError
from diptych.objectives.queries import caption_loss, query_contrast, query_similarity
from diptych.systems.qformer.system import SYSTEM
from diptych.systems.task import EvalData
from diptych.systems.two_tower.system import SYSTEM as TOWERS
from diptych.tasks.qformer_align import QFormerAlignTask
from diptych.tasks.qformer_align_config import QFormerAlignConfig
from diptych.train.config import resolve_run
from diptych.train.engine import train


def test_contrast_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    matching = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    found, right = query_contrast(logits, logits.t(), matching)
    expected = 0.0
    for scores in (logits, logits.t()):
        for i in range(3):
            chances = scores[i].softmax(0).log()
            own = [j for j in range(3) if matching[i, j]]
            expected -= sum(float(chances[j]) / len(own) for j in own) / 6
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(right) == 1.0


def test_similarity_is_the_mean_or_the_best_of_the_queries() -> None:
    parts = F.normalize(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)), dim=-1)
    texts = F.normalize(torch.randn(2, 5, generator=torch.Generator().manual_seed(2)), dim=-1)
    for i in range(3):
        for j in range(2):
            cosines = [float(parts[i, q] @ texts[j]) for q in range(4)]
            mean, best = (float(query_similarity(parts, texts, how)[i, j]) for how in ("mean", "max"))
            assert mean == pytest.approx(sum(cosines) / 4, abs=1e-6)
            assert best == pytest.approx(max(cosines), abs=1e-6)


def test_caption_loss_asks_for_the_next_word_alone() -> None:
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 2, 3, 0], [1, 4, 5, 2]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    terms = []
    for b, at, word in ((0, 0, 2), (0, 1, 3), (1, 0, 4), (1, 1, 5), (1, 2, 2)):
        logs = logits[b, at].log_softmax(0)
        terms.append(-0.9 * float(logs[word]) - 0.1 * float(logs.mean()))
    assert float(caption_loss(logits, ids, mask, 0.1)) == pytest.approx(sum(terms) / 5, rel=1e-6)


def test_loss_has_three_parts_that_train_everything() -> None:
    task, batch = make_task(), make_batch()
    found = task.compute_loss(batch, context(batch))
    assert set(found.parts) == {"vtc", "vtm", "caption"}
    torch.testing.assert_close(found.total, torch.stack(list(found.parts.values())).sum())
    found.total.backward()
    without = {n for n, p in task.named_parameters() if p.grad is None or not p.grad.any()}
    # Keys have a bias that attention does not feel; nothing else is left out.
    assert all(n.endswith("key.bias") for n in without), without


def test_wrong_pairs_never_match() -> None:
    task, batch = make_task(), make_batch()
    seen = task.model.query(task.embed(batch.images))
    texts = task.model.encode_text(batch.text_ids, batch.text_mask).pooled
    passes = task.draw_passes(seen.parts, texts, batch.match_ids, context(batch).draws)
    right, wrong_clips, wrong_texts = passes
    assert right.labels.tolist() == [1] * 6
    for pairs in (wrong_clips, wrong_texts):
        assert (batch.match_ids[pairs.images] != batch.match_ids[pairs.texts]).all()
        assert pairs.labels.tolist() == [0] * 6


def test_a_batch_of_one_trains_what_it_can() -> None:
    task, batch = make_task(), make_batch([2])
    found = task.compute_loss(batch, context(batch))
    assert float(found.parts["vtc"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert found.total.isfinite()


@pytest.mark.parametrize(("pair", "width"), [("concat", 64), ("add", 32), ("queries", 32)])
def test_what_matching_reads(pair: str, width: int) -> None:
    task, batch = make_task(pair=pair), make_batch([0, 1])
    fused = task.model.fuse(batch.images.float() / 255, batch.text_ids, batch.text_mask)
    read = task.pair_features(fused)
    assert read.shape == (2, width)
    mean, first = fused.visual.mean(1), fused.text[:, 0]
    expected = {"concat": torch.cat([mean, first], 1), "add": mean + first, "queries": mean}[pair]
    torch.testing.assert_close(read, expected)


def test_pictures_are_one_frame_or_the_published_four() -> None:
    picture = torch.rand(1, 3, 16, 16)
    one = make_task().model
    many = make_task({"stills": "published"}).model
    assert one.embed_visual(picture).shape == (1, 4, 16)
    repeated = many.embed_visual(picture)
    assert repeated.shape == (1, 8, 16)
    torch.testing.assert_close(repeated[:, :4], one.embed_visual(picture))
    assert not torch.allclose(repeated[:, :4], repeated[:, 4:])
    with pytest.raises(UsageError, match=r"system\.frames = 2"):
        one.embed_visual(torch.rand(1, 3, 3, 16, 16))


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_evaluation_ranks_as_the_similarity_does(aggregate: str) -> None:
    task, batch = make_task({"aggregate": aggregate}, matching_weight=0), make_batch()
    data = EvalData("toy", "test", 6, lambda: iter([batch]))
    found = task.evaluate(data, lambda *_: None)
    task.eval()
    texts = sorted(set(CAPTIONS), key=CAPTIONS.index)
    ids, mask = TOKENIZER.encode(texts, 8)
    with torch.no_grad():
        parts = task.model.encode_visual(task.embed(batch.images)).parts
        scores = query_similarity(parts, task.model.encode_text(ids, mask).pooled, aggregate)
    own = [texts.index(CAPTIONS[i]) for i in range(6)]
    first = sum(int(scores[i].argmax()) == own[i] for i in range(6)) / 6
    assert found.metrics["scores"]["contrastive"]["image_to_text"]["R@1"] == pytest.approx(first)


def test_reranking_uses_the_matching_head() -> None:
    task, batch = make_task(k_test=2), make_batch()
    data = EvalData("toy", "test", 6, lambda: iter([batch]))
    assert task.evaluate(data, lambda *_: None).metrics["headline"] == "reranked"


def test_other_systems_are_refused() -> None:
    with pytest.raises(UsageError, match="trains system qformer"):
        QFormerAlignTask(TOWERS.build(TOWERS.toy_config()), QFormerAlignConfig(), TOKENIZER)
    with pytest.raises(ValueError, match="every weight is 0"):
        QFormerAlignConfig(contrast_weight=0, matching_weight=0, caption_weight=0)


def recipe(folder: Path, **task: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {
            "path": str(folder / "clips"),
            "split": "train",
            "image": {"size": 16},
            "video": {"frames": 2},
            "text": {"vocab_size": 120, "max_tokens": 16},
            "loader": {"batch_size": 6},
        },
        "system": SYSTEM.toy_config().model_dump(mode="json"),
        "task": {"name": "qformer_align", **task},
        "optim": {
            "lr": 0.003,
            "eps": 1e-4,
            "groups": {"eyes": {"match": ["model.visual.*"], "name": "frozen"}},
        },
        "schedule": {"name": "constant"},
        "train": {"steps": 3, "log_every": 1, "checkpoint_every": 0, "threads": 1, "count_flops": False},
    }


def start(world: World, settings: dict[str, Any], folder: Path) -> int:
    return train(resolve_run(settings), folder, progress=False).step


@pytest.mark.slow
def test_two_ranks_train_what_one_process_trains(tmp_path: Path) -> None:
    """All but matching, whose wrong pairs are those of a rank."""
    prepared = ["-o", "size=24", "-o", "resolution=32", "-o", "kinds=12", "-o", "style=noto"]
    assert run(["data", "prepare", "emoji-clips", "--out", str(tmp_path / "clips"), *prepared]) == 0
    settings = recipe(tmp_path, matching_weight=0)
    assert start(World(), settings, tmp_path / "one") == 3
    assert run_ranks(start, settings, tmp_path / "two") == [3, 3]
    ours, theirs = (load_file(tmp_path / name / "export/model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-5, msg=lambda text, n=name: n + text)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    for found, expected in zip(*rows, strict=True):
        # The temperature is a weight, and has been compared as one.
        for figure in (n for n in expected if n.startswith(("loss", "metric/")) and "temperature" not in n):
            assert found[figure] == pytest.approx(expected[figure], rel=2e-5, abs=1e-6), figure

"""Questions about clips: published head and loss, order-sensitive ones apart, the best of the listed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.video_tasks.video_toys import (
    WORDS,
    clips,
    quiet,
    rows_split,
    spread,
    step,
    toy_batch,
    toy_model,
    toy_tokenizer,
)
from torch import Tensor

from diptych.data.image import normalise
from diptych.tasks.fused import equal_pictures
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_config import VqaConfig

TOKENS = toy_tokenizer()
ANSWERS = ["cat", "dog", "run", "sit"]
ENTRIES: list[dict[str, Any]] = [
    {"question": WORDS[0], "answer": "cat", "kind": "what", "ordered": False},
    {"question": WORDS[1], "answer": "sit", "kind": "what", "ordered": True},
    {"question": WORDS[2], "answer": "run", "kind": "how", "ordered": True},
    {"question": WORDS[3], "answer": "unheard of", "kind": "how"},
]


def make(**settings: Any) -> VqaTask:
    config = VqaConfig(**{"head": "linear", "loss": "softmax", **settings})
    task = VqaTask(toy_model(), config, TOKENS, ANSWERS)
    spread(task, task.vqa)
    return task


def asked() -> Any:
    return toy_batch(TOKENS, [entry["question"] for entry in ENTRIES], {"questions": ENTRIES})


def test_published_head_and_loss() -> None:
    task = make()
    weight, bias = task.vqa.classifier.weight, task.vqa.classifier.bias
    with torch.no_grad():
        frames = torch.stack([normalise(clip, task.model.image_spec) for clip in clips(4)])
        batch = asked()
        pooled = task.model.fuse(frames, batch.text_ids, batch.text_mask).pooled
        logits = pooled @ weight.T + bias
    found = step(task, batch)
    # The last answer is in no list: the question is left out.
    expected = F.cross_entropy(logits[:3], torch.tensor([0, 3, 2]))
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {n for n in task.state_dict() if not n.startswith("model.")} == {
        "vqa.classifier.weight",
        "vqa.classifier.bias",
    }


def test_order_and_the_best_of_the_answers_listed() -> None:
    task = make(top=2)
    found = task.evaluate(rows_split(asked()), quiet)
    with torch.no_grad():
        order = task.logits(asked()).argsort(1, descending=True).tolist()
    right = [0, 3, 2]
    first = [float(order[i][0] == right[i]) for i in range(3)] + [0.0]
    listed = [float(right[i] in order[i][:2]) for i in range(3)] + [0.0]
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(sum(first) / 4)
    assert metrics["top_accuracy"] == pytest.approx(sum(listed) / 4)
    assert metrics["ordered"] == {"accuracy": (first[1] + first[2]) / 2, "count": 2}
    assert metrics["unordered"] == {"accuracy": first[0], "count": 1}
    assert [len(row["top"]) for row in found.predictions] == [2] * 4
    assert [row.get("ordered") for row in found.predictions] == [False, True, True, None]


def test_all_answers_may_be_listed() -> None:
    metrics = make(top=10).evaluate(rows_split(asked()), quiet).metrics
    assert metrics["top_accuracy"] == metrics["reachable"] == 0.75


def counted(task: VqaTask) -> list[int]:
    """Return a list to which every embedding adds its number of clips."""
    counts: list[int] = []
    embed = task.model.embed_visual

    def count(frames: Tensor, sizes: Tensor | None = None) -> Tensor:
        counts.append(len(frames))
        return embed(frames, sizes)

    task.model.embed_visual = count
    return counts


def test_rows_about_one_clip_share_its_embedding() -> None:
    batch = asked().take(torch.tensor([0, 1, 0, 1, 2, 3]))
    moved = batch.images.clone()
    moved[3] = 255 - moved[3]  # as if it were cropped elsewhere: clip 1 twice, each by itself
    batch = replace(batch, images=moved)
    assert equal_pictures(batch.keys, batch.images) == ([0, 1, 3, 4, 5], [0, 1, 0, 2, 3, 4])
    found = {}
    for share in (False, True):
        task = make(share_pictures=share)
        counts = counted(task)
        loss = step(task, batch).total
        loss.backward()
        weights = task.model.visual.projection.weight.grad
        found[share] = (loss.detach(), weights)
        assert counts == [5 if share else 6]
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-6)

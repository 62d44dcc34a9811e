"""SNP-S3's pre-training: losses beside their straightforward computation, switches, ranks, evaluation."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from snps3_toys import ASSET, CAPTIONS, MASK, TOKENIZER, make_batch, make_task
from tests.ranks import run_ranks
from torch import Tensor

from diptych.blocks.collective import World, set_world
from diptych.blocks.video_swin import VideoSwinConfig
from diptych.data.draws import Draws
from diptych.errors import DataError, UsageError
from diptych.systems.snps3.objectives import IGNORED, Given
from diptych.systems.snps3.pretrain import SnpS3PretrainTask
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig
from diptych.systems.snps3.system import SYSTEM
from diptych.systems.snps3.words import ASSET as NAME
from diptych.systems.task import EvalData, Loss, StepContext


def loss_of(task: SnpS3PretrainTask, batch: Any, step: int = 0, world: World | None = None) -> Loss:
    context = StepContext(step, 0.0, Draws(3, batch.positions), *([] if world is None else [world]))
    return task(batch, context)


def nce(scores: Tensor) -> Tensor:
    """Compute MIL-NCE of [B, B, n] pair by pair, as the reference page has it."""
    B, _, n = scores.shape
    losses = []
    for j in range(B):
        middle = scores[:, j, n // 2]
        every = [middle] * n + [scores[j, k] for k in range(B) if k != j]
        losses.append(torch.cat(every).logsumexp(0) - middle[j].expand(n).logsumexp(0))
    return torch.stack(losses).mean()


def straightforward(task: SnpS3PretrainTask, given: Given) -> dict[str, Tensor]:
    """Compute the losses one text with one clip at a time; called before the task moves its queues."""
    model, group = task.model, task.config.level2_group
    seen = model.see(given.frames)
    tokens, clips = seen.tokens, seen.features
    texts = model.encode_text(given.raw, given.mask)
    B = len(clips)
    found = {}
    if task.moco is None:
        found["level1"] = nce(torch.stack([(clips * text).sum(2) for text in texts.pooled]))
    else:
        found["level1"] = _queues(task, given, texts.pooled, clips)
    second = []
    for start in range(0, B, group):
        rows = range(start, min(start + group, B))
        scores = [[_fused(model, given.shown[i], given.mask[i], tokens[j]) for j in rows] for i in rows]
        pairs = torch.stack([torch.stack([task.match(s.pooled[0]) for s in row]) for row in scores])
        second.append(nce(pairs[..., None]) * len(rows))
    found["level2"] = torch.stack(second).sum() / B
    shown, targets = given.guided or (given.shown, given.targets)
    words, alone, matches = [], [], []
    table = model.text.words.weight
    for i in range(B):
        right = _fused(model, shown[i], given.mask[i], tokens[i])
        wrong = _fused(model, given.false[i], given.false_mask[i], tokens[i])
        matches += [F.cross_entropy(task.itm(right.pooled), torch.tensor([1]))]
        if given.false_there is None or given.false_there[i]:
            matches += [F.cross_entropy(task.itm(wrong.pooled), torch.tensor([0]))]
        read = given.raw if task.config.text_mlm == "published" else shown
        text = model.encode_text(read[i : i + 1], given.mask[i : i + 1]).tokens[0]
        for place in (targets[i] != IGNORED).nonzero()[:, 0]:
            wanted = targets[i, place][None]
            words.append(F.cross_entropy(task.mlm(right.text[0, place][None], table), wanted))
            alone.append(F.cross_entropy(task.text_mlm(text[place][None], table), wanted))
    found |= {n: torch.stack(v).mean() for n, v in (("mlm", words), ("text_mlm", alone), ("itm", matches))}
    for name, vectors in (("before", model.text(given.raw)), ("after", texts.tokens)):
        scores = torch.stack(
            [
                torch.stack([torch.logsumexp(vectors[i, given.words[i]] @ clips[j].t(), 0) for j in range(B)])
                for i in range(B)
            ]
        )
        found[f"lvwm_{name}"] = nce(scores)
    return found


def _fused(model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Any:
    real = int(mask.sum())
    return model.fuse(tokens[None], ids[None, :real], mask[None, :real])


def _queues(task: SnpS3PretrainTask, given: Given, texts: Tensor, clips: Tensor) -> Tensor:
    """Compute the loss with queues from copies that are moved by hand."""
    moco = copy.deepcopy(task.moco)
    assert moco is not None
    live = dict(task.model.named_parameters())
    for name, mine in moco.keys.named_parameters():
        mine.data = moco.momentum * mine.data + (1 - moco.momentum) * live[name].data
    with torch.no_grad():
        seen = moco.keys.see(given.frames).features
        read = moco.keys.encode_text(given.raw, given.mask).pooled
    to_text, to_clip = [], []
    for i in range(len(texts)):
        for clip in clips[i]:
            logits = torch.cat([(clip @ read[i])[None], moco.text_queue.features @ clip]) / moco.temperature
            to_text.append(F.cross_entropy(logits[None], torch.tensor([0])))
        own = (seen[i] @ texts[i]) / moco.temperature
        every = torch.cat([own, moco.visual_queue.features @ texts[i] / moco.temperature])
        to_clip.append(every.logsumexp(0) - own.logsumexp(0))
    return (torch.stack(to_text).mean() + torch.stack(to_clip).mean()) / 2


SETTINGS = {
    "default": {},
    "published": {
        "text_mlm": "published",
        "itm_texts": "published",
        "guided_by": "step",
        "guided": 1.0,
        "queue_wrap": "published",
    },
    "batch": {"level1": "batch", "level2_group": 4, "guided": 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_those_of_the_straightforward_computation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(**SETTINGS[name])
    batch, seen = make_batch(), list[Given]()
    real = SnpS3PretrainTask.give

    def noting(self: Any, *arguments: Any) -> Given:
        seen.append(real(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(SnpS3PretrainTask, "give", noting)
    loss_of(task, batch).total.backward()  # fills the queues a little
    for parameter in task.parameters():
        parameter.grad = None
    before = copy.deepcopy(task)
    found = loss_of(task, batch, step=1)
    assert seen[1].guided is not None
    assert bool((seen[1].targets != IGNORED).any())
    expected = straightforward(before, seen[1])
    assert found.parts.keys() == expected.keys()
    for part, value in expected.items():
        torch.testing.assert_close(found.parts[part], value, rtol=1e-5, atol=1e-6, msg=f"{name} {part}")
    found.total.backward()
    torch.stack(list(expected.values())).sum().backward()
    others, trained = dict(before.named_parameters()), 0
    for parameter_name, parameter in task.named_parameters():
        gradient = others[parameter_name].grad
        assert (parameter.grad is None) == (gradient is None), parameter_name
        if gradient is not None:
            trained += 1
            torch.testing.assert_close(parameter.grad, gradient, atol=2e-5, rtol=2e-3, msg=parameter_name)
    assert trained > 60


def test_queues_take_what_the_copies_made_and_copies_follow() -> None:
    task = make_task(queue=4, momentum=0.75)
    moco = task.moco
    assert moco is not None
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.01)  # as if filled after it was built
    loss_of(task, make_batch([0, 1, 2], frames=1))
    live = task.model.state_dict()
    # They started as what the encoders are now, and these have not moved since.
    for name, tensor in moco.keys.state_dict().items():
        torch.testing.assert_close(tensor, live[name], rtol=0, atol=1e-6)
    assert (int(moco.text_queue.pointer), int(moco.visual_queue.filled)) == (3, 3)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(1.5)
    kept = moco.keys.text.words.weight.clone()
    loss_of(task, make_batch([3, 4], frames=1), step=1)
    wanted = 0.75 * kept + 0.25 * task.model.text.words.weight
    torch.testing.assert_close(moco.keys.text.words.weight, wanted)
    texts = make_batch([3, 4], frames=1)
    read = moco.keys.encode_text(texts.text_ids, texts.text_mask).pooled
    torch.testing.assert_close(moco.text_queue.features[[3, 0]], read)  # a ring
    assert int(moco.text_queue.pointer) == 1
    assert not any(parameter.requires_grad for parameter in moco.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("off", ["level1", "level2", "mlm", "text_mlm", "itm", "lvwm"])
def test_each_loss_can_be_switched_off_and_weighs_as_told(off: str) -> None:
    whole = make_task(guided=0.0)
    parts = loss_of(whole, make_batch()).parts
    task = make_task(guided=0.0, **{f"{off}_weight": 0.0})
    found = loss_of(task, make_batch())
    assert found.parts.keys() == {name for name in parts if name.partition("_")[0] != off and name != off}
    if off != "text_mlm":
        half = make_task(guided=0.0, **{f"{off}_weight": 0.5})
        names = [name for name in parts if name == off or name.startswith(f"{off}_")]
        weighted = loss_of(half, make_batch()).parts
        for name in names:
            torch.testing.assert_close(weighted[name], parts[name] / 2, rtol=1e-4, atol=1e-6)
    found.total.backward()
    lacking = {"level1": "moco", "level2": "match", "lvwm": "none"}.get(off, off)
    assert getattr(task, lacking, None) is None


def test_one_loss_alone_and_none() -> None:
    only = {f"{n}_weight": 0.0 for n in ("level1", "level2", "mlm", "text_mlm", "lvwm")}
    found = loss_of(make_task(**only), make_batch())
    assert list(found.parts) == ["itm"]
    with pytest.raises(ValueError, match="nothing is left"):
        make_task(**only, itm_weight=0.0)


def test_wrong_texts_have_words_hidden_unless_published() -> None:
    for published in (False, True):
        task = make_task(itm_texts="published" if published else "hidden", text_mask_ratio=0.9)
        batch = make_batch()
        draws = Draws(3, batch.positions)
        texts = task.hider.hide(batch.text_ids, batch.text_mask, draws)
        given = task.give(batch, texts, None, draws, World())
        assert bool((given.false == MASK).any()) is not published


def test_pictures_are_clips_of_one_frame_and_long_clips_are_refused() -> None:
    flat, clip = make_batch(frames=1), make_batch(frames=1)
    assert flat.images is not None
    object.__setattr__(flat, "images", flat.images[:, 0])
    found, expected = loss_of(make_task(), flat), loss_of(make_task(), clip)
    assert float(found.total.detach()) == float(expected.total.detach())
    with pytest.raises(UsageError, match=r"system\.frames = 3"):
        loss_of(make_task(), make_batch(frames=4))


def test_padding_of_frames_does_not_count() -> None:
    task = make_task({"sizes": "any"})
    batch = make_batch()
    assert batch.images is not None
    object.__setattr__(batch, "image_sizes", torch.tensor([[32, 17], [32, 32], [20, 32], *[[32, 32]] * 3]))
    rubbish = make_batch()
    assert rubbish.images is not None
    rubbish.images[0, ..., 17:] = 255
    rubbish.images[2, :, :, 20:] = 7
    object.__setattr__(rubbish, "image_sizes", batch.image_sizes)
    other = make_task({"sizes": "any"})
    assert float(loss_of(task, batch).total.detach()) == float(loss_of(other, rubbish).total.detach())
    _, padding = task.frames(batch)
    assert padding is not None
    assert padding[0, 0].sum() == 32 * 15
    assert padding[1].sum() == 0
    published = make_task({"sizes": "any", "mask": "published"}).frames(batch)[1]
    assert published is not None
    assert published.sum() == 0  # none is smaller in both directions


def test_what_it_has_to_know_is_asked_for() -> None:
    model, config = SYSTEM.build(SYSTEM.toy_config()), SnpS3PretrainConfig(lvwm="after")
    with pytest.raises(UsageError, match=r"set task\.words"):
        SnpS3PretrainTask.find_assets(config, [], {})
    assert SnpS3PretrainTask.find_assets(config, [], {NAME: ASSET}) == {NAME: ASSET}
    with pytest.raises(UsageError, match=r"task\.masking=random"):
        SnpS3PretrainTask(model, config, TOKENIZER)
    assert SnpS3PretrainTask(model, SnpS3PretrainConfig(), TOKENIZER).assets() == {}
    with pytest.raises(DataError, match="cannot be read"):
        SnpS3PretrainTask.find_assets(config.with_(words="none.json"), [], {})


SWIN = VideoSwinConfig(width=4, depths=(1, 1), heads=(1, 2), window=(2, 3, 3), drop_path=0)
RANKS: dict[str, tuple[list[list[int]], dict[str, Any], dict[str, Any]]] = {
    "unequal parts": ([[0, 1], [2, 3, 4, 5]], {}, {}),
    "published": (
        [[0, 1, 2], [3, 4, 5]],
        {},
        {"level2_group": 3, "guided_by": "step", "queue_wrap": "published"},
    ),
    "batch, Video Swin": ([[0, 1], [2, 3, 4, 5]], {"encoder": "swin", "swin": SWIN}, {"level1": "batch"}),
}
"""Rows of each rank, settings of the system and of the task."""


def ranked(world: World, names: list[str]) -> dict[str, Any]:
    """Return losses, metrics, gradients and buffers of two steps of what each rank holds."""
    results = {}
    for name in names:
        split, system, settings = RANKS[name]
        task = make_task(system, **settings)
        set_world(task, world)
        rows = split[world.rank] if world.size > 1 else [row for part in split for row in part]
        figures: dict[str, float] = {}
        for step in range(2):
            found = loss_of(task, make_batch(rows), step, world)
            found.total.backward()
            told = {**found.parts, **found.metrics}
            figures |= {f"{step} {n}": float(world.sum(v.detach()) / world.size) for n, v in told.items()}
        gradients = {
            n: world.sum(p.grad) / world.size for n, p in task.named_parameters() if p.grad is not None
        }
        results[name] = {"figures": figures, "gradients": gradients, "buffers": dict(task.named_buffers())}
    return results


@pytest.mark.slow
def test_two_ranks_train_what_one_process_trains() -> None:
    names = list(RANKS)
    together = run_ranks(ranked, names)
    for name, alone in ranked(World(), names).items():
        first, second = (rank[name] for rank in together)
        assert first["figures"] == second["figures"]
        assert first["figures"] == pytest.approx(alone["figures"], rel=1e-5, abs=1e-6), name
        assert alone["gradients"].keys() == first["gradients"].keys()
        for of, gradient in alone["gradients"].items():
            torch.testing.assert_close(first["gradients"][of], gradient, atol=2e-5, rtol=2e-3)
        assert any(".queue" in of or "_queue." in of for of in alone["buffers"]) == ("batch" not in name)
        for of, buffer in alone["buffers"].items():
            torch.testing.assert_close(first["buffers"][of], buffer, atol=1e-5, rtol=1e-5)
            assert torch.equal(first["buffers"][of], second["buffers"][of]), f"{name} {of}"  # bit for bit


def test_evaluation_counts_words_and_matches() -> None:
    task = make_task()
    batches = [make_batch([0, 1, 2, 3]), make_batch([4, 5])]
    data = EvalData("toy", "test", 6, lambda: iter(batches))
    done: list[int] = []
    found = task.evaluate(data, lambda stage, count, total: done.append(count))
    assert task.training
    assert done == [4, 6]
    metrics, rows = found.metrics, found.predictions
    assert metrics["samples"] == len(rows) == 6
    hidden = sum(row["masked_tokens"] for row in rows)
    assert metrics["masked_tokens"] == hidden > 0
    for name in ("masked_token", "text_only_token"):
        right = sum(row[f"right_{name}s"] for row in rows)
        assert metrics[f"{name}_accuracy"] == pytest.approx(right / hidden)
        assert metrics[f"{name}_loss"] > 0
    verdicts = [row[name] for row in rows for name in ("own_text_matched", "wrong_text_refused")]
    assert metrics["matching_pairs"] == len(verdicts) == 12
    assert metrics["matching_accuracy"] == pytest.approx(sum(verdicts) / 12)
    assert metrics["baseline"]["matching_accuracy"] == 0.5
    words = [word for caption in CAPTIONS for word in caption.split()]
    assert 1 / len(words) < metrics["baseline"]["masked_token_accuracy"] <= 1
    assert task.evaluate(data, lambda *_: None).metrics == metrics
    no_texts = EvalData("toy", "test", 1, lambda: iter([_without_captions()]))
    with pytest.raises(DataError, match="clips with captions"):
        task.evaluate(no_texts, lambda *_: None)


def _without_captions() -> Any:
    batch = make_batch([0])
    object.__setattr__(batch, "captions", [()])
    return batch


def test_cut_weights_and_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    # What sharded training makes of parameters.
    monkeypatch.setattr("diptych.systems.snps3.heads.DTensor", torch.nn.Parameter)
    with pytest.raises(UsageError, match=r"set train\.parallel=ddp, or task\.level1=batch"):
        loss_of(task, make_batch(), step=1)
    monkeypatch.setattr("diptych.systems.snps3.pretrain.DTensor", torch.nn.Parameter)
    with pytest.raises(UsageError, match=r"whole weights .* train\.parallel=ddp"):
        loss_of(make_task(level1="batch"), make_batch())
    with pytest.raises(UsageError, match="needs the system snps3"):
        SnpS3PretrainTask(torch.nn.Linear(1, 1), SnpS3PretrainConfig(), TOKENIZER)  # type: ignore[arg-type]

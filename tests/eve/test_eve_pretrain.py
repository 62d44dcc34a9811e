"""Masked pre-training of EVE: hidden signals stay hidden, losses fall, evaluation counts."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.systems.eve.hiding import equal_rows, trim
from diptych.systems.eve.pretrain import EvePretrainTask
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.eve.system import SYSTEM
from diptych.systems.task import EvalData, StepContext
from diptych.systems.two_tower.system import SYSTEM as TWO_TOWER

CAPTIONS = ("red cat sits", "blue dog", "green bird sings loud", "small red bird")
DROP = EvePretrainConfig(decoder_width=16, decoder_layers=1, decoder_heads=2)
REPLACE = DROP.with_(masked_tokens="replace", decoder_layers=0)
PAIRS = DROP.with_(
    itc_weight=1.0, itm_weight=1.0, image_contrast=0.5, masked_batch=4, itm_batch=3, decoder_text=True
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS * 4, 60)


def make_task(tokenizer: Tokenizer, config: EvePretrainConfig, **system: object) -> EvePretrainTask:
    torch.manual_seed(0)
    return EvePretrainTask(SYSTEM.build(SYSTEM.toy_config().with_(**system)), config, tokenizer)


def make_batch(tokenizer: Tokenizer, samples: int = 8) -> Batch:
    """Return pictures whose colour goes with the caption."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.arange(samples) % len(CAPTIONS)
    colour = torch.randint(0, 200, (len(CAPTIONS), 3, 1, 1), generator=generator)
    noise = torch.randint(0, 40, (samples, 3, 16, 16), generator=generator)
    texts = [CAPTIONS[k] for k in kinds.tolist()]
    ids, mask = tokenizer.encode(texts, 14)
    return Batch(
        keys=[f"s{i}" for i in range(samples)],
        positions=torch.arange(samples),
        match_ids=kinds,
        images=(colour[kinds] + noise).to(torch.uint8),
        text_ids=ids,
        text_mask=mask,
        captions=[(t,) for t in texts],
    )


def context(batch: Batch, step: int = 0) -> StepContext:
    return StepContext(step, 0.0, Draws(step, batch.positions))


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("config", [DROP, REPLACE, PAIRS], ids=["drop", "replace", "pairs"])
def test_every_parameter_gets_a_finite_gradient(
    tokenizer: Tokenizer, config: EvePretrainConfig, stem: str
) -> None:
    task = make_task(tokenizer, config, stem=stem, patch_size=8)
    batch = make_batch(tokenizer)
    loss = task(batch, context(batch))
    loss.total.backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    expected = {"mlm", "mim", "routing"} | ({"itc", "image_contrast", "itm"} if config.itc_weight else set())
    assert set(loss.parts) == expected
    torch.testing.assert_close(loss.total, torch.stack(list(loss.parts.values())).sum())


def test_a_step_depends_on_its_draws_alone(tokenizer: Tokenizer) -> None:
    task, batch = make_task(tokenizer, DROP).eval(), make_batch(tokenizer)
    with torch.no_grad():
        one, again, other = (task(batch, context(batch, step)).total for step in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("config", "system"),
    [
        (DROP, {}),
        (REPLACE, {}),
        (DROP, {"stem": "patch", "patch_size": 4, "class_mean": False}),
        (DROP, {"stem": "patch", "patch_size": 4, "class_mean": True}),
        (REPLACE, {"stem": "patch", "patch_size": 4, "class_mean": False}),
    ],
    ids=["conv-drop", "conv-replace", "patch-drop", "patch-drop-mean", "patch-replace"],
)
def test_hidden_signals_do_not_leak(
    tokenizer: Tokenizer, config: EvePretrainConfig, system: dict[str, object]
) -> None:
    """Other pixels in hidden patches and other words at hidden places change nothing that the model makes."""
    task, batch = make_task(tokenizer, config, **system).eval(), make_batch(tokenizer)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    pixels = batch.images.float() / 127.5 - 1
    masked = task.hide(pixels, batch.text_ids, batch.text_mask, Draws(3, batch.positions))
    cell, side = task.model.patch_cell, task.model.patch_side
    assert masked.hidden.sum(1).tolist() == [round(0.75 * side**2)] * 8
    where = masked.hidden.view(8, 1, side, side).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    changed = type(masked)(
        torch.where(where, torch.rand_like(pixels), pixels),
        masked.hidden,
        torch.where(masked.selected, 7, masked.ids),
        masked.shown,
        masked.mask,
        masked.selected,
    )
    with torch.no_grad():
        before, after = task.rebuild(masked), task.rebuild(changed)
    assert torch.equal(before.words, after.words)
    assert torch.equal(before.patches, after.patches)
    assert not torch.equal(before.target, after.target)


@pytest.mark.parametrize("config", [DROP, REPLACE], ids=["drop", "replace"])
def test_two_passes_hide_one_kind_of_signal_each(tokenizer: Tokenizer, config: EvePretrainConfig) -> None:
    task, batch = make_task(tokenizer, config.with_(passes=2)).eval(), make_batch(tokenizer)
    assert batch.images is not None
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    pixels = batch.images.float() / 127.5 - 1
    masked = task.hide(pixels, batch.text_ids, batch.text_mask, Draws(3, batch.positions))
    cell, side = task.model.patch_cell, task.model.patch_side
    where = masked.hidden.view(8, 1, side, side).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    with torch.no_grad():
        before = task.rebuild(masked)
        painted = task.rebuild(replace(masked, pixels=torch.where(where, torch.rand_like(pixels), pixels)))
        told = task.rebuild(replace(masked, ids=torch.where(masked.selected, 7, masked.ids)))
    # Hidden patches are there when words are found, and the hidden words when patches are painted.
    assert torch.equal(before.patches, painted.patches)
    assert not torch.equal(before.words, painted.words)
    assert torch.equal(before.words, told.words)
    assert not torch.equal(before.patches, told.patches)
    assert len(before.fused) == 2
    loss = task.train().compute_loss(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
    assert {"mlm", "mim"} <= loss.parts.keys()
    assert bool(loss.total.isfinite())


def test_targets_are_the_hidden_patches(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, DROP.with_(normalise_targets=False))
    pixels = torch.arange(3 * 16 * 16, dtype=torch.float32).view(1, 3, 16, 16) / 768
    ids, mask = tokenizer.encode(["red cat"], 8)
    masked = task.hide(pixels, ids, mask, Draws(0, torch.arange(1)))
    (visible,) = (~masked.hidden[0]).nonzero()[:, 0].tolist()
    corners = [(0, 0), (0, 8), (8, 0), (8, 8)]
    del corners[visible]
    with torch.no_grad():
        target = task.rebuild(masked).target
    expected = torch.stack([pixels[0, :, r : r + 8, c : c + 8].reshape(-1) for r, c in corners])
    assert torch.equal(target[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("config", [DROP, REPLACE], ids=["drop", "replace"])
def test_losses_fall(tokenizer: Tokenizer, config: EvePretrainConfig) -> None:
    task, batch = make_task(tokenizer, config.with_(normalise_targets=False)), make_batch(tokenizer, 16)
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    history = []
    for step in range(60):
        loss = task(batch, context(batch, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        history.append({name: part.item() for name, part in loss.parts.items()})
    for part in ("mlm", "mim"):
        early, late = (sum(h[part] for h in some) / 5 for some in (history[:5], history[-5:]))
        assert late < 0.5 * early, part


def test_evaluation_counts_what_it_hides(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, DROP).train()

    def batches() -> Iterator[Batch]:
        yield make_batch(tokenizer, 5)
        yield make_batch(tokenizer, 3)

    seen = []
    data = EvalData("toy", "test", 8, batches)
    result = task.evaluate(data, lambda stage, done, total: seen.append((stage, done, total)))
    assert task.training
    assert seen == [("rebuild", 5, 8), ("rebuild", 8, 8)]
    rows, metrics = result.predictions, result.metrics
    assert [r["key"] for r in rows] == ["s0", "s1", "s2", "s3", "s4", "s0", "s1", "s2"]
    hidden, right = sum(r["masked_tokens"] for r in rows), sum(r["right_tokens"] for r in rows)
    assert metrics["masked_tokens"] == hidden > 8
    assert metrics["masked_token_accuracy"] == pytest.approx(right / hidden)
    assert metrics["reconstruction_error"] == pytest.approx(sum(r["reconstruction_error"] for r in rows) / 8)
    assert 0 < metrics["baseline"]["masked_token_accuracy"] < 1
    assert metrics["baseline"]["reconstruction_error"] == pytest.approx(1.0, abs=0.01)  # normalised patches
    (layer,) = result.extra["experts"]["layers"]
    assert sum(layer["image"]) == 8 * 2  # the class token and the one visible patch of 4
    again = task.evaluate(data, lambda *_: None)
    assert again == result


def test_evaluation_reads_captions_where_there_are_no_ids(tokenizer: Tokenizer) -> None:
    task, batch = make_task(tokenizer, DROP), make_batch(tokenizer, 4)
    bare = Batch(batch.keys, batch.positions, batch.match_ids, batch.images, captions=batch.captions)
    with_ids, without = (
        task.evaluate(EvalData("toy", "t", 4, lambda b=b: iter([b])), lambda *_: None) for b in (batch, bare)
    )
    assert with_ids == without


def test_trim_and_equal_rows_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    ids = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    short, kept = trim(ids, mask)
    assert short.tolist() == [[5, 6], [7, 0]]
    assert kept.tolist() == [[True, True], [True, False]]
    assert trim(ids[:, 2:], mask[:, 2:])[0].shape == (2, 1)
    hidden = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    assert equal_rows(hidden).int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]


def test_blockwise_masks_need_room(tokenizer: Tokenizer) -> None:
    config = REPLACE.with_(image_mask="blockwise", image_mask_ratio=0.5)
    task = make_task(tokenizer, config, stem="patch", patch_size=4, class_mean=False)
    batch = make_batch(tokenizer)
    loss = task(batch, context(batch))
    assert loss.parts["mim"] > 0
    with pytest.raises(UsageError, match=r"image_mask_ratio = 0.5 of 4 patches is below 4"):
        make_task(tokenizer, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_layers": 0}, "decoder_layers 0 needs masked_tokens=replace"),
        ({"image_mask": "blockwise"}, "needs masked_tokens=replace"),
        ({"decoder_heads": 3}, "decoder_width 16 is not a multiple of decoder_heads 3"),
        ({"itm_weight": 1.0}, "need the features of itc_weight"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DROP.with_(**changes)


def test_only_eve_can_do_it(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="needs the system eve, got TwoTowerModel"):
        EvePretrainTask(TWO_TOWER.build(TWO_TOWER.toy_config()), DROP, tokenizer)
    assert EvePretrainTask.needs(DROP) == {"embed_visual", "fuse"}
    assert EvePretrainTask.needs(PAIRS) == {"embed_visual", "fuse", "encode_visual", "encode_text"}

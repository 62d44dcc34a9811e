"""SOHO's pre-training: what is hidden and replaced; the losses beside their straightforward computation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranks import run_ranks
from torch import Tensor, nn

from diptych.blocks.collective import World, set_world
from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.matching import IGNORED
from diptych.systems.protocol import Visual
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.masking import Shown, hide_visual_words, hide_words, same_word, show
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.pretrain import SohoPretrainTask
from diptych.systems.soho.pretrain_config import SohoPretrainConfig
from diptych.systems.task import StepContext

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
TOKENIZER = Tokenizer.from_vocabulary(WORDS)
PAD, CLS, SEP, MASK = range(4)


class Given(Draws):
    """Draws that are given."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__(0, torch.arange(len(values[0])))
        self.values = list(values)

    def rand(self, *shape: int) -> Tensor:
        found = self.values.pop(0)
        assert found.shape[1:] == shape
        return found


def test_hiding_words_by_hand() -> None:
    ids = torch.tensor([[CLS, 5, 6, 7, 8, SEP, PAD]])
    selected = torch.tensor([[0, 1, 1, 1, 0, 0, 0]]).bool()
    masked = torch.tensor([[1, 1, 0, 0, 1, 1, 1]]).bool()
    random = torch.tensor([[1, 1, 1, 0, 1, 1, 1]]).bool()
    words = torch.full_like(ids, 20)
    shown, targets = hide_words(ids, selected, masked, random, words, MASK)
    assert shown.tolist() == [[CLS, MASK, 20, 7, 8, SEP, PAD]]
    assert targets.tolist() == [[IGNORED, 5, 6, 7, IGNORED, IGNORED, IGNORED]]


def test_replaced_texts_by_hand() -> None:
    # Three pictures with two texts; the first two pictures match each other.
    ids = torch.tensor([[[10], [11]], [[12], [13]], [[14], [15]]])
    mask = torch.tensor([[[True], [True]], [[True], [False]], [[True], [True]]])
    wanted = torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.1, 0.1]])
    share = torch.tensor([[0.0, 0.0], [0.9, 0.9], [0.4, 0.6]])
    nothing = torch.ones(3, 4, 2, 1)
    config = SohoPretrainConfig(wrong_text=0.5)
    shown = show(ids, mask, torch.tensor([5, 5, 9]), TOKENIZER, config, Given(wanted, share, nothing))
    assert shown.ids.flatten().tolist() == [14, 11, 12, 14, 10, 12]
    assert shown.matching.tolist() == [0, 1, 1, 0, 0, 0]
    assert shown.pictures.tolist() == [0, 0, 1, 1, 2, 2]
    assert shown.mask.flatten().tolist() == [True] * 6  # the mask comes with the text
    assert bool((shown.targets == IGNORED).all())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 2**20))
def test_a_text_is_never_replaced_by_a_matching_one(match: list[int], texts: int, seed: int) -> None:
    B = len(match)
    first = 10 + torch.arange(B)[:, None].expand(B, texts)
    ids = torch.where(torch.arange(texts) == 0, first, 9)[..., None]
    config = SohoPretrainConfig(wrong_text=1.0, text_mask_ratio=0.0)
    match_ids = torch.tensor(match)
    shown = show(ids, torch.ones_like(ids).bool(), match_ids, TOKENIZER, config, Draws(seed, torch.arange(B)))
    for picture, word, right in zip(
        shown.pictures.tolist(), shown.ids.flatten().tolist(), shown.matching.tolist(), strict=True
    ):
        others = any(m != match[picture] for m in match)
        assert right == (0 if others else 1)
        if others:
            # The first text of another picture.
            assert word >= 10
            assert match[word - 10] != match[picture]


def test_how_many_words_are_hidden_and_how() -> None:
    B, G, L = 400, 4, 12
    ids = torch.randint(5, 31, (B, G, L), generator=torch.Generator().manual_seed(0))
    ids[..., 0], ids[..., -2], ids[..., -1] = CLS, SEP, PAD
    mask = ids != PAD
    config = SohoPretrainConfig(wrong_text=0.5)
    shown = show(ids, mask, torch.arange(B), TOKENIZER, config, Draws(1, torch.arange(B)))
    assert abs(float((shown.matching == 0).float().mean()) - 0.5) < 0.03
    hidden = shown.targets != IGNORED
    assert not bool(hidden[:, [0, -2, -1]].any())
    words = B * G * (L - 3)
    assert abs(float(hidden.sum()) / words - 0.15) < 0.01
    original, now = shown.targets[hidden], shown.ids[hidden]
    masked, same = (now == MASK).float().mean(), (now == original).float().mean()
    # 0.8 and a 31st of 0.1; 0.1 and a 31st of 0.1.
    assert abs(float(masked) - 0.803) < 0.02
    assert abs(float(same) - 0.103) < 0.02
    assert now.min() >= 0
    assert now.max() < TOKENIZER.vocab_size
    # The same samples elsewhere in another batch are treated alike, where nothing comes from the others.
    alone = SohoPretrainConfig(wrong_text=0.0)
    order = torch.randperm(B)[:7]
    whole = show(ids, mask, torch.arange(B), TOKENIZER, alone, Draws(1, torch.arange(B)))
    part = show(ids[order], mask[order], order, TOKENIZER, alone, Draws(1, order))
    assert torch.equal(part.ids.view(7, G, L), whole.ids.view(B, G, L)[order])


def test_the_places_of_a_visual_word() -> None:
    words = torch.tensor([[3, 4, 3, -100], [4, 3, 3, 3]])
    assert same_word(words, 0).int().tolist() == [[1, 0, 1, 0], [1, 0, 0, 0]]
    assert same_word(words, 3).int().tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert same_word(words, torch.tensor([1, 2])).int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**20))
def test_visual_words_are_taken_from_each_picture(count: int, places: int, texts: int, seed: int) -> None:
    B, P = count, places
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 3, (B, P), generator=generator)
    words[torch.rand(B, P, generator=generator) < 0.4] = IGNORED
    draws = Draws(seed, torch.arange(B))
    config = SohoPretrainConfig(visual_mask_ratio=1.0)
    hidden = hide_visual_words(words, texts, config, draws).view(B, texts, P)
    for picture, rows in zip(words.tolist(), hidden.tolist(), strict=True):
        for row in rows:
            chosen = {word for word, is_hidden in zip(picture, row, strict=True) if is_hidden}
            if all(word < 0 for word in picture):
                assert not chosen
                continue
            (word,) = chosen  # always one, and a real one
            assert word >= 0
            assert row == [w == word for w in picture]
    # Published: one place for all, which may be padding.
    everywhere = hide_visual_words(
        words, texts, config.with_(visual_mask="published"), Draws(seed, torch.arange(B))
    ).view(B, texts, P)
    same = [p for p in range(P) if torch.equal(everywhere, same_word(words, p)[:, None].expand(B, texts, P))]
    assert same
    never = hide_visual_words(words, texts, config.with_(visual_mask_ratio=0.0), Draws(seed, torch.arange(B)))
    assert not bool(never.any())


@pytest.mark.parametrize("published", [True, False])
def test_the_share_of_rows_with_a_hidden_visual_word(published: bool) -> None:
    words = torch.zeros(3000, 4, dtype=torch.int64)
    config = SohoPretrainConfig(
        visual_mask_ratio=0.2, visual_mask="published" if published else "per_picture"
    )
    hidden = hide_visual_words(words, 2, config, Draws(4, torch.arange(3000)))
    assert bool((hidden.all(1) == hidden.any(1)).all())
    assert abs(float(hidden.any(1).float().mean()) - 0.2) < 0.02


def make_task(neck: str = "gated", **options: Any) -> SohoPretrainTask:
    torch.manual_seed(2)
    config = SohoConfig.model_validate(
        {
            "backbone": ResNetConfig(stem_channels=4, base_channels=2, frozen_stages=1),
            "width": 16,
            "layers": 2,
            "heads": 2,
            "hidden": 24,
            "vocab_size": TOKENIZER.vocab_size,
            "max_text_tokens": 8,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "neck": neck,
            "dictionary": DictionaryConfig(codes=5).published(),
            **options,
        }
    )
    task = SohoPretrainTask(SohoModel(config), SohoPretrainConfig(), TOKENIZER)
    for norm in (m for m in task.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return task.train()


def make_batch(rows: list[int] | None = None, texts: int = 3) -> Batch:
    """Return pictures of three sizes in one frame of 128 x 192, with rubbish outside of them."""
    generator = torch.Generator().manual_seed(6)
    images = torch.randint(0, 256, (4, 3, 128, 192), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[128, 192], [100, 150], [120, 60], [128, 128]])
    ids = torch.randint(5, 31, (4, texts, 8), generator=generator)
    ids[..., 0], ids[..., 5], ids[..., 6:] = CLS, SEP, PAD
    kept = torch.arange(4) if rows is None else torch.tensor(rows)
    return Batch(
        keys=[str(i) for i in kept.tolist()],
        positions=70 + kept,
        match_ids=torch.tensor([1, 2, 3, 1])[kept],
        images=images[kept],
        image_sizes=sizes[kept],
        text_ids=ids[kept],
        text_mask=(ids != PAD)[kept],
    )


def straightforward(
    task: SohoPretrainTask, pixels: Tensor, sizes: Tensor, shown: Shown, position: int, chosen: Tensor
) -> dict[str, Tensor]:
    """Compute the losses as published: everything for every row, all words, all places."""
    model, rows = task.model, shown.pictures
    maps = model.backbone(pixels)[rows]
    seen = model.neck(maps, sizes[rows], (pixels.shape[2], pixels.shape[3]))
    words = seen.indices.masked_fill(~seen.mask, IGNORED)
    hidden = torch.zeros_like(seen.mask)
    for row in range(len(rows)):
        word = int(words[row, position])
        if chosen[row] and word >= 0:
            hidden[row] = words[row] == word
    tokens = model.neck.hide(seen, torch.arange(len(rows)), hidden)
    fused = model.fuse(Visual(tokens, seen.mask), shown.ids, shown.mask)
    logits = fused.text @ model.text.words.weight.t()
    text = F.cross_entropy(logits.flatten(0, 1), shown.targets.flatten(), reduction="sum")
    codes = model.neck.dictionary.codes
    cosines = F.cosine_similarity(fused.visual[:, :, None], codes[None, None], dim=-1, eps=1e-12)
    labels = words.masked_fill(~hidden, IGNORED)
    visual = F.cross_entropy(cosines.flatten(0, 1), labels.flatten(), reduction="sum")
    return {
        "mlm": text / ((shown.targets != IGNORED).sum() + 1e-6),
        "mvm": visual / ((labels != IGNORED).sum() + 1e-6),
        "itm": F.cross_entropy(task.itm(fused.text[:, 0]), shown.matching),
    }


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["gated", "added"])
@pytest.mark.parametrize("mask", ["published", "exact"])
def test_losses_are_those_of_the_straightforward_computation(neck: str, mask: str) -> None:
    ours, theirs = make_task(neck, mask=mask), make_task(neck, mask=mask)
    batch = make_batch()
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    assert batch.image_sizes is not None
    config = SohoPretrainConfig(text_mask_ratio=0.4)
    draws = Draws(0, batch.positions)
    shown = show(batch.text_ids, batch.text_mask, batch.match_ids, TOKENIZER, config, draws)
    chosen = torch.arange(12) % 3 != 1
    pixels = ours.pixels(batch)

    def hide(words: Tensor) -> Tensor:
        return same_word(words[shown.pictures], 1) & chosen[:, None]

    for _ in range(2):  # the second step sees the dictionary of the first
        read = ours.read(pixels, batch.image_sizes, shown, hide)
        found = ours.losses(ours.score(read, shown), shown)
        wanted = straightforward(theirs, pixels, batch.image_sizes, shown, 1, chosen)
        assert bool(read.hidden.any())
        for name, value in wanted.items():
            torch.testing.assert_close(
                found.parts[name], value, msg=lambda text, name=name: f"{name}: {text}"
            )
        found.total.backward()
        torch.stack(list(wanted.values())).sum().backward()
    others = dict(theirs.named_parameters())
    trained = 0
    for name, parameter in ours.named_parameters():
        gradient = others[name].grad
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            trained += 1
            torch.testing.assert_close(
                parameter.grad, gradient, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert trained > 40
    state = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=1e-5, rtol=1e-5)


def loss_of(task: SohoPretrainTask, batch: Batch, world: World | None = None) -> Any:
    context = StepContext(0, 0.0, Draws(3, batch.positions), *([] if world is None else [world]))
    return task(batch, context)


def test_nothing_hidden_is_no_loss_and_no_error() -> None:
    task = make_task()
    task.config = task.config.with_(text_mask_ratio=0.0, visual_mask_ratio=0.0)
    found = loss_of(task, make_batch())
    assert float(found.parts["mlm"].detach()) == float(found.parts["mvm"].detach()) == 0
    assert float(found.metrics["masked_share"]) == 0
    found.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in task.parameters() if p.grad is not None)


def test_what_is_outside_of_a_picture_does_not_matter() -> None:
    batch = make_batch()
    assert batch.images is not None
    assert batch.image_sizes is not None
    clean = make_batch()
    assert clean.images is not None
    for image, (height, width) in zip(clean.images, batch.image_sizes.tolist(), strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    assert not torch.equal(clean.images, batch.images)
    assert float(loss_of(make_task(), batch).total.detach()) == float(
        loss_of(make_task(), clean).total.detach()
    )


def test_one_text_a_picture_needs_no_dimension_of_its_own() -> None:
    several = make_batch(texts=1)
    assert several.text_ids is not None
    assert several.text_mask is not None
    flat = Batch(
        several.keys,
        several.positions,
        several.match_ids,
        images=several.images,
        image_sizes=several.image_sizes,
        text_ids=several.text_ids[:, 0],
        text_mask=several.text_mask[:, 0],
    )
    one, other = loss_of(make_task(), several), loss_of(make_task(), flat)
    assert float(one.total.detach()) == float(other.total.detach())


def test_a_model_without_a_dictionary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"system\.neck=gated"):
        make_task("plain")


def ranked(world: World, split: list[list[int]]) -> dict[str, Any]:
    """Return losses, gradients and buffers behind two steps of what each rank holds."""
    # The CNN's norms are those of each rank, and a wrong text comes from its own part of the batch.
    task = make_task(backbone=ResNetConfig(stem_channels=4, base_channels=2, norm="frozen"))
    task.config = task.config.with_(wrong_text=0.0, text_mask_ratio=0.4, visual_mask_ratio=0.5)
    set_world(task, world)
    rows = split[world.rank] if world.size > 1 else [row for part in split for row in part]
    parts: dict[str, float] = {}
    for step in range(2):
        found = loss_of(task, make_batch(rows), world)
        found.total.backward()
        parts |= {f"{step} {n}": float(world.sum(p.detach()) / world.size) for n, p in found.parts.items()}
    gradients = {n: world.sum(p.grad) / world.size for n, p in task.named_parameters() if p.grad is not None}
    return {"parts": parts, "gradients": gradients, "buffers": dict(task.named_buffers())}


@pytest.mark.slow
def test_two_ranks_learn_the_dictionary_of_one_process() -> None:
    split = [[0, 1, 2], [3]]
    alone = ranked(World(), split)
    first, second = run_ranks(ranked, split)
    assert first["parts"] == pytest.approx(alone["parts"], rel=1e-5)
    assert alone["gradients"].keys() == first["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(first["gradients"][name], gradient, atol=1e-5, rtol=1e-3)
    dictionary = [name for name in alone["buffers"] if ".dictionary." in name]
    assert len(dictionary) == 4
    for name, buffer in alone["buffers"].items():
        torch.testing.assert_close(first["buffers"][name], buffer, atol=1e-5, rtol=1e-5)
        if "neck" in name:
            assert torch.equal(first["buffers"][name], second["buffers"][name]), name  # bit for bit

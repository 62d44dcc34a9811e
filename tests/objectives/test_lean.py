"""The contrastive loss without the matrix: value, accuracy and gradients of the plain one, on ranks too."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, Joiner, World
from diptych.objectives.contrastive import (
    contrast,
    contrast_pictures,
    contrastive_logits,
    contrastive_loss,
    supervised_contrastive_loss,
)
from diptych.objectives.lean import LeanJob, lean_contrastive_loss
from diptych.objectives.relation import Relation, picture_text_relation


def unit(count: int, seed: int, width: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain(
    images: torch.Tensor, texts: torch.Tensor, heat: torch.Tensor, relation: Relation, smooth: float
) -> torch.Tensor:
    return contrastive_loss(contrastive_logits(images, texts, heat), relation.block(), smooth)


def with_gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(3 * loss, inputs)]


@settings(max_examples=60, deadline=None)
@given(
    image_ids=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    text_ids=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    chunk=st.integers(0, 10),
    smooth=st.sampled_from([0.0, 0.1, 0.9]),
    heat=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_plain_loss_and_its_gradients(
    image_ids: list[int], text_ids: list[int], chunk: int, smooth: float, heat: float, seed: int
) -> None:
    images, texts = (
        unit(len(image_ids), seed).requires_grad_(),
        unit(len(text_ids), seed + 1).requires_grad_(),
    )
    temperature = torch.tensor(heat, requires_grad=True)
    relation = Relation(torch.tensor(image_ids), torch.tensor(text_ids))
    inputs = images, texts, temperature
    expected = plain(images, texts, temperature, relation, smooth)
    lean, accuracy = lean_contrastive_loss(*inputs, LeanJob(relation, chunk, label_smoothing=smooth))
    # Logits are up to 1 / temperature and rounding grows with them; by temperature they are steeper still.
    pairs = zip(with_gradients(lean, *inputs), with_gradients(expected, *inputs), strict=True)
    for power, (ours, wanted) in zip((1, 1, 1, 2), pairs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2e-5, atol=1e-6 / heat**power)
    best = contrastive_logits(images, texts, temperature).argmax(1)
    right = relation.block()[torch.arange(len(images)), best]
    assert accuracy.item() == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize("chunk", [0, 1, 3, 8])
def test_pictures_among_themselves(chunk: int) -> None:
    ids = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    features = unit(7, 3).requires_grad_()
    temperature = torch.tensor(0.2, requires_grad=True)
    job = LeanJob(Relation(ids, ids), chunk, columns_too=False, itself=0)
    lean, _ = lean_contrastive_loss(features, features, temperature, job)
    expected = supervised_contrastive_loss(features, temperature, ids)
    for ours, wanted in zip(
        with_gradients(lean, features, temperature),
        with_gradients(expected, features, temperature),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


def test_float64_gradients_by_differences() -> None:
    """The analytic gradient against central differences of the plain loss in double precision."""
    relation = Relation(torch.tensor([0, 1, 0, 5]), torch.tensor([0, 0, 1, 7, 1]))
    images, texts = unit(4, 1).requires_grad_(), unit(5, 2).requires_grad_()
    temperature = torch.tensor(0.3, requires_grad=True)
    lean, _ = lean_contrastive_loss(images, texts, temperature, LeanJob(relation, 2, label_smoothing=0.2))
    lean.backward()

    def value(x: torch.Tensor, y: torch.Tensor, heat: float) -> float:
        matching, logits = relation.block().double(), x @ y.t() / heat
        total = 0.0
        for scores, right in ((logits, matching), (logits.t(), matching.t())):
            rows = right.sum(1) > 0
            target = 0.8 * right / right.sum(1, keepdim=True).clamp(min=1) + 0.2 / right.shape[1]
            total += float(-(target * scores.log_softmax(1)).sum(1)[rows].mean()) / 2
        return total

    x, y, step = images.detach().double(), texts.detach().double(), 1e-5
    slope = (value(x, y, 0.3 + step) - value(x, y, 0.3 - step)) / (2 * step)
    assert temperature.grad is not None
    assert temperature.grad.item() == pytest.approx(slope, rel=1e-4)
    for which, row, column in ((0, 0, 1), (0, 3, 2), (1, 3, 0), (1, 4, 5)):
        moved = []
        for sign in (1, -1):
            pair = [x.clone(), y.clone()]
            pair[which][row, column] += sign * step
            moved.append(value(*pair, 0.3))
        gradient = (images, texts)[which].grad
        assert gradient is not None
        assert gradient[row, column].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-5)


def test_without_gradients_and_with_only_some() -> None:
    images, texts = unit(5, 0), unit(5, 1)
    relation = Relation(torch.arange(5), torch.arange(5))
    loss, accuracy = lean_contrastive_loss(images, texts, 0.1, LeanJob(relation, 2))
    assert not loss.requires_grad
    assert not accuracy.requires_grad
    texts.requires_grad_()
    loss, _ = lean_contrastive_loss(images, texts, 0.1, LeanJob(relation, 2))
    loss.backward()
    (wanted,) = torch.autograd.grad(plain(images, texts, torch.tensor(0.1), relation, 0.0), texts)
    torch.testing.assert_close(texts.grad, wanted)


def test_autocast_does_not_reach_the_products() -> None:
    images, texts = unit(6, 0).requires_grad_(), unit(6, 1)
    relation = Relation(torch.arange(6), torch.arange(6))
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss, _ = contrast(images, texts, 0.1, relation, chunk=4)
        found.append(with_gradients(loss, images))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_small_batches_take_the_plain_path() -> None:
    images, texts, relation = unit(4, 0), unit(4, 1), Relation(torch.arange(4), torch.arange(4))
    assert (
        contrast(images.requires_grad_(), texts, 0.1, relation, chunk=4)[0].grad_fn.name() != "_LeanBackward"
    )  # type: ignore[union-attr]
    assert contrast(images, texts, 0.1, relation, chunk=3)[0].grad_fn.name() == "_LeanBackward"  # type: ignore[union-attr]


IMAGES, TEXTS = torch.tensor([0, 1, 0, 2, 3, 4, 1]), torch.tensor([0, 1, 0, 2, 3, 4, 1])
SPLIT = (3, 4)


def on_a_rank(world: World, smooth: float, chunk: int) -> dict[str, Any]:
    """Return loss and gradients of a rank that holds its part of seven pictures and texts."""
    mine = torch.arange(7).split(SPLIT)[world.rank] if world.size > 1 else torch.arange(7)
    images, texts = unit(7, 1)[mine].requires_grad_(), unit(7, 2)[mine].requires_grad_()
    temperature = torch.tensor(0.1, requires_grad=True)
    join = Joiner(world, len(mine), images.device)
    relation = Relation(IMAGES[mine], join(TEXTS[mine]))
    loss, accuracy = contrast(
        images, join(texts), temperature, relation, world=world, label_smoothing=smooth, chunk=chunk
    )
    loss = loss + 0.5 * contrast_pictures(images, 2 * temperature, IMAGES[mine], join, chunk)
    loss.backward()
    return {
        "loss": loss.item(),
        "accuracy": accuracy.item(),
        "images": images.grad.tolist(),  # type: ignore[union-attr]
        "texts": texts.grad.tolist(),  # type: ignore[union-attr]
        "temperature": temperature.grad.item(),  # type: ignore[union-attr]
    }


@pytest.mark.slow
@pytest.mark.parametrize(("smooth", "chunk"), [(0.0, 0), (0.1, 2)])
def test_two_ranks_equal_one(smooth: float, chunk: int) -> None:
    one, ranks = on_a_rank(ALONE, smooth, 0), run_ranks(on_a_rank, smooth, chunk)
    for rank in ranks:
        assert rank["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert rank["accuracy"] == pytest.approx(one["accuracy"])
    # Features belong to one rank each, the temperature to all: averaged, gradients are those of one process.
    for name in ("images", "texts"):
        joined = torch.tensor(ranks[0][name] + ranks[1][name]) / 2
        torch.testing.assert_close(joined, torch.tensor(one[name]), rtol=1e-5, atol=1e-6)
    mean = sum(rank["temperature"] for rank in ranks) / 2
    assert mean == pytest.approx(one["temperature"], rel=1e-5, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8), data=st.data()
)
def test_relation_of_pictures_and_distinct_texts(samples: list[tuple[int, int]], data: st.DataObject) -> None:
    """Against the definition: a text is right if any sample of the picture's match id has it."""
    ids = torch.tensor([100 * match for match, _ in samples])
    _, text_of = torch.unique(torch.tensor([text for _, text in samples]), return_inverse=True)
    texts = int(text_of.max()) + 1
    own = slice(data.draw(st.integers(0, len(samples) - 1)), len(samples))
    relation = picture_text_relation(ids, text_of, texts, own)
    expected = [
        [any(ids[s] == i and text_of[s] == t for s in range(len(samples))) for t in range(texts)]
        for i in ids[own]
    ]
    assert relation.shape == (len(expected), texts)
    assert relation.block().tolist() == expected
    assert relation.t().block().tolist() == [list(column) for column in zip(*expected, strict=True)]
    assert relation.block(slice(1, None)).tolist() == expected[1:]
    assert relation.t().block(torch.tensor([texts - 1])).tolist() == [[row[-1] for row in expected]]

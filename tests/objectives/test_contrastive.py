"""Contrastive objective against hand computation and a double loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import UsageError
from diptych.objectives.contrastive import (
    ContrastiveHead,
    contrastive_logits,
    contrastive_loss,
    itc_loss,
    supervised_contrastive_loss,
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def slow_direction(logits: list[list[float]], matching: list[list[bool]], smoothing: float) -> float:
    """Mean soft cross-entropy of the rows, element by element."""
    losses = []
    for row, right in zip(logits, matching, strict=True):
        if not any(right):
            continue
        total = math.fsum(math.exp(value) for value in row)
        loss = 0.0
        for value, is_right in zip(row, right, strict=True):
            target = (1 - smoothing) * is_right / sum(right) + smoothing / len(row)
            loss -= target * (value - math.log(total))
        losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0


def test_two_pairs_by_hand() -> None:
    # Picture i equals text i, the others are orthogonal; temperature 0.5: logits 2 and 0.
    features = torch.eye(2)
    expected = math.log(1 + math.exp(-2))
    assert itc_loss(features, features, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_equal_ids_share_the_target() -> None:
    # All logits 0: every row costs log 3 whatever its target; smoothing changes nothing.
    features = torch.tensor([[1.0, 0.0]] * 3)
    ids = torch.tensor([7, 7, 9])
    assert itc_loss(features, features, 1.0, ids).item() == pytest.approx(math.log(3), rel=1e-6)
    # Two samples of one id, orthogonal: target 1/2 each, logits (1, 0): log(1 + e) - 1/2.
    pair = torch.eye(2)
    expected = math.log(1 + math.e) - 0.5
    assert itc_loss(pair, pair, 1.0, torch.tensor([4, 4])).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    pictures=st.integers(1, 5),
    texts=st.integers(1, 5),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_rectangular_loss_equals_the_double_loop(
    data: st.DataObject, pictures: int, texts: int, smoothing: float
) -> None:
    cell = st.floats(-8, 8, width=32)
    logits = data.draw(
        st.lists(st.lists(cell, min_size=texts, max_size=texts), min_size=pictures, max_size=pictures)
    )
    matching = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=texts, max_size=texts), min_size=pictures, max_size=pictures
        )
    )
    transposed = (
        [list(row) for row in zip(*logits, strict=True)],
        [list(row) for row in zip(*matching, strict=True)],
    )
    expected = (slow_direction(logits, matching, smoothing) + slow_direction(*transposed, smoothing)) / 2
    got = contrastive_loss(torch.tensor(logits), torch.tensor(matching), smoothing)
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_texts_once_have_the_gradient_of_texts_repeated() -> None:
    # Two pictures of each of three concepts: one column a concept, or the column twice.
    images = unit(6, 4).requires_grad_()
    texts = unit(3, 4, seed=1)
    concept = torch.tensor([0, 0, 1, 1, 2, 2])
    once = contrastive_loss(contrastive_logits(images, texts, 0.2), concept[:, None] == torch.arange(3)[None])
    twice = contrastive_loss(
        contrastive_logits(images, texts[concept], 0.2), concept[:, None] == concept[None]
    )
    (grad_once,) = torch.autograd.grad(once, images)
    (grad_twice,) = torch.autograd.grad(twice, images)
    torch.testing.assert_close(grad_once, grad_twice)
    # The repeated columns double every denominator of the rows: log 2, in one of the two directions.
    assert (twice - once).item() == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_supervised_loss_by_hand() -> None:
    # Pictures 0 and 1 are one concept and equal, 2 is alone: row 0 sees logits 1 (picture 1) and 0.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    expected = math.log(1 + math.exp(-1))
    got = supervised_contrastive_loss(features, 1.0, torch.tensor([5, 5, 6]))
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_supervised_loss_without_partners_is_zero_with_finite_gradient() -> None:
    features = unit(3, 2).requires_grad_()
    loss = supervised_contrastive_loss(features, 0.1, torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(3, 2))


def test_logits_stay_float32_under_autocast() -> None:
    features = unit(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = contrastive_logits(features.bfloat16(), features, 0.1)
        exact = contrastive_logits(features, features, 0.1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(exact, features @ features.t() / 0.1, rtol=0, atol=0)


def test_head_keeps_the_temperature_in_bounds_and_trains_it() -> None:
    head = ContrastiveHead(4, 3, temperature=0.07)
    torch.testing.assert_close(head.project_visual(torch.randn(2, 4)).norm(dim=-1), torch.ones(2))
    with torch.no_grad():
        head.temperature.fill_(0.9)
    temperature = head.current_temperature()
    assert temperature.item() == pytest.approx(0.5)
    itc_loss(unit(3, 4), unit(3, 4, seed=2), temperature).backward()
    assert head.temperature.grad is not None
    assert head.temperature.grad.item() != 0
    assert set(head.state_dict()) == {"temperature", "visual.weight", "text.weight"}


def test_head_refuses_a_temperature_out_of_bounds() -> None:
    with pytest.raises(UsageError, match=r"0\.7 is outside its bounds 0\.001 to 0\.5"):
        ContrastiveHead(4, 3, temperature=0.7)


@pytest.mark.parametrize(("init", "std"), [("published", 0.02), ("fan_in", 0.7 / 64**0.5)])
def test_projections_start_at_the_stated_spread(init: str, std: float) -> None:
    torch.manual_seed(0)
    head = ContrastiveHead(64, 256, init=init)  # type: ignore[arg-type]
    cut = 0.88 if init == "fan_in" else 1.0  # a normal that is cut at two deviations has 0.88 of its spread
    for projection in (head.visual, head.text):
        assert projection.weight.std().item() == pytest.approx(cut * std, rel=0.03)

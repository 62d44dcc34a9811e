"""Matching objective: drawn negatives, passes and loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranks import run_ranks

from diptych.blocks.collective import ALONE, World
from diptych.data.draws import Draws
from diptych.objectives.contrastive import contrastive_logits
from diptych.objectives.matching import (
    IGNORED,
    MatchingHead,
    Negatives,
    draw_hard_negatives,
    draw_negatives,
    itm_accuracy,
    itm_loss,
    matching_passes,
    sample_negatives,
)
from diptych.objectives.relation import Relation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(samples: int, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(samples))


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 1.0, 1000.0]),
    floor=st.sampled_from([0.0, 1e-5]),
)
def test_negatives_never_share_an_id_unless_the_whole_batch_does(
    ids: list[int], seed: int, scale: float, floor: float
) -> None:
    match_ids = torch.tensor(ids)
    # The right answers are by far the likeliest: only masking keeps them out.
    logits = scale * (torch.randn(len(ids), len(ids), generator=generator(seed)) + 10 * torch.eye(len(ids)))
    drawn = sample_negatives(logits, match_ids, draws(len(ids), seed), floor=floor)
    alone = len(set(ids)) == 1
    for chosen, valid in ((drawn.image, drawn.image_valid), (drawn.text, drawn.text_valid)):
        assert valid.tolist() == [not alone] * len(ids)
        assert ((chosen >= 0) & (chosen < len(ids))).all()
        if not alone:
            assert (match_ids[chosen] != match_ids).all()


def test_similar_candidates_are_drawn_more_often() -> None:
    # Text 0: pictures 1 and 2 are wrong with logits log 3 and 0, so 3 draws of 4 are picture 1.
    logits = torch.zeros(3, 3)
    logits[1, 0] = math.log(3)
    many = torch.zeros(4000, dtype=torch.long)
    drawn = draw_negatives(logits, torch.eye(3).bool(), draws(4000), texts=many, images=many)
    count = int((drawn.image == 1).sum())
    assert set(drawn.image.tolist()) == {1, 2}
    assert count / 4000 == pytest.approx(0.75, abs=0.03)


def test_floor_makes_a_solved_batch_uniform_and_zero_keeps_it_hard() -> None:
    # The own text has all the probability; among the wrong ones, text 1 is e^10 times likelier than 2.
    logits = torch.tensor([[100.0, 20.0, 10.0]] * 3)
    many = torch.zeros(2000, dtype=torch.long)
    options = {"images": many, "texts": many}
    uniform = draw_negatives(logits, torch.eye(3).bool(), draws(2000), **options)
    hard = draw_negatives(logits, torch.eye(3).bool(), draws(2000), floor=0.0, **options)
    assert (uniform.text == 1).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert (hard.text == 1).float().mean().item() > 0.99


def test_directions_are_not_swapped() -> None:
    # 2 pictures, 3 texts; only one wrong candidate is possible for every query.
    matching = torch.tensor([[True, True, False], [True, False, True]])
    texts = torch.tensor([1, 2])
    drawn = draw_negatives(torch.zeros(2, 3), matching, draws(2), texts=texts)
    assert drawn.text.tolist() == [2, 1]  # for pictures 0 and 1
    assert drawn.image.tolist() == [1, 0]  # for texts 1 and 2
    everything = draw_negatives(torch.zeros(2, 3), matching)  # from the global generator
    assert everything.image_valid.tolist() == [False, True, True]  # both pictures match text 0


def test_same_draws_same_negatives() -> None:
    logits = torch.randn(16, 16, generator=generator(3))
    first, again, other = (sample_negatives(logits, torch.arange(16), draws(16, seed)) for seed in (5, 5, 6))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.text, again.text)
    assert not torch.equal(first.image, other.image)


def test_samples_asked_about_draw_alike_in_any_company() -> None:
    logits, matching = torch.randn(16, 16, generator=generator(3)), torch.eye(16).bool()
    everybody = draw_negatives(logits, matching, draws(16))
    rows = torch.tensor([11, 4])
    two = draw_negatives(logits, matching, Draws(0, rows), images=rows, texts=rows)
    assert torch.equal(two.image, everybody.image[rows])
    assert torch.equal(two.text, everybody.text[rows])


def test_hard_negatives_are_those_of_the_whole_matrix() -> None:
    images, texts = (
        torch.nn.functional.normalize(torch.randn(n, 5, generator=generator(n)), dim=1) for n in (9, 7)
    )
    relation = Relation(torch.arange(9) % 4, torch.arange(7) % 5)
    asked = {"images": torch.tensor([8, 0, 3]), "texts": torch.tensor([6, 1, 1])}
    matrix = contrastive_logits(images, texts, 0.2)
    expected = draw_negatives(matrix, relation.block(), draws(3), **asked)
    found = draw_hard_negatives((images.requires_grad_(), texts), 0.2, relation, draws(3), **asked)
    for name in ("image", "text", "image_valid", "text_valid"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_three_passes() -> None:
    negatives = Negatives(
        torch.tensor([4, 5]), torch.tensor([6, 7]), torch.tensor([True, False]), torch.tensor([True, True])
    )
    passes = matching_passes(torch.tensor([0, 1]), torch.tensor([2, 3]), negatives)
    assert [(p.images.tolist(), p.texts.tolist(), p.labels.tolist()) for p in passes] == [
        ([0, 1], [2, 3], [1, 1]),
        ([4, 5], [2, 3], [0, IGNORED]),
        ([0, 1], [6, 7], [0, 0]),
    ]


def test_loss_is_the_mean_over_counted_pairs() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [5.0, -5.0]])
    labels = torch.tensor([1, 0, IGNORED])
    # -log 1/2 and -log 3/4
    assert itm_loss(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)
    assert itm_accuracy(logits, labels).item() == 0.5  # a tie counts as class 0, wrong here
    assert itm_loss(logits, torch.full((3,), IGNORED)).item() == 0


def shares(world: World) -> list[float]:
    """Return loss, accuracy and gradient of a rank's pairs: three on rank 0 (one counts), two on rank 1."""
    logits = torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 2.0], [0.5, 0.0], [2.0, -1.0]])
    labels = torch.tensor([1, IGNORED, IGNORED, 1, 0])
    mine = torch.arange(5).split((3, 2))[world.rank] if world.size > 1 else torch.arange(5)
    ours = logits[mine].requires_grad_()
    loss = itm_loss(ours, labels[mine], world)
    loss.backward()
    assert ours.grad is not None
    return [loss.item(), itm_accuracy(ours, labels[mine], world).item(), *ours.grad[:, 0].tolist()]


@pytest.mark.slow
def test_shares_of_two_ranks_make_the_mean_over_all_pairs() -> None:
    (loss, accuracy, *gradient), (first, second) = shares(ALONE), run_ranks(shares)
    assert (first[0] + second[0]) / 2 == pytest.approx(loss, rel=1e-6)
    assert (first[1] + second[1]) / 2 == pytest.approx(accuracy) == pytest.approx(2 / 3)
    assert [x / 2 for x in first[2:] + second[2:]] == pytest.approx(gradient, rel=1e-6)


def test_head() -> None:
    head = MatchingHead(4)
    assert head(torch.randn(3, 4)).shape == (3, 2)
    assert set(head.state_dict()) == {"classifier.weight", "classifier.bias"}
    assert head.classifier.bias.tolist() == [0, 0]

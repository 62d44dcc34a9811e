import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.draws import Draws
from diptych.data.masking import blockwise_patch_mask, mask_tokens, random_patch_mask
from diptych.data.text import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["red green blue yellow black white round square"] * 3, 200)


def draws(batch: int, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(batch))


def test_tokens_by_hand(tokenizer: Tokenizer) -> None:
    pad, cls, sep, unk, hidden = (
        tokenizer.pad_id,
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.unk_id,
        tokenizer.mask_id,
    )
    # Ordinary tokens a row: 4, 1, 0. At ratio 0.5 two, one (at least one), none are hidden.
    ids = torch.tensor(
        [[cls, 20, 21, 22, 23, sep], [cls, 20, unk, sep, pad, pad], [cls, sep, pad, pad, 20, pad]]
    )
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    shown, selected = mask_tokens(ids, mask, tokenizer, 0.5, draws(3))
    assert selected.sum(1).tolist() == [2, 1, 0]
    assert selected[1].tolist() == [False, True, False, False, False, False]
    assert not selected[:, 0].any()
    assert not selected[0, 5]
    assert (shown[selected] == hidden).all()
    assert (shown[~selected] == ids[~selected]).all()


@pytest.mark.parametrize(("ratio", "counts"), [(0.0, [0, 0]), (0.01, [1, 1]), (1.0, [4, 4]), (0.6, [2, 2])])
def test_numbers_of_hidden_tokens(tokenizer: Tokenizer, ratio: float, counts: list[int]) -> None:
    ids = torch.full((2, 4), 20)
    _, selected = mask_tokens(ids, torch.ones(2, 4, dtype=torch.bool), tokenizer, ratio, draws(2))
    assert selected.sum(1).tolist() == counts


def test_masking_depends_on_the_draws_alone(tokenizer: Tokenizer) -> None:
    ids, mask = draws(8, 5).integers(30, 12) + 10, torch.ones(8, 12, dtype=torch.bool)
    first = mask_tokens(ids, mask, tokenizer, 0.4, draws(8, 1), "bert")
    again = mask_tokens(ids, mask, tokenizer, 0.4, draws(8, 1), "bert")
    other = mask_tokens(ids, mask, tokenizer, 0.4, draws(8, 2), "bert")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


def test_bert_shares(tokenizer: Tokenizer) -> None:
    ids, mask = torch.full((100, 100), 20), torch.ones(100, 100, dtype=torch.bool)
    shown, selected = mask_tokens(ids, mask, tokenizer, 0.5, draws(100), "bert")
    assert selected.sum() == 5000
    found = shown[selected]
    # Standard deviations: 28 and 21. A random token is 20 again once in a vocabulary.
    assert abs(int((found == tokenizer.mask_id).sum()) - 4000) < 150
    ordinary = tokenizer.vocab_size - len(tokenizer.special_ids)
    assert abs(int((found == 20).sum()) - 500 * (1 + 1 / ordinary)) < 110
    replaced = found[(found != 20) & (found != tokenizer.mask_id)]
    assert not set(replaced.tolist()) & tokenizer.special_ids
    assert len(set(replaced.tolist())) > 0.8 * ordinary
    assert (shown[~selected] == 20).all()


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 5), patches=st.integers(1, 60), ratio=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_random_patches_are_exactly_as_many(batch: int, patches: int, ratio: float, seed: int) -> None:
    mask = random_patch_mask(patches, ratio, draws(batch, seed))
    assert mask.shape == (batch, patches)
    assert mask.dtype == torch.bool
    assert (mask.sum(1) == round(ratio * patches)).all()


def test_random_patches_are_uniform() -> None:
    share = random_patch_mask(10, 0.3, draws(4000)).float().mean(0)
    # Standard error sqrt(0.21 / 4000) = 0.007.
    assert (share - 0.3).abs().max() < 0.036


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 14), width=st.integers(1, 14), ratio=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_blocks_never_go_beyond_the_target(height: int, width: int, ratio: float, seed: int) -> None:
    mask = blockwise_patch_mask(height, width, ratio, draws(2, seed))
    assert mask.shape == (2, height * width)
    assert (mask.sum(1) <= round(ratio * height * width)).all()


def test_blocks_come_near_the_target_and_are_blocks() -> None:
    mask = blockwise_patch_mask(14, 14, 0.4, draws(200))
    counts = mask.sum(1)
    assert counts.float().mean() > 0.9 * round(0.4 * 196)
    grid = mask.view(200, 14, 14).numpy()
    # Every hidden patch is part of a hidden rectangle of at least four patches: it has a hidden neighbour.
    padded = np.pad(grid, ((0, 0), (1, 1), (1, 1)))
    near = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    assert (near | ~grid).all()
    random = random_patch_mask(196, 0.4, draws(200)).view(200, 14, 14).float()
    blocks = mask.view(200, 14, 14).float()

    def agreement(x: torch.Tensor) -> float:
        return float((x[:, :, 1:] * x[:, :, :-1]).mean())

    assert agreement(blocks) > 1.3 * agreement(random)


def test_block_masks_are_reproducible() -> None:
    assert torch.equal(
        blockwise_patch_mask(7, 9, 0.5, draws(3, 4)), blockwise_patch_mask(7, 9, 0.5, draws(3, 4))
    )
    assert not torch.equal(
        blockwise_patch_mask(7, 9, 0.5, draws(3, 4)), blockwise_patch_mask(7, 9, 0.5, draws(3, 5))
    )


@pytest.mark.parametrize("replace", ["mask", "bert"])
def test_masks_do_not_depend_on_the_rest_of_the_batch(tokenizer: Tokenizer, replace: str) -> None:
    """A sample is masked alike alone, among others, and in a batch that pads it further."""
    ids, mask = draws(6, 5).integers(30, 12) + 10, torch.ones(6, 12, dtype=torch.bool)
    mask[:, 8:] = False
    shown, selected = mask_tokens(ids, mask, tokenizer, 0.4, draws(6), replace)  # type: ignore[arg-type]
    rows = torch.tensor([4, 1])
    alone = Draws(0, rows)
    cut = mask_tokens(ids[rows, :8], mask[rows, :8], tokenizer, 0.4, alone, replace)  # type: ignore[arg-type]
    assert torch.equal(cut[0], shown[rows, :8])
    assert torch.equal(cut[1], selected[rows, :8])
    assert torch.equal(random_patch_mask(9, 0.4, Draws(0, rows)), random_patch_mask(9, 0.4, draws(6))[rows])
    blocks = blockwise_patch_mask(6, 7, 0.5, draws(6))
    assert torch.equal(blockwise_patch_mask(6, 7, 0.5, Draws(0, rows)), blocks[rows])

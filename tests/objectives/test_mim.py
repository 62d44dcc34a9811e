"""Masked image modelling on pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.objectives.mim import (
    MaskedImageDecoder,
    blank_patches,
    gather_rows,
    mim_loss,
    normalise_patches,
    patchify,
    split_patches,
    unpatchify,
)


def test_patches_by_hand() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 3, 1, 1)
    image[:, 1] += 100
    patches = patchify(image, 2)
    assert patches.shape == (1, 4, 12)
    assert patches[0, 1, :8].tolist() == [2, 3, 6, 7, 102, 103, 106, 107]
    assert patches[0, 2, :4].tolist() == [8, 9, 12, 13]


@settings(max_examples=20, deadline=None)
@given(side=st.integers(1, 4), cell=st.integers(1, 5), batch=st.integers(1, 3))
def test_unpatchify_undoes_patchify(side: int, cell: int, batch: int) -> None:
    images = torch.rand(batch, 3, side * cell, side * cell)
    assert torch.equal(unpatchify(patchify(images, cell), cell, side * cell), images)


def test_blanking_hides_exactly_the_hidden_patches() -> None:
    images = torch.rand(2, 3, 6, 6) + 1
    hidden = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)
    patches = patchify(blank_patches(images, hidden, 3), 3)
    assert torch.equal(patches == 0, hidden[:, :, None].expand(-1, -1, 27))
    assert torch.equal(patches[~hidden], patchify(images, 3)[~hidden])


def test_normalised_patches() -> None:
    patches = normalise_patches(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    torch.testing.assert_close(patches, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_split_and_gather_by_hand() -> None:
    hidden = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    visible_rows, hidden_rows = split_patches(hidden)
    assert visible_rows.tolist() == [[1, 3], [0, 1]]
    assert hidden_rows.tolist() == [[0, 2], [2, 3]]
    x = torch.arange(8.0).view(2, 4, 1)
    assert gather_rows(x, hidden_rows)[..., 0].tolist() == [[0, 2], [6, 7]]


def test_loss_is_the_mean_over_hidden_values() -> None:
    predicted, target = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.zeros(2, 1, 2)
    assert mim_loss(predicted, target).item() == pytest.approx(5 / 4)
    assert mim_loss(torch.zeros(2, 0, 4, requires_grad=True), torch.zeros(2, 0, 4)).item() == 0.0


def decoder(layers: int = 1, *, replaced: bool = False) -> MaskedImageDecoder:
    torch.manual_seed(0)
    return MaskedImageDecoder(8, 4, 12, decoder_width=6, layers=layers, heads=2, replaced=replaced)


def test_decoder_puts_visible_tokens_in_their_places() -> None:
    """The place of a visible token changes what is painted; the padding of the text does not."""
    paint = decoder()
    tokens, text = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    one, other = (torch.tensor([m], dtype=torch.bool) for m in ([0, 1, 0, 1], [1, 0, 0, 1]))
    assert paint(tokens, one).shape == (1, 2, 12)
    # Patch 3 is hidden in both, but the visible tokens lie elsewhere.
    assert not torch.allclose(paint(tokens, one)[0, 1], paint(tokens, other)[0, 1], atol=1e-4)
    mask = torch.arange(5)[None] < 3
    changed = text.clone()
    changed[0, 3:] = 9.0
    torch.testing.assert_close(paint(tokens, one, text, mask), paint(tokens, one, changed, mask))
    assert not torch.allclose(paint(tokens, one, text, mask), paint(tokens, one), atol=1e-4)


def test_decoder_without_layers_reads_the_hidden_tokens_themselves() -> None:
    paint = decoder(0, replaced=True)
    tokens = torch.randn(1, 5, 8)
    hidden = torch.tensor([[0, 1, 0, 1]], dtype=torch.bool)
    painted = paint(tokens, hidden)
    changed = tokens.clone()
    changed[0, [0, 1, 3]] = 0.0  # class token and the visible patches
    assert torch.equal(paint(changed, hidden), painted)
    changed[0, 4] = 0.0
    assert not torch.equal(paint(changed, hidden), painted)
    assert paint.hidden is None
    assert paint.replacement is not None

"""Colour jitter against Pillow, which published code uses for it."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from torch import Tensor

from diptych.data.augment import augment
from diptych.data.config import AugmentConfig
from diptych.data.draws import Draws
from diptych.data.jitter import colour_jitter

ENHANCE = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class Chosen:
    """Stands in for `Draws`: the factors as shares of their range, then numbers that sort into the order."""

    def __init__(self, shares: list[list[float]], order: list[list[int]]) -> None:
        ranks = [[row.index(kind) / 3 for kind in range(3)] for row in order]
        self.pending = [torch.tensor(shares), torch.tensor(ranks)]

    def rand(self, *shape: int) -> Tensor:
        assert shape == (3,)
        return self.pending.pop(0)


def pictures(batch: int, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, 3, side, side), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_against_pillow(order: list[int]) -> None:
    images = pictures(4)
    shares = [[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.9, 0.8, 1.0], [0.5, 0.5, 0.5]]
    found = colour_jitter(images / 255, (0.4, 0.4, 0.4), Chosen(shares, [order] * 4))
    for image, row, ours in zip(images, shares, found, strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
        for kind in order:
            pillow = ENHANCE[kind](pillow).enhance(0.6 + 0.8 * row[kind])
        theirs = torch.from_numpy(np.asarray(pillow).copy()).permute(2, 0, 1)
        # Pillow drops fractions of a level each time, which later factors enlarge: 1 + 1.4 + 1.4 * 1.4.
        assert (ours * 255 - theirs).abs().max() < 4.4
        assert (ours * 255 - theirs).abs().mean() < 1.5
    assert torch.allclose(found[3], images[3] / 255, atol=1e-6)


def test_by_hand() -> None:
    pixels = torch.tensor([0.4, 0.8]).expand(1, 3, 1, 2).clone()
    # Contrast first: the mean is 0.6, twice as far from it 0.2 and 1.0; then half as bright; grey stays grey.
    found = colour_jitter(pixels, (0.5, 1.0, 1.0), Chosen([[0.0, 1.0, 0.3]], [[1, 0, 2]]))
    assert found is pixels
    assert torch.allclose(found[0, 0], torch.tensor([[0.1, 0.5]]))
    # Factors never go below 0: an amount of 3 ranges from 0 to 4.
    bright = torch.full((1, 3, 1, 1), 0.1)
    assert torch.allclose(
        colour_jitter(bright, (3.0, 0, 0), Chosen([[0.5, 0, 0]], [[0, 1, 2]])), torch.tensor(0.2)
    )


def test_different_pictures_different_orders() -> None:
    images = pictures(2)
    shares = [[0.1, 0.9, 0.2]] * 2
    orders = [[0, 1, 2], [2, 0, 1]]
    together = colour_jitter(images / 255, (0.4, 0.4, 0.4), Chosen(shares, orders))
    for row in range(2):
        alone = colour_jitter(
            images[row : row + 1] / 255, (0.4,) * 3, Chosen(shares[:1], orders[row : row + 1])
        )
        assert torch.allclose(alone[0], together[row], atol=1e-6)


def test_factors_and_orders_are_uniform() -> None:
    # One grey pixel: only brightness changes it, once, by its factor.
    images = torch.full((2000, 3, 1, 1), 100, dtype=torch.uint8)
    found = augment(images, AugmentConfig(jitter=(0.5, 0.5, 0.5)), Draws(1, torch.arange(2000)))
    factors = found[:, 0, 0, 0] * 255 / 100
    assert factors.min() >= 0.5 - 1e-6
    assert factors.max() <= 1.5 + 1e-6
    assert abs(factors.mean().item() - 1) < 0.04
    assert abs(factors.std().item() - 1 / 12**0.5) < 0.02


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        AugmentConfig(jitter=(0.4, -0.1, 0.4))

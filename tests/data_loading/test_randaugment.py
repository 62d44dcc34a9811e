"""RandAugment: each operation against a slow oracle or by hand, and which are drawn for whom."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.data import randaugment as module
from diptych.data.augment import augment
from diptych.data.config import RANDAUGMENT, AugmentConfig
from diptych.data.draws import Draws
from diptych.data.randaugment import FILL, apply_operation, rand_augment, strength_of

GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def pictures(batch: int = 5, height: int = 9, width: int = 7, seed: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def grey(rows: list[list[int]]) -> Tensor:
    """Return [1, 3, H, W] with equal channels."""
    return torch.tensor(rows, dtype=torch.uint8).expand(1, 3, -1, -1)


def where_from(
    name: str, strength: float, x: float, y: float, height: int, width: int
) -> tuple[float, float]:
    """Return the place of the old picture that the pixel (x, y) of the new one shows."""
    if name == "ShearX":
        return x - strength * y, y
    if name == "ShearY":
        return x, y - strength * x
    if name == "TranslateX":
        return x + strength, y
    if name == "TranslateY":
        return x, y + strength
    # Counter-clockwise for the eye, while y grows downwards.
    angle = math.radians(strength)
    x, y = x - width / 2, y - height / 2
    return (
        math.cos(angle) * x - math.sin(angle) * y + width / 2,
        math.sin(angle) * x + math.cos(angle) * y + height / 2,
    )


def warp_oracle(image: Tensor, name: str, strength: float) -> Tensor:
    """Return a picture [3, H, W] after an operation of geometry, pixel by pixel, before rounding."""
    _, height, width = image.shape

    def level(channel: int, x: int, y: int) -> float:
        return float(image[channel, y, x]) if 0 <= x < width and 0 <= y < height else FILL

    found = torch.empty(image.shape, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            fx, fy = where_from(name, strength, x, y, height, width)
            left, top = math.floor(fx), math.floor(fy)
            for channel in range(3):
                found[channel, y, x] = sum(
                    level(channel, left + i, top + j)
                    * (fx - left if i else 1 - fx + left)
                    * (fy - top if j else 1 - fy + top)
                    for i in (0, 1)
                    for j in (0, 1)
                )
    return found


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_against_the_oracle(name: str, sign: int) -> None:
    image = pictures(1)
    strength = sign * strength_of(name, 6)
    expected = warp_oracle(image[0], name, strength)
    found = apply_operation(image, name, strength)[0].double()
    # Nearest level; beside a tie float32 may choose the other one.
    assert (found - expected).abs().max() < 0.501


def test_shifts_by_hand() -> None:
    image = grey([[10, 20, 30], [40, 50, 60]])
    assert apply_operation(image, "TranslateX", 1.0)[0, 2].tolist() == [[20, 30, 128], [50, 60, 128]]
    assert apply_operation(image, "TranslateX", -2.0)[0, 1].tolist() == [[128, 128, 10], [128, 128, 40]]
    assert apply_operation(image, "TranslateY", 1.0)[0, 0].tolist() == [[40, 50, 60], [128, 128, 128]]
    assert apply_operation(image, "TranslateY", 99.0)[0].unique().tolist() == [128]
    # Half a pixel: means of neighbours, ties to even.
    assert apply_operation(image, "TranslateX", 0.5)[0, 0].tolist() == [[15, 25, 79], [45, 55, 94]]


def test_a_quarter_turn_is_counter_clockwise() -> None:
    # About the corner between pixels (2, 2) OpenCV's middle lies on a pixel: one row comes from outside.
    image = grey([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    found = apply_operation(image, "Rotate", 90.0)[0, 0].tolist()
    assert found == [[128] * 4, [4, 8, 12, 16], [3, 7, 11, 15], [2, 6, 10, 14]]


def test_brightness_by_hand() -> None:
    found = apply_operation(grey([[0, 10, 100, 187, 188, 255]]), "Brightness", 1.36)[0, 0, 0].tolist()
    assert found == [0, 13, 136, 254, 255, 255]


def test_autocontrast_by_hand() -> None:
    image = torch.cat([grey([[50, 60, 100]]), grey([[7, 7, 7]]), grey([[0, 51, 102]])])
    found = apply_operation(image, "AutoContrast")[:, 0, 0].tolist()
    assert found == [[0, 51, 255], [7, 7, 7], [0, 127, 255]]
    # Published: the lowest level is negated as a byte, so only channels with black are right.
    published = apply_operation(image, "AutoContrast", published=True)[:, 0, 0].tolist()
    assert published == [[255, 255, 255], [7, 7, 7], [0, 127, 255]]
    # 100 * (255 / 100) is a little less than 255 in floating point.
    assert apply_operation(grey([[0, 100]]), "AutoContrast")[0, 0].tolist() == [[0, 255]]
    assert apply_operation(grey([[0, 100]]), "AutoContrast", published=True)[0, 0].tolist() == [[0, 254]]


def test_channels_have_tables_of_their_own() -> None:
    image = torch.tensor([[[0, 100]], [[100, 200]], [[9, 9]]], dtype=torch.uint8)[None]
    assert apply_operation(image, "AutoContrast")[0, :, 0].tolist() == [[0, 255], [0, 255], [9, 9]]


def equalize_oracle(levels: list[int]) -> list[int]:
    count = Counter(levels)
    step = (len(levels) - count[max(levels)]) // 255
    if step == 0:
        return levels
    table, below = {}, step // 2
    for level in range(256):
        table[level] = min(below // step, 255)
        below += count[level]
    return [table[level] for level in levels]


@pytest.mark.parametrize("spread", [1.0, 0.4, 0.02])
def test_equalize_against_the_oracle(spread: float) -> None:
    image = (pictures(2, 40, 33).float() * spread).to(torch.uint8)
    found = apply_operation(image, "Equalize")
    for row in range(2):
        for channel in range(3):
            expected = equalize_oracle(image[row, channel].flatten().tolist())
            assert found[row, channel].flatten().tolist() == expected


def test_equalize_leaves_small_and_plain_pictures_alone() -> None:
    for image in (pictures(1, 5, 5), torch.full((1, 3, 30, 30), 9, dtype=torch.uint8)):
        assert torch.equal(apply_operation(image, "Equalize"), image)


def test_sharpness_by_hand() -> None:
    image = grey([[0, 0, 0], [0, 130, 0], [0, 0, 0]])
    # Smooth: 5 * 130 / 13 = 50 in the middle; 50 + 2 * 80 = 210; the outermost pixels stay.
    expected = image[0, 0].clone()
    expected[1, 1] = 210
    assert torch.equal(apply_operation(image, "Sharpness", 2.0)[0, 0], expected)
    expected[1, 1] = 50
    assert torch.equal(apply_operation(image, "Sharpness", 0.0)[0, 0], expected)
    assert torch.equal(apply_operation(image, "Sharpness", 1.0), image)


def test_overexposed_sharpness() -> None:
    image = grey([[0, 0, 0], [0, 234, 0], [0, 0, 0]])
    # 90 + 2 * 144 = 378; the published code keeps the lowest eight bits.
    assert apply_operation(image, "Sharpness", 2.0)[0, 0, 1, 1] == 255
    assert apply_operation(image, "Sharpness", 2.0, published=True)[0, 0, 1, 1] == 378 - 256


def test_levels() -> None:
    level7 = {name: round(strength_of(name, 7), 9) for name in RANDAUGMENT}
    assert level7 == {
        "Identity": 0, "AutoContrast": 0, "Equalize": 0, "Brightness": 1.36, "Sharpness": 1.36,
        "ShearX": 0.21, "ShearY": 0.21, "TranslateX": 7, "TranslateY": 7, "Rotate": 21,
    }  # fmt: skip


@given(
    st.sampled_from(RANDAUGMENT),
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.floats(-2, 2), min_size=2, max_size=2),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_size_and_any_company(
    name: str, height: int, width: int, strengths: list[float], published: bool
) -> None:
    images = pictures(2, height, width)
    before = images.clone()
    together = apply_operation(images, name, strengths, published)
    assert torch.equal(images, before)
    assert together.shape == images.shape
    assert together.dtype == torch.uint8
    for row in range(2):
        alone = apply_operation(images[row : row + 1], name, strengths[row], published)
        assert torch.equal(alone[0], together[row])


CONFIG = AugmentConfig(randaugment_ops=2)


def test_a_picture_is_changed_alike_in_any_company() -> None:
    images = pictures(40, 16, 12)
    layout = images.contiguous(memory_format=torch.channels_last)
    together = rand_augment(layout, CONFIG, Draws(3, torch.arange(40)))
    rows = torch.tensor([31, 2, 17])
    assert torch.equal(rand_augment(images[rows], CONFIG, Draws(3, rows)), together[rows])
    assert torch.equal(layout, images)
    other = rand_augment(images, CONFIG, Draws(4, torch.arange(40)))
    assert (other != together).flatten(1).any(1).sum() > 20


def test_work_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(40, 16, 12)
    whole = rand_augment(images, CONFIG, Draws(3, torch.arange(40)))
    monkeypatch.setitem(module._AT_A_TIME, "cpu", 1)
    assert torch.equal(rand_augment(images, CONFIG, Draws(3, torch.arange(40))), whole)


def test_operations_are_as_frequent_as_published() -> None:
    # A white pixel left of the middle: how far it went says what was applied.
    images = torch.zeros(4000, 3, 1, 9, dtype=torch.uint8)
    images[:, :, :, 4] = 255
    config = AugmentConfig(
        randaugment_ops=2, randaugment_level=1, randaugment_choices=("Identity", "TranslateX")
    )
    found = rand_augment(images, config, Draws(0, torch.arange(4000)))
    moved = Counter((found[:, 0, 0] == 255).float().argmax(1).sub(4).tolist())
    # Each of two operations shifts left or right with probability 1/2 * 1/2 * 1/2.
    expected = {-2: 1 / 64, -1: 3 / 16, 0: 9 / 16 + 1 / 32, 1: 3 / 16, 2: 1 / 64}
    assert moved.keys() == expected.keys()
    for place, probability in expected.items():
        spread = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(moved[place] / 4000 - probability) < 5 * spread


def test_every_operation_is_drawn() -> None:
    seen = Counter()
    images = pictures(1)

    def apply(_images: Tensor, strengths: dict[str, dict[int, float]], published: bool) -> None:
        seen.update({name: len(rows) for name, rows in strengths.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_apply_all", apply)
        rand_augment(
            images.expand(2000, -1, -1, -1), AugmentConfig(randaugment_ops=1), Draws(1, torch.arange(2000))
        )
    assert seen.keys() == set(RANDAUGMENT) - {"Identity"}
    # A twentieth each; standard deviation sqrt(2000 * 0.0475) = 9.7.
    assert all(abs(count - 100) < 50 for count in seen.values())


def test_as_part_of_augmentation() -> None:
    images = pictures(6, 16, 16)
    draws = Draws(7, torch.arange(6))
    assert torch.equal(
        augment(images, CONFIG, draws), rand_augment(images, CONFIG, Draws(7, torch.arange(6)))
    )
    # Beside other changes it comes last, on what they leave in bytes.
    both = AugmentConfig(randaugment_ops=2, hue=0.1)
    draws = Draws(7, torch.arange(6))
    coloured = augment(images, AugmentConfig(hue=0.1), draws)
    expected = rand_augment((coloured * 255).round().to(torch.uint8), both, draws)
    assert torch.equal(augment(images, both, Draws(7, torch.arange(6))), expected)


def test_transparent_pictures_get_their_background_first() -> None:
    images = torch.zeros(3, 4, 8, 8, dtype=torch.uint8)
    config = AugmentConfig(randaugment_ops=1, randaugment_choices=("Identity",), random_background=0.5)
    found = augment(images, config, Draws(0, torch.arange(3)), "#102030")
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 8, 8)
    assert [16, 32, 48] in found[:, :, 0, 0].tolist()

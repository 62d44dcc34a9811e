"""SOHO's neck: which tokens are picture, where they are, and pictures that are used several times."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.blocks.sine import sine_positions
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.neck import Neck, Seen, token_mask

CHANNELS = 6


def config(neck: str = "gated", **options: Any) -> SohoConfig:
    return SohoConfig.model_validate(
        {
            "backbone": ResNetConfig(stem_channels=4, base_channels=2),
            "width": 16,
            "layers": 1,
            "heads": 2,
            "hidden": 8,
            "vocab_size": 20,
            "max_text_tokens": 8,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "neck": neck,
            "dictionary": DictionaryConfig(codes=7).published(),
            **options,
        }
    )


def made(neck: str = "gated", **options: Any) -> Neck:
    torch.manual_seed(3)
    found = Neck(config(neck, **options), CHANNELS)
    for norm in (m for m in found.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return found


def mask_of(sizes: list[tuple[int, int]], frame: tuple[int, int], *, published: bool) -> list[Any]:
    grid = (max(1, frame[0] // 64), max(1, frame[1] // 64))
    found = token_mask(torch.tensor(sizes), frame, grid, published=published)
    return found.int().tolist()  # type: ignore[no-any-return]


def test_masks_by_hand() -> None:
    # Lying pictures in a frame of 64 x 128. Published: columns begin at 0 and 32 of a square of 64.
    lying = [(50, 100), (64, 20), (64, 40)]
    assert mask_of(lying, (64, 128), published=True) == [[[1, 1]], [[1, 0]], [[1, 1]]]
    # Exact: they begin at 0 and 64.
    assert mask_of(lying, (64, 128), published=False) == [[[1, 1]], [[1, 0]], [[1, 0]]]
    # Upright ones in 256 x 128. Published: columns begin at 0 and 128 of a square of 256.
    upright = [(256, 128), (100, 129)]
    assert mask_of(upright, (256, 128), published=True) == [
        [[1, 0], [1, 0], [1, 0], [1, 0]],  # the right half is lost
        [[1, 1], [1, 1], [0, 0], [0, 0]],
    ]
    assert mask_of(upright, (256, 128), published=False) == [
        [[1, 1], [1, 1], [1, 1], [1, 1]],
        [[1, 1], [1, 1], [0, 0], [0, 0]],
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=3),
    st.booleans(),
)
def test_masks_are_nearest_samples_of_the_pictures_pixels(
    sizes: list[tuple[int, int]], published: bool
) -> None:
    height, width = (max(64, -(-max(s[i] for s in sizes) // 32) * 32) for i in (0, 1))
    grid = (height // 64, width // 64)
    found = token_mask(torch.tensor(sizes), (height, width), grid, published=published)
    sides = (height, height) if published else (height, width)
    for (h, w), mask in zip(sizes, found, strict=True):
        pixels = torch.zeros(sides)
        pixels[:h, :w] = 1
        nearest = F.interpolate(pixels[None, None], size=grid, mode="nearest")[0, 0]
        assert torch.equal(mask, nearest.bool())


def slow_positions(mask: list[list[int]], width: int) -> Tensor:
    """Compute the positions of one grid cell by cell."""
    h, w, half = len(mask), len(mask[0]), width // 2
    found = torch.zeros(h, w, width)
    for r in range(h):
        for c in range(w):
            y = sum(mask[i][c] for i in range(r + 1)) / (sum(row[c] for row in mask) + 1e-6) * 2 * math.pi
            x = sum(mask[r][: c + 1]) / (sum(mask[r]) + 1e-6) * 2 * math.pi
            for first, z in ((0, y), (half, x)):
                for k in range(half):
                    angle = z / 10000 ** (2 * (k // 2) / half)
                    found[r, c, first + k] = math.cos(angle) if k % 2 else math.sin(angle)
    return found


def test_sine_positions() -> None:
    masks = [[[1, 1, 0], [1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]], [[0] * 3] * 3]
    found = sine_positions(torch.tensor(masks).bool(), 16)
    for mask, positions in zip(masks, found, strict=True):
        torch.testing.assert_close(positions, slow_positions(mask, 16), atol=1e-5, rtol=0)
    # The last real cell is at 2 pi, and so is what is behind it; a column without picture is at 0.
    last = found[0, 2, 1, 8:10]
    torch.testing.assert_close(last, torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    assert torch.equal(found[0, 2, 2, 8:], found[0, 2, 1, 8:])
    assert torch.equal(found[0, 1, 2, :8], torch.tensor([0.0, 1.0] * 4))


def batch(pictures: int = 2) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return maps with an odd last row, sizes and frame."""
    torch.manual_seed(5)
    maps = torch.randn(pictures, CHANNELS, 5, 6)
    return maps, torch.tensor([[160, 192], [150, 100], [40, 190]])[:pictures], (160, 192)


@pytest.mark.parametrize("neck", ["gated", "added", "plain"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_picture_used_several_times_is_computed_once(neck: str, times: int) -> None:
    maps, sizes, frame = batch()
    rows = torch.arange(len(maps)).repeat_interleave(times)
    once, often = made(neck, align_before=neck != "plain"), made(neck, align_before=neck != "plain")
    one_map, many_maps = maps.clone().requires_grad_(), maps[rows].clone().requires_grad_()
    weights = torch.randn(len(rows), 6, 16)
    # Two steps: the second one sees what the first did to buffers.
    for _ in range(2):
        few: Seen = once(one_map, sizes, frame, times)
        all_rows: Seen = often(many_maps, sizes[rows], frame)
        torch.testing.assert_close(few.tokens[rows], all_rows.tokens)
        assert torch.equal(few.mask[rows], all_rows.mask)
        if neck != "plain":
            assert few.indices is not None
            assert all_rows.indices is not None
            assert torch.equal(few.indices[rows], all_rows.indices)
        (few.tokens[rows] * weights).sum().backward()
        (all_rows.tokens * weights).sum().backward()
    assert one_map.grad is not None
    assert many_maps.grad is not None
    summed = many_maps.grad.unflatten(0, (len(maps), times)).sum(1)
    torch.testing.assert_close(one_map.grad, summed, atol=1e-5, rtol=1e-4)
    theirs = dict(often.named_parameters())
    for name, parameter in once.named_parameters():
        wanted = theirs[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-5, rtol=1e-4)
    state = often.state_dict()
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=1e-5, rtol=1e-5)


def test_the_last_odd_row_of_a_map_is_left_out() -> None:
    maps, sizes, frame = batch()
    neck = made("plain").eval()
    changed = maps.clone()
    changed[:, :, 4] += 100
    assert torch.equal(neck(maps, sizes, frame).tokens, neck(changed, sizes, frame).tokens)


@pytest.mark.parametrize("neck", ["gated", "added"])
def test_the_neck_step_by_step(neck: str) -> None:
    """In eval mode: dictionary, alignment, gate, position and norm, written down with torch's functions."""
    maps, sizes, frame = batch()
    module = made(neck).eval()
    seen = module(maps, sizes, frame)
    v = module.bn(F.conv2d(F.max_pool2d(maps, 2), module.conv.weight))
    flat = v.flatten(2).transpose(1, 2)  # [B, P, D]
    assert module.dictionary.codes.shape == (7, 16)
    indices = torch.cdist(flat.flatten(0, 1), module.dictionary.codes).argmin(1)
    assert torch.equal(seen.indices.flatten(), indices)
    assert module.align is not None
    a = F.linear(module.dictionary.codes[indices], module.align.weight, module.align.bias).view_as(flat)
    z = a + flat
    if neck == "gated":
        grid = a.transpose(1, 2).unflatten(2, (2, 3))
        gate = module.gate_bn(F.conv2d(torch.cat([grid, v], 1), module.gate.weight)).softmax(1).flatten(2)
        z = gate[:, 0, :, None] * a + gate[:, 1, :, None] * flat
    positions = sine_positions(seen.mask.unflatten(1, (2, 3)), 16).flatten(1, 2)
    wanted = F.layer_norm(z + positions, (16,), module.norm.weight, module.norm.bias, 1e-5)
    torch.testing.assert_close(seen.tokens, wanted)


def test_hidden_tokens_know_their_place_alone() -> None:
    maps, sizes, frame = batch()
    neck = made().eval()
    seen = neck(maps, sizes, frame)
    pictures = torch.tensor([0, 0, 1])
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[1, 2] = hidden[1, 5] = hidden[2, 0] = True
    found = neck.hide(seen, pictures, hidden)
    assert torch.equal(found[0], seen.tokens[0])
    assert torch.equal(found[~hidden], seen.tokens[pictures][~hidden])
    positions = sine_positions(seen.mask.unflatten(1, (2, 3)), 16).flatten(1, 2)
    for row, place in hidden.nonzero().tolist():
        wanted = neck.norm(neck.hidden_token + positions[pictures[row], place])
        torch.testing.assert_close(found[row, place], wanted)
    nothing = neck.hide(seen, pictures, torch.zeros_like(hidden))
    assert torch.equal(nothing, seen.tokens[pictures])


@pytest.mark.parametrize("shape", [(32, 200), (96, 32), (32, 32)])
def test_thin_pictures_have_a_token(shape: tuple[int, int]) -> None:
    torch.manual_seed(7)
    model = SohoModel(config()).eval()
    height, width = shape
    images = torch.randn(2, 3, height, width)
    sizes = torch.tensor([[height, width], [height - 5, width - 9]])
    seen = model.see(images, sizes)
    padded = torch.zeros(2, 3, max(64, height), max(64, width))
    padded[:, :, :height, :width] = images
    wanted = model.see(padded, sizes)
    torch.testing.assert_close(seen.tokens, wanted.tokens)
    assert torch.equal(seen.mask, wanted.mask)
    assert seen.tokens.shape[1] == max(1, -(-height // 32) // 2) * max(1, -(-width // 32) // 2)
    assert bool(seen.mask[:, 0].all())
    # Pictures without sizes fill their frame.
    whole = torch.tensor([shape, shape])
    torch.testing.assert_close(model.see(images).tokens, model.see(images, whole).tokens)

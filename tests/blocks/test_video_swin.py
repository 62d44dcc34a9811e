"""Video Swin: windows by a plain loop, pieces of any size, both ways to attend, and torchvision's weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diptych.blocks import video_swin, window_attention
from diptych.blocks.products import LinearGradient, linear, product
from diptych.blocks.video_swin import (
    FramePatches,
    SwinBlock,
    SwinStage,
    VideoSwin,
    VideoSwinConfig,
    from_torchvision,
)
from diptych.blocks.window_attention import WindowAttention, plan_windows, reorder

CPU = torch.device("cpu")
SMALL = VideoSwinConfig(width=8, depths=(2, 1), heads=(2, 4), window=(2, 3, 3), drop_path=0.0)
side = st.integers(1, 9)


def attended_by_hand(attention: WindowAttention, x: Tensor, shifted: bool) -> Tensor:
    """Attend cell by cell in a clip [T, h, w, C]: pad, roll, and look up who may see whom by coordinates."""
    size, window = x.shape[:3], [min(s, w) for s, w in zip(x.shape[:3], SMALL.window, strict=True)]
    by = [w // 2 if shifted and s > w else 0 for s, w in zip(size, SMALL.window, strict=True)]
    whole = [math.ceil(s / w) * w for s, w in zip(size, window, strict=True)]
    missing = [e - s for s, e in zip(size, whole, strict=True)]
    padded = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
    out = torch.zeros_like(padded)
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}

    def place(cell: tuple[int, ...]) -> list[int]:
        return [(c - b) % e for c, b, e in zip(cell, by, whole, strict=True)]

    for cell in torch.cartesian_prod(*(torch.arange(e) for e in whole)).tolist():
        group = tuple(p // w for p, w in zip(place(cell), window, strict=True))
        groups.setdefault(group, []).append((*cell,))
    heads, d = attention.heads, x.shape[-1] // attention.heads
    table, index = attention.relative_position_bias_table, attention.relative_position_index
    for cells in groups.values():
        cells.sort(key=place)  # in a window, cells stand in the order of their places after the roll
        q, k, v = (
            attention.qkv(torch.stack([padded[c] for c in cells])).view(-1, 3, heads, d).permute(1, 2, 0, 3)
        )
        scores = q @ k.mT * d**-0.5 + table[index[: len(cells), : len(cells)]].permute(2, 0, 1)
        # The roll brought the first cells of a side behind the last ones: these two do not see each other.
        far = [
            [any((a < s) != (b < s) for a, b, s in zip(m, n, by, strict=True)) for n in cells] for m in cells
        ]
        values = (scores + torch.tensor(far) * -100.0).softmax(-1) @ v
        for cell, row in zip(cells, values.transpose(0, 1).reshape(len(cells), -1), strict=True):
            out[cell] = attention.proj(row)
    return out[: size[0], : size[1], : size[2]]


def block(width: int = 8, heads: int = 2) -> SwinBlock:
    torch.manual_seed(0)
    made = SwinBlock(width, heads, SMALL, 0.0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 3), (4, 6, 3), (3, 4, 5), (1, 7, 2), (5, 3, 4)])
def test_windows_are_those_of_a_plain_loop(size: tuple[int, int, int], shifted: bool) -> None:
    attention, shift = block().attn, (1, 1, 1) if shifted else (0, 0, 0)
    x = torch.randn(2, *size, 8)
    plan = plan_windows(size, SMALL.window, shift, CPU)
    found = plan.out_of(attention(plan.into(x.flatten(1, 3)), plan.mask), 2).view(x.shape)
    expected = torch.stack([attended_by_hand(attention, clip, shifted) for clip in x])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(side, side, side), shifted=st.booleans())
def test_every_cell_has_one_place(size: tuple[int, int, int], shifted: bool) -> None:
    plan = plan_windows(size, (2, 4, 3), (1, 2, 1) if shifted else (0, 0, 0), CPU)
    cells = math.prod(size)
    there = plan.there.tolist()
    assert sorted(c for c in there if c < cells) == list(range(cells))
    assert [there[place] for place in plan.back.tolist()] == list(range(cells))
    assert len(there) % plan.places == 0
    x = torch.randn(2, cells, 4, requires_grad=True)
    out = plan.out_of(plan.into(x), 2)
    assert torch.equal(out, x)
    above = torch.randn_like(out)
    out.backward(above)
    assert torch.equal(x.grad, above)


@pytest.mark.parametrize("size", [(2, 6, 6), (2, 3, 3), (1, 3, 9), (3, 4, 5)])
def test_a_stage_is_its_blocks_one_after_the_other(size: tuple[int, int, int]) -> None:
    """With whole windows, rows stay in them from block to block; without, they do not."""
    torch.manual_seed(0)
    stage = SwinStage(8, 2, SMALL, [0.0] * 3, last=True)
    for parameter in stage.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, *size, 8)
    plans = [plan_windows(size, SMALL.window, shift, CPU) for shift in ((0, 0, 0), (1, 1, 1))]
    expected = x.flatten(1, 3)
    for number, each in enumerate(stage.blocks):
        expected = each(expected, plans[number % 2])
    torch.testing.assert_close(stage(x).flatten(1, 3), expected, atol=1e-5, rtol=1e-5)


def test_cells_move_from_windows_to_windows() -> None:
    size, window = (2, 4, 4), (2, 2, 2)
    still = plan_windows(size, size, (0, 0, 0), CPU)
    plans = [None, still, *(plan_windows(size, window, shift, CPU) for shift in ((0, 0, 0), (1, 1, 1)))]
    assert [plan.still for plan in plans if plan is not None] == [True, False, False]
    x = torch.arange(32.0).view(1, 32, 1)
    for old in plans:
        stood = x if old is None else x[:, old.there]
        for new in plans:
            expected = x if new is None else x[:, new.there]
            assert torch.equal(reorder(stood, old, new), expected)


def gradients(module: nn.Module, x: Tensor, above: Tensor) -> dict[str, Tensor]:
    """Return output and gradients of a model on clips."""
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    out = module(leaf)
    out.backward(above)
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {"x": leaf.grad, "out": out.detach()}


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "rows"), [(1, 1), (400, 7), (5000, 10_000)])
def test_pieces_change_nothing(scores: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows one by one and head by head, several across the border of clips, and all at once."""
    torch.manual_seed(0)
    model = VideoSwin(SMALL)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, above = torch.randn(2, 3, 3, 30, 20), torch.randn(2, 3, 16, 4, 3)
    monkeypatch.setattr(video_swin, "plain", lambda x: False)
    monkeypatch.setattr(window_attention, "plain", lambda x: False)
    expected = gradients(model, x, above)
    monkeypatch.undo()
    monkeypatch.setattr(window_attention, "SCORES", scores)
    monkeypatch.setattr(window_attention, "ROWS", rows)
    monkeypatch.setattr(video_swin, "ROWS", rows)
    found = gradients(model, x, above)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_frozen_parameters_get_no_gradients() -> None:
    model = block()
    plan = plan_windows((2, 3, 4), SMALL.window, (1, 1, 1), CPU)
    x, above = torch.randn(2, 24, 8), torch.randn(2, 24, 8)
    whole = nn.Sequential()
    whole.add_module("block", model)
    whole.forward = lambda given: model(given, plan)
    expected = gradients(whole, x, above)
    frozen = ("attn.qkv.weight", "attn.proj.bias", "attn.relative_position_bias_table", "mlp.fc1.weight")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    found = gradients(whole, x, above)
    assert expected.keys() - found.keys() == {f"block.{name}" for name in frozen}
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_reading_without_gradients_and_in_bfloat16() -> None:
    torch.manual_seed(0)
    model = VideoSwin(SMALL)
    x = torch.randn(1, 2, 3, 28, 28)
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=0.05)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_inference_has_planned_serves_training() -> None:
    plan_windows.cache_clear()
    model = VideoSwin(SMALL)
    x = torch.randn(1, 2, 3, 24, 24)
    with torch.inference_mode():
        model(x)
    model(x).sum().backward()
    assert plan_windows.cache_info().hits > 0


def test_every_second_frame_starts_a_patch() -> None:
    torch.manual_seed(0)
    each = FramePatches(SMALL)
    second = FramePatches(SMALL.model_copy(update={"frame_stride": 2}))
    second.load_state_dict(each.state_dict())
    x = torch.randn(1, 3, 5, 8, 8)
    found = second(x)
    assert found.shape == (1, 3, 2, 2, 8)
    torch.testing.assert_close(found, each(x)[:, ::2])


def test_gradients_of_pieces_add_up() -> None:
    x, above = torch.randn(5, 3), torch.randn(5, 2)
    pieces = LinearGradient(True, True)
    pieces.add(above[:2], x[:2])
    pieces.add(above[2:], x[2:])
    torch.testing.assert_close(pieces.weight, above.t() @ x)
    torch.testing.assert_close(pieces.bias, above.sum(0))
    weight = torch.randn(2, 3)
    torch.testing.assert_close(linear(x, weight), x @ weight.t())
    torch.testing.assert_close(linear(above, weight.t()), above @ weight)
    assert linear(x[:0], weight).shape == (0, 2)


def test_names_of_torchvision() -> None:
    theirs = {
        "patch_embed.proj.weight": "patch_embed.proj.weight",
        "features.0.1.attn.qkv.weight": "layers.0.blocks.1.attn.qkv.weight",
        "features.0.1.norm1.bias": "layers.0.blocks.1.norm1.bias",
        "features.1.reduction.weight": "layers.0.downsample.reduction.weight",
        "features.4.5.mlp.0.bias": "layers.2.blocks.5.mlp.fc1.bias",
        "features.4.5.mlp.3.bias": "layers.2.blocks.5.mlp.fc2.bias",
        "features.6.0.norm2.weight": "layers.3.blocks.0.norm2.weight",
        "norm.bias": "norm.bias",
    }
    left_out = ("features.0.0.attn.relative_position_index", "head.weight")
    state = {name: torch.zeros(number + 1) for number, name in enumerate((*theirs, *left_out))}
    found = from_torchvision(state)
    assert list(found) == list(theirs.values())
    assert all(found[ours] is state[name] for name, ours in theirs.items())


def test_it_computes_what_torchvision_computes() -> None:
    videos = pytest.importorskip("torchvision.models.video")
    theirs = videos.swin3d_t(weights=None).eval()
    theirs.avgpool, theirs.head = nn.Identity(), nn.Identity()
    model = VideoSwin(VideoSwinConfig(depths=(2, 2, 6, 2), frame_stride=2)).eval()
    model.load_state_dict(from_torchvision(theirs.state_dict()))
    x = torch.randn(1, 3, 3, 72, 100)
    with torch.no_grad():
        expected = theirs(x.transpose(1, 2))
        found = model(x).permute(0, 2, 1, 3, 4).flatten(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_product_has_the_gradients_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, requires_grad=True)
    x, above = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 5)
    expected = torch.autograd.grad(F.linear(x, weight), (x, weight), above)
    out = product(x, weight)
    torch.testing.assert_close(out, F.linear(x, weight))
    torch.testing.assert_close(torch.autograd.grad(out, (x, weight), above), expected)
    (alone,) = torch.autograd.grad(product(x.detach(), weight), weight, above)
    torch.testing.assert_close(alone, expected[1])

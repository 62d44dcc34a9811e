"""Experts on their own rows: against torch's layers one by one, in pieces, in bfloat16, and their memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks import attention, grouped, spare
from diptych.blocks.activations import ACTIVATIONS, Activation
from diptych.blocks.attention import SelfAttention
from diptych.blocks.feedforward import FeedForward
from diptych.blocks.grouped import Rows, Weights, apply_experts, by_grouped_kernel
from diptych.blocks.spare import SpareMemory

COUNTS = [4, 0, 7, 1]
WIDTH, HIDDEN, TOKENS = 8, 16, 9


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Weights, Tensor]:
    """Return tokens, shares and weights that learn, and the token of each row (token 8 has none)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (TOKENS, WIDTH),
        (sum(COUNTS),),
        (4, HIDDEN, WIDTH),
        (4, HIDDEN),
        (4, WIDTH, HIDDEN),
        (4, WIDTH),
    ]
    x, shares, *weights = (
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
    )
    tokens = torch.randint(0, TOKENS - 1, (sum(COUNTS),), generator=generator)
    return x, shares, Weights(*weights), tokens


def slow(x: Tensor, rows: Rows, weights: Weights, activation: Activation) -> Tensor:
    """Do the same row by row with torch's layers."""
    out = [torch.zeros(WIDTH, dtype=x.dtype) for _ in x]
    experts = [e for e, count in enumerate(rows.counts) for _ in range(count)]
    for row, e in enumerate(experts):
        token = row if rows.tokens is None else int(rows.tokens[row])
        hidden = ACTIVATIONS[activation](F.linear(x[token], weights.fc1[e], weights.fc1_bias[e]))
        y = F.linear(hidden, weights.fc2[e], weights.fc2_bias[e])
        out[token] = out[token] + (y if rows.shares is None else rows.shares[row] * y)
    return torch.stack(out)


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a fixed weighing of y; zeros where there are none."""
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    found = torch.autograd.grad(y, leaves, probe, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def leaves_of(weights: Weights) -> list[Tensor]:
    return [weights.fc1, weights.fc1_bias, weights.fc2, weights.fc2_bias]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "relu"])
@pytest.mark.parametrize("piece", [1024, 3])
def test_equals_layers_one_by_one(
    activation: Activation, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "PIECE", piece)
    x, shares, weights, tokens = drawn()
    rows = Rows(COUNTS, tokens, shares)
    leaves = [x, shares, *leaves_of(weights)]
    ours, expected = (f(x, rows, weights, activation) for f in (apply_experts, slow))
    torch.testing.assert_close(ours, expected)
    assert torch.equal(ours[-1], torch.zeros(WIDTH, dtype=torch.float64))
    torch.testing.assert_close(gradients(ours, leaves), gradients(expected, leaves))
    with torch.no_grad():
        torch.testing.assert_close(apply_experts(x, rows, weights, activation), expected)


def test_rows_that_are_the_tokens_and_weights_that_are_frozen() -> None:
    x, _, weights, _ = drawn()
    x = x.detach()[[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]].requires_grad_()
    ours, expected = (f(x, Rows(COUNTS), weights, "gelu") for f in (apply_experts, slow))
    torch.testing.assert_close(gradients(ours, [x, weights.fc2]), gradients(expected, [x, weights.fc2]))
    frozen = Weights(*(weight.detach() for weight in leaves_of(weights)))
    ours, expected = (f(x, Rows(COUNTS), frozen, "gelu") for f in (apply_experts, slow))
    torch.testing.assert_close(gradients(ours, [x]), gradients(expected, [x]))


def test_no_rows_at_all() -> None:
    x, _, weights, tokens = drawn()
    y = apply_experts(x, Rows([0, 0, 0, 0], tokens[:0]), weights, "relu")
    assert not y.any()
    assert not any(g.any() for g in gradients(y, [x, *leaves_of(weights)]))


def test_autocast_multiplies_in_bfloat16_and_adds_in_the_type_of_the_tokens() -> None:
    x, shares, weights, tokens = drawn(torch.float32)
    leaves = [x, shares, *leaves_of(weights)]
    rows = Rows(COUNTS, tokens, shares)
    expected = slow(x, rows, weights, "quick_gelu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = apply_experts(x, rows, weights, "quick_gelu")
    assert low.dtype == torch.float32
    assert not torch.equal(low, expected)
    for ours, right in zip(
        [low, *gradients(low, leaves)], [expected, *gradients(expected, leaves)], strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - right).norm() < 0.02 * right.norm()


def test_the_grouped_kernel_does_the_same() -> None:
    """It runs on CPUs too, slowly; `apply_experts` takes it on GPUs only."""
    x, shares, weights, tokens = drawn(torch.float32)
    leaves = [x, shares, *leaves_of(weights)]
    for rows in (Rows(COUNTS, tokens, shares), Rows([3, 0, 5, 1])):
        right = slow(x, rows, weights, "gelu")
        ours = by_grouped_kernel(x, rows, weights, "gelu", torch.bfloat16)
        assert (ours - right).norm() < 0.02 * right.norm()
        found, expected = gradients(ours, leaves), gradients(right, leaves)
        for a, b in zip(found, expected, strict=True):
            assert (a - b).norm() <= 0.02 * b.norm()
        assert not found[2][1].any()  # the expert without rows


def test_a_perceptron_is_what_its_layers_are() -> None:
    torch.manual_seed(0)
    layer = FeedForward(6, 10, "quick_gelu").double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    plain = layer.fc2(ACTIVATIONS["quick_gelu"](layer.fc1(x)))
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(gradients(layer(x), leaves), gradients(plain, leaves))
    assert layer(x[:0]).shape == (0, 3, 6)


def test_memory_is_used_again_only_when_nothing_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LEAST", 0)
    memory, like = SpareMemory(), torch.zeros(3, 4)
    first = memory.empty_like(like).fill_(1)
    place, part = first.data_ptr(), first[1:].detach()
    second = memory.empty_like(like).fill_(2)
    assert second.data_ptr() != place
    del first
    third = memory.empty_like(like).fill_(3)
    assert third.data_ptr() not in (place, second.data_ptr())
    assert part.eq(1).all()
    del part
    assert memory.empty_like(like).data_ptr() == place
    assert copy.deepcopy(memory).empty_like(like).data_ptr() != place


def test_gradients_of_steps_that_are_kept_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LEAST", 0)
    x, shares, weights, tokens = drawn(torch.float32)
    w = nn.Parameter(weights.fc1.detach())
    pool = (SpareMemory(), SpareMemory())
    own = Weights(w, weights.fc1_bias, weights.fc2, weights.fc2_bias, pool)
    right = gradients(apply_experts(x, Rows(COUNTS, tokens, shares), weights, "gelu").sum(), [weights.fc1])[0]
    right = right / torch.randn((), generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    kept = []
    for step in range(1, 4):
        (apply_experts(x, Rows(COUNTS, tokens, shares), own, "gelu").sum() * step).backward()
        assert w.grad is not None
        kept.append(w.grad)
        w.grad = None
    apply_experts(x, Rows(COUNTS, tokens, shares), own, "gelu").sum().backward()
    apply_experts(x, Rows(COUNTS, tokens, shares), own, "gelu").sum().backward()
    assert w.grad is not None
    for factor, grad in zip((1, 2, 3, 2), (*kept, w.grad), strict=True):
        torch.testing.assert_close(grad, factor * right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["none", "keys", "pairs"])
def test_attention_by_plain_products_is_attention(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16, 2)
    x = torch.randn(3, 5, 16, requires_grad=True)
    mask = None
    if form == "keys":
        mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    elif form == "pairs":
        mask = torch.eye(5, dtype=torch.bool).expand(3, 5, 5)
    found = []
    for longest in (1024, 0):
        monkeypatch.setattr(attention, "PLAIN_UP_TO", longest)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x, mask)
        found.append([y.float(), *gradients(y, [x, layer.qkv.weight])])
    for plain, fused in zip(*found, strict=True):
        assert (plain - fused).norm() < 0.02 * fused.norm()


def test_a_query_that_may_read_nothing_gives_numbers() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = SelfAttention(16, 2)(torch.randn(1, 3, 16), torch.zeros(1, 3, dtype=torch.bool))
    assert y.isfinite().all()

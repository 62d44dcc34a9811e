"""The mixture layer: the fast path against a slow loop over tokens, and hand-computed routing."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.blocks.collective import World
from diptych.blocks.moe import Mixture
from diptych.blocks.router import Router, RouterConfig, gumbel

SILENT = RouterConfig(noise="never")


def make(experts: int, config: RouterConfig, width: int = 6, hidden: int = 10, seed: int = 0) -> Mixture:
    """Return a layer with weights large enough that tokens spread over the experts."""
    generator = torch.Generator().manual_seed(seed)
    layer = Mixture(width, hidden, experts, "quick_gelu", config)
    for parameter in layer.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator)
    return layer


def slow_mixture(layer: Mixture, x: Tensor, visual: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return output and balance loss as the reference page words them, token by token."""
    B, S, _ = x.shape
    E, config = layer.router.weight.shape[0], layer.config
    vectors = []
    for b in range(B):
        for s in range(S):
            u = x[b, s]
            if config.modality:
                u = u + (layer.image_type if s < visual else layer.text_type)
            vectors.append(u)
    excluded = mask is not None and config.padding == "exclude"
    counted = [bool(mask[b, s]) if excluded else True for b in range(B) for s in range(S)]
    logits = [layer.router.weight @ u for u in vectors]
    gates = [z.softmax(0) for z in logits]
    first = [int(z.argmax()) for z in logits]
    second = []
    for z, e in zip(logits, first, strict=True):
        rest = z.detach().clone()
        rest[e] = -math.inf
        second.append(int(rest.argmax()))
    n = sum(counted)
    factor = config.capacity_factor if layer.training else config.eval_capacity_factor
    capacity = max(config.min_capacity, math.ceil(n / E * 2 * factor)) if config.drop_tokens else math.inf
    first_total = [sum(c and e == k for c, e in zip(counted, first, strict=True)) for k in range(E)]
    place1, place2 = [0] * E, list(first_total)
    outputs = []
    for t, u in enumerate(vectors):
        pairs = []
        if counted[t]:
            for chosen, places in ((first[t], place1), (second[t], place2)):
                if places[chosen] < capacity:
                    pairs.append((chosen, gates[t][chosen]))
                places[chosen] += 1
        y = torch.zeros_like(u)
        total = sum(w for _, w in pairs)
        for e, w in pairs:
            h = layer.experts.fc1_weight[e] @ u + layer.experts.fc1_bias[e]
            h = h * torch.sigmoid(1.702 * h)
            y = y + (w / total) * (layer.experts.fc2_weight[e] @ h + layer.experts.fc2_bias[e])
        outputs.append(y)
    mean_gate = sum(g for g, c in zip(gates, counted, strict=True) if c) / n
    share = torch.tensor(first_total) / n
    return torch.stack(outputs).view_as(x), E * (mean_gate * share).sum()


def compare(layer: Mixture, x: Tensor, visual: int, mask: Tensor | None) -> None:
    """Assert equal output, balance loss and gradients of all parameters and of the input."""
    results = []
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    for fast in (True, False):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        if fast:
            mixed = layer(leaf, visual, mask)
            y, balance = mixed.output, mixed.balance
        else:
            y, balance = slow_mixture(layer, leaf, visual, mask)
        ((y * probe).sum() + balance).backward()
        grads = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
        results.append(({"y": y.detach(), "balance": balance.detach(), "x": leaf.grad}, grads))
    (ours, our_grads), (slow, slow_grads) = results
    for name, expected in slow.items():
        torch.testing.assert_close(ours[name], expected, atol=2e-5, rtol=1e-5, msg=name)
    assert our_grads.keys() >= slow_grads.keys()
    for name, expected in slow_grads.items():
        torch.testing.assert_close(our_grads[name], expected, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        SILENT,
        RouterConfig(modality=False, noise="never"),
        SILENT.with_(drop_tokens=True, capacity_factor=0.5, eval_capacity_factor=0.4, min_capacity=1),
        RouterConfig().published().with_(noise="never"),
    ],
    ids=["dropless", "no-modality", "tight", "published"],
)
def test_fast_path_equals_the_slow_loop(config: RouterConfig, training: bool) -> None:
    layer = make(4, config).train(training)
    x = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = False
    mask[2, 4:] = False
    compare(layer, x, 3, mask)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    experts=st.integers(1, 5),
    visual=st.integers(0, 6),
    drop=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fast_path_at_any_size(
    batch: int, length: int, experts: int, visual: int, drop: bool, seed: int
) -> None:
    config = SILENT.with_(drop_tokens=drop, capacity_factor=0.6, min_capacity=1)
    x = torch.randn(batch, length, 6, generator=torch.Generator().manual_seed(seed))
    compare(make(experts, config, seed=seed), x, min(visual, length), None)


def test_a_tight_capacity_really_drops_tokens() -> None:
    layer = make(4, SILENT.with_(drop_tokens=True, eval_capacity_factor=0.25, min_capacity=1)).eval()
    x = torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(3))
    routing = layer.router(x[0], None)
    assert routing.capacity == 2
    lost = ~routing.kept.any(1)
    assert lost.any()
    # The router alone sees the tokens without the modality vector, so ask the layer for its own dropped ones.
    output = layer(x, 16, None).output[0]
    own = ~layer.router((x + layer.image_type)[0], None).kept.any(1)
    assert own.any()
    assert torch.equal(output[own], torch.zeros_like(output[own]))


def test_routing_by_hand() -> None:
    router = Router(
        2, 2, RouterConfig(noise="never", drop_tokens=True, min_capacity=2, eval_capacity_factor=0.1)
    )
    router.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tokens = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    routing = router.eval()(tokens, None)
    assert routing.experts.tolist() == [[0, 1], [0, 1], [1, 0]]
    # Expert 0: firsts of tokens 0, 1, then the second of 2. Expert 1: first of 2, seconds of 0, 1.
    assert routing.slots is not None
    assert routing.slots.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert routing.capacity == 2
    assert routing.kept.tolist() == [[True, True], [True, False], [True, False]]
    high = 1 / (1 + math.exp(-2.0))
    torch.testing.assert_close(
        routing.weights, torch.tensor([[high, 1 - high], [1.0, 0.0], [1.0, 0.0]]), atol=1e-6, rtol=0
    )
    assert routing.first_counts.tolist() == [2, 1]
    g0 = [1 / (1 + math.exp(-v)) for v in (2.0, 3.0, -1.0)]
    mean0 = sum(g0) / 3
    assert routing.balance.item() == pytest.approx(2 * (mean0 * 2 / 3 + (1 - mean0) / 3), rel=1e-6)


@dataclass(frozen=True)
class Pretended(World):
    """Rank 0 of two; the other one's first choices are known."""

    size: int = 2

    def sum(self, x: Tensor) -> Tensor:
        assert not x.requires_grad
        return x + torch.tensor([0, 5])


@pytest.mark.parametrize("balance", ["batch", "rank"])
def test_balance_of_two_ranks_by_hand(balance: Literal["batch", "rank"]) -> None:
    router = Router(2, 2, SILENT.with_(balance=balance))
    router.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    router.world = Pretended()
    tokens = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    routing = router(tokens, None)
    assert routing.first_counts.tolist() == [2, 1]
    sums = [1 / (1 + math.exp(-v)) for v in (2.0, 3.0, -1.0)]
    gates = (sum(sums), 3 - sum(sums))
    if balance == "rank":
        expected = 2 * (gates[0] / 3 * 2 / 3 + gates[1] / 3 * 1 / 3)
    else:  # 8 tokens in all, 4 a rank in the mean; 2 chose expert 0 first, and 6 expert 1
        expected = 2 * (gates[0] / 4 * 2 / 8 + gates[1] / 4 * 6 / 8)
    assert routing.balance.item() == pytest.approx(expected, rel=1e-6)


def test_training_load_is_counted_until_it_is_reset() -> None:
    layer = make(2, SILENT).train()
    x, mask = torch.randn(2, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    first = layer(x, 2, mask).first_counts
    assert int(first.sum()) == 7
    layer(x, 2, mask)
    layer.eval()(x, 2, mask)
    assert layer.load is not None
    assert torch.equal(layer.load, 2 * first)
    layer.reset_load()
    assert layer.load is None


def test_capacity_is_the_published_rule() -> None:
    router = Router(2, 4, RouterConfig(drop_tokens=True)).eval()
    assert [router.capacity(t) for t in (1, 8, 9, 75)] == [4, 4, 5, 38]


def test_excluded_padding_changes_nothing() -> None:
    layer = make(3, SILENT).eval()
    x = torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    mixed = layer(x, 2, mask)
    other = x.clone()
    other[1, 3:] = 7.0
    again = layer(other, 2, mask)
    assert torch.equal(mixed.output, again.output)
    assert torch.equal(mixed.balance, again.balance)
    assert torch.equal(mixed.output[1, 3:], torch.zeros(2, 6))
    assert int(mixed.first_counts.sum()) == 8


def test_outputs_do_not_depend_on_the_rest_of_the_batch() -> None:
    layer = make(4, RouterConfig()).eval()
    x = torch.randn(4, 5, 6)
    alone = layer(x[:1], 2, None).output
    torch.testing.assert_close(layer(x, 2, None).output[:1], alone, atol=1e-6, rtol=1e-5)


def test_noise_is_drawn_when_it_should_be() -> None:
    x = torch.randn(2, 30, 6)
    for noise, in_training, in_evaluation in [("train", 1, 0), ("always", 1, 1), ("never", 0, 0)]:
        layer = make(5, RouterConfig(noise=noise))
        calls: list[int] = []

        def count(logits: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return torch.zeros_like(logits)

        layer.router.draw_noise = count
        layer.train()(x, 30, None)
        assert len(calls) == in_training
        layer.eval()(x, 30, None)
        assert len(calls) == in_training + in_evaluation


def test_gumbel_noise_has_the_right_moments() -> None:
    torch.manual_seed(0)
    draws = gumbel(torch.zeros(200_000))
    assert draws.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert draws.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_one_choice_weighs_with_the_gate() -> None:
    layer = make(3, SILENT.with_(choices=1, modality=False)).eval()
    x = torch.randn(1, 4, 6)
    output = layer(x, 4, None).output[0]
    for token, y in zip(x[0], output, strict=True):
        gate = (layer.router.weight @ token).softmax(0)
        e = int(gate.argmax())
        h = layer.experts.fc1_weight[e] @ token + layer.experts.fc1_bias[e]
        h = h * torch.sigmoid(1.702 * h)
        expected = gate[e] * (layer.experts.fc2_weight[e] @ h + layer.experts.fc2_bias[e])
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_served_tokens_are_counted_in_evaluation_only() -> None:
    layer = make(2, SILENT)
    x = torch.randn(2, 4, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    layer.train()(x, 2, mask)
    assert layer.served is None
    layer.eval()(x, 2, mask)
    layer(x, 2, mask)
    assert layer.served is not None
    assert layer.served.sum(1).tolist() == [8, 6]
    layer.reset()
    assert layer.served is None

"""Operations of a step: counted by hand, and the same as torch's own counter where that sees them."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from diptych.blocks.grouped import Rows, Weights, apply_experts
from diptych.train.flops import TRIES, FlopCounter, StepFlops
from diptych.train.memory import peak_mb
from diptych.train.roofline import roofline

CPU = torch.device("cpu")


def test_a_linear_layer_by_hand():
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    with FlopCounter() as counter:
        F.linear(x, weight, torch.zeros(4)).sum().backward()
    # [5, 3] x [3, 4] forward, and two products of the same size backward; an addition and a product each.
    assert counter.total == 3 * (2 * 5 * 3 * 4)


def test_grouped_products_are_seen_in_both_directions():
    counts, width, hidden = (4, 0, 7), 6, 10
    x = torch.randn(11, width, requires_grad=True)
    shapes = (3, hidden, width), (3, hidden), (3, width, hidden), (3, width)
    weights = Weights(*(torch.randn(shape, requires_grad=True) for shape in shapes))
    with FlopCounter() as counter:
        apply_experts(x, Rows(counts), weights, "gelu").sum().backward()
    assert counter.total == 2 * 3 * (2 * 11 * width * hidden)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_the_cpu_is_seen(masked):
    B, H, S, D = 2, 3, 8, 4
    q, k, v = (torch.randn(B, H, S, D, requires_grad=True) for _ in range(3))
    mask = torch.ones(B, 1, 1, S, dtype=torch.bool) if masked else None
    product = 2 * B * H * S * S * D
    with FlopCounter() as counter:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert counter.total == 2 * product
    with FlopCounter() as counter:
        y.sum().backward()
    assert counter.total in (4 * product, 5 * product)  # flash attention computes the scores once more


@pytest.mark.parametrize(
    "shapes", [((6, 8), (8, 5)), ((6, 8), (3, 8, 5)), ((3, 2, 8), (8, 6)), ((3, 2, 8), (3, 8, 5))]
)
def test_grouped_mm_of_torch_by_its_shapes(shapes):
    from diptych.train.flops import _grouped_product

    a, b = (torch.zeros(shape) for shape in shapes)
    groups = 3
    # Groups of equal size, as batched products of ordinary tensors.
    if a.dim() == 2 and b.dim() == 2:
        out, expected = torch.zeros(groups, 6, 5), 2 * 6 * 8 * 5
    elif a.dim() == 2:
        out, expected = torch.zeros(6, 5), groups * 2 * 2 * 8 * 5
    elif b.dim() == 2:
        out, expected = torch.zeros(2, 6), groups * 2 * 2 * 8 * 2
    else:
        out, expected = torch.zeros(3, 2, 5), groups * 2 * 2 * 8 * 5
    assert _grouped_product(a, b, out_val=out) == expected


def eve_step(model):
    torch.manual_seed(3)
    model.zero_grad()
    ids, mask = torch.randint(0, 100, (4, 8)), torch.arange(8) < torch.tensor([[8], [5], [3], [8]])
    fused = model.fuse(torch.randn(4, 3, 16, 16), ids, mask)
    loss = fused.pooled.square().mean() + fused.aux["routing"]
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_counting_eve_changes_no_bit_and_agrees_with_torch():
    from diptych.systems.eve.system import SYSTEM

    torch.manual_seed(0)
    model = SYSTEM.build(SYSTEM.toy_config())
    plain = eve_step(model)
    with FlopCounter() as counter:
        counted = eve_step(model)
    assert plain[0] == counted[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], counted[1], strict=True))
    with FlopCounterMode(display=False) as reference:
        eve_step(model)
    B, S, D, layers = 4, 5 + 8, 32, 2  # torch leaves attention on the CPU out: 2 + 5 products a layer
    attention = layers * 7 * 2 * B * S * S * D
    assert counter.total - reference.get_total_flops() in (attention, 0)
    assert counter.total > 0


def product(side: int) -> None:
    torch.zeros(side, side) @ torch.zeros(side, side)


def tokens(number: float) -> torch.Tensor:
    return torch.tensor(number)


def one(flops: StepFlops, kind: str, side: int, number: float) -> bool:
    """Do a step; return whether it was counted."""
    with flops.counting():
        product(side)
    before = dict(flops.counted)
    flops.end_step(frozenset(kind), tokens(number))
    return flops.counted != before


def test_one_step_of_each_kind_is_counted_and_scaled_by_tokens():
    flops = StepFlops()
    assert flops.of({frozenset("a"): tokens(1)}) is None
    assert one(flops, "a", 10, 5)
    assert not one(flops, "a", 20, 5)
    assert flops.of({frozenset("a"): tokens(15)}) == 3 * 2000
    assert not one(flops, "ab", 20, 8)  # seen for the first time: the next step is counted
    assert flops.of({frozenset("ab"): tokens(5)}) == 2000  # until then it costs what is known
    assert one(flops, "ab", 20, 8)
    assert not one(flops, "ab", 10, 8)
    assert flops.of({frozenset("a"): tokens(5), frozenset("ab"): tokens(4)}) == 2000 + 16000 / 2


def test_kinds_that_take_turns_are_counted_and_one_that_never_returns_is_given_up():
    flops = StepFlops()
    one(flops, "a", 10, 1)
    counted = [one(flops, kind, 10 if kind == "a" else 20, 1) for kind in "bababa"]
    assert counted[2]
    assert not any(counted[3:])
    assert flops.counted[frozenset("b")][0] == 16000
    assert not one(flops, "c", 5, 1)
    for _ in range(TRIES):
        one(flops, "a", 10, 1)
    before = flops.counted[frozenset("a")][1]
    one(flops, "a", 10, 1)
    assert flops.counted[frozenset("a")][1] is before


def test_nothing_is_counted_where_it_is_switched_off():
    flops = StepFlops(enabled=False)
    assert not one(flops, "a", 10, 5)
    assert flops.of({frozenset("a"): tokens(1)}) is None


def test_the_roofline_is_measured_once_and_draws_nothing():
    state = torch.random.get_rng_state()
    found = roofline(CPU, "fp32")
    assert found > 1e6
    assert roofline(CPU, "fp32") == found
    assert torch.equal(torch.random.get_rng_state(), state)


def test_peak_memory_of_this_process():
    before = peak_mb(CPU)
    held = torch.ones(60_000_000, dtype=torch.uint8)
    assert peak_mb(CPU) >= before
    assert peak_mb(CPU) > held.numel() / 1e6

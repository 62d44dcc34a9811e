"""Norms of gradients, by hand and over two ranks."""

import pytest
import torch
from tests.ranks import run_ranks
from torch import nn

from diptych.train.norms import PartNorms, part_of, tensor_norms
from diptych.train.optim import total_norm


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.3.attention.q_bias", "model.layers"),
        ("model.norm.weight", "model.norm"),
        ("itc.text.weight", "itc"),
        ("scale", "scale"),
    ],
)
def test_the_part_of_a_parameter(name, part):
    assert part_of(name) == part


def with_grad(*values: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values, dtype=torch.float32)
    return parameter


def test_norms_of_tensors_parts_and_all_by_hand():
    first, second, head, unused = (
        with_grad(3, 4),
        with_grad(12.0),
        with_grad(0, 84),
        nn.Parameter(torch.zeros(2)),
    )
    named = [("model.layers.0.a", first), ("model.layers.1.a", second), ("itc.w", head), ("mlm.w", unused)]
    parts = PartNorms(named)
    assert parts.names == ["model.layers", "itc", "mlm"]
    seen = []

    def record(parameters, norms):
        seen.append((parameters, norms.tolist(), parts.of(parameters, norms).tolist()))

    norm = total_norm((p for _, p in named), 42.5, record)
    assert norm.item() == pytest.approx(85)
    assert len(seen) == 1
    assert seen[0][1] == [5, 12, 84]
    assert seen[0][2] == pytest.approx([13, 84, 0])
    assert head.grad.tolist() == pytest.approx([0, 42], rel=1e-5)  # scaled to half, after it was recorded


def test_no_gradients_have_norm_zero():
    assert tensor_norms([]).shape == (0,)
    assert total_norm([nn.Parameter(torch.ones(2))], 1.0).item() == 0


def _norms_of_a_rank(world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world.size,))
    gradients = [torch.tensor([3.0, 4.0, 12.0]), torch.tensor([[6.0], [8.0]]), torch.tensor([5.0])]
    placements = ([Shard(0)], [Replicate()], None)
    given = [
        g if p is None else distribute_tensor(g, mesh, p) for g, p in zip(gradients, placements, strict=True)
    ]
    return tensor_norms(given).tolist()


@pytest.mark.slow
def test_what_is_cut_over_ranks_counts_in_full_on_each():
    for norms in run_ranks(_norms_of_a_rank):
        assert norms == pytest.approx([13, 10, 5])

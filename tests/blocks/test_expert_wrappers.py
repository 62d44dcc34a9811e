"""Spread experts beside DDP, FSDP2, activation checkpointing, torch.compile and checkpoints, in EVE."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed.checkpoint as dcp
from tests.ranks import run_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from diptych.blocks.collective import ALONE, World, set_world
from diptych.blocks.expert_parallel import ExpertGroup, shard_experts
from diptych.blocks.moe import keep_eager
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.system import SYSTEM

pytestmark = pytest.mark.slow

Wrapper = Literal["none", "ddp", "fsdp"]
BATCH, STEPS = 4, 3


class Toy(nn.Module):
    """EVE with four experts, no noise, and a loss that is a mean over samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = SYSTEM.toy_config()
        self.model = EveModel(config.with_(experts=4, router=config.router.with_(noise="never")))

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        fused = self.model.fuse(images, ids, mask)
        error = (fused.visual.square().mean((1, 2)) - 2).square() + fused.pooled[:, :4].sum(1)
        total: Tensor = error.mean() + 0.1 * fused.aux["routing"]
        return total


def batch(step: int, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return this rank's equal share of a batch."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 16, 16, generator=generator)
    ids = torch.randint(5, 100, (BATCH, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [3], [4], [5]])
    share = BATCH // world.size
    rows = slice(world.rank * share, (world.rank + 1) * share)
    return images[rows], ids[rows], mask[rows]


def wrap(toy: Toy, wrapper: Wrapper, group: ExpertGroup, world: World) -> nn.Module:
    if wrapper == "ddp":
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(toy, list(group.parameters))
        return DistributedDataParallel(toy, broadcast_buffers=False)
    if wrapper == "fsdp":
        ignored = set(group.parameters.values())
        for parameter in toy.parameters():  # FSDP2 refuses the stem's channels-last weights
            parameter.data = parameter.data.contiguous()
        mesh = init_device_mesh("cpu", (world.size,))
        for unit in [*toy.model.fsdp_units(), toy]:
            fully_shard(unit, mesh=mesh, ignored_params=ignored)
    return toy


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.detach().clone()


def train(world: World, wrapper: Wrapper, ranks: int) -> dict[str, Any]:
    """Return the losses, the whole gradients of the first step and the whole weights after the last."""
    toy = Toy().train()
    set_world(toy, world)
    group = shard_experts(toy, world, ranks)
    module = wrap(toy, wrapper, group, world)
    optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-3)
    kept: dict[str, Any] = {"losses": []}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = module(*batch(step, world))
        loss.backward()
        group.reduce_gradients()
        kept["losses"].append(loss.item())
        if step == 0:
            found = {name: p.grad for name, p in toy.named_parameters() if p.grad is not None}
            kept["grads"] = {name: full(g) for name, g in group.as_dtensors(found).items()}
        optimizer.step()
    weights = group.as_dtensors(dict(toy.state_dict()))
    kept["weights"] = {name: full(tensor) for name, tensor in weights.items()}
    return kept


def both_wrappers(world: World) -> dict[str, Any]:
    return {wrapper: train(world, wrapper, 2) for wrapper in ("ddp", "fsdp")}


def test_eve_with_spread_experts_equals_one_process() -> None:
    alone = train(ALONE, "none", 1)
    ranks = run_ranks(both_wrappers)
    for wrapper in ("ddp", "fsdp"):
        losses = torch.tensor([rank[wrapper]["losses"] for rank in ranks]).mean(0)
        torch.testing.assert_close(losses, torch.tensor(alone["losses"]), atol=1e-6, rtol=1e-5)
        for rank in ranks:
            assert rank[wrapper]["grads"].keys() == alone["grads"].keys()
            torch.testing.assert_close(rank[wrapper]["grads"], alone["grads"], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(rank[wrapper]["weights"], alone["weights"], atol=1e-4, rtol=0)


def write_and_read(world: World, folder: Path, other: Path) -> dict[str, Tensor]:
    """Write a checkpoint of spread experts; read one of one process into them, in place."""
    toy = Toy()
    group = shard_experts(toy, world, 2)
    moments = {f"optim/exp_avg/{name}": p.detach() * 2 for name, p in group.parameters.items()}
    state = {f"task/{name}": tensor for name, tensor in toy.state_dict().items()} | moments
    dcp.save(group.as_dtensors(state), checkpoint_id=folder)
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.zero_()
    dcp.load(group.as_dtensors({f"task/{k}": v for k, v in toy.state_dict().items()}), checkpoint_id=other)
    whole = Toy().state_dict()
    wanted = group.local({f"task/{name}": tensor + 1 for name, tensor in whole.items()})
    for name, tensor in toy.state_dict().items():
        assert torch.equal(tensor, wanted[f"task/{name}"]), name
    return {name: p.detach().clone() for name, p in group.parameters.items()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_checkpoints_hold_whole_experts(tmp_path: Path) -> None:
    first = {f"task/{name}": tensor for name, tensor in Toy().state_dict().items()}
    two, one = tmp_path / "two", tmp_path / "one"
    dcp.save({name: tensor + 1 for name, tensor in first.items()}, checkpoint_id=one, no_dist=True)
    slices = run_ranks(write_and_read, two, one)
    read = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    for name in slices[0]:
        read[f"optim/exp_avg/{name}"] = torch.zeros_like(first[f"task/{name}"])
        joined = torch.cat([rank[name] for rank in slices])
        assert torch.equal(joined, first[f"task/{name}"] + 1)
    dcp.load(read, checkpoint_id=two, no_dist=True)
    for name, tensor in first.items():
        assert torch.equal(read[name], tensor), name
    for name in slices[0]:
        assert torch.equal(read[f"optim/exp_avg/{name}"], 2 * first[f"task/{name}"])


def test_activation_checkpointing_counts_load_once() -> None:
    counted = []
    for recompute in (False, True):
        toy = Toy().train()
        if recompute:
            for layer in toy.model.layers:
                plain = layer.forward
                layer.forward = lambda *a, f=plain: checkpoint(f, *a, use_reentrant=False)
        toy(*batch(0, ALONE)).backward()
        toy(*batch(1, ALONE)).backward()
        load = toy.model.expert_load()
        assert list(load) == [1]
        counted.append(load[1])
        toy.eval()(*batch(0, ALONE))
        assert torch.equal(toy.model.expert_load()[1], load[1])
        toy.model.reset_expert_load()
        assert toy.model.expert_load() == {}
    assert torch.equal(counted[0], counted[1])
    # Four pictures of 1 + 4 tokens and 18 real words, twice.
    assert int(counted[0].sum()) == 2 * (BATCH * 5 + 18)


@pytest.mark.filterwarnings("ignore:.*")
def test_compiled_layers_keep_their_mixtures_eager() -> None:
    from torch._dynamo.testing import CompileCounter

    plain, toy = Toy().train(), Toy().train()
    keep_eager(toy)
    counter = CompileCounter()
    for layer in toy.model.layers:
        layer.compile(backend=counter)
    for step in range(4):
        loss = toy(*batch(step, ALONE))
        expected = plain(*batch(step, ALONE))
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
        loss.backward()
        expected.backward()
    for (name, ours), theirs in zip(toy.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
    # One graph for the layer without experts; attention, norm and what is behind the mixture for the other.
    assert counter.frame_count == 4

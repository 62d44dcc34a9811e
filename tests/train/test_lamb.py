"""LAMB against numbers worked out by hand, and rates that fall with depth."""

import pytest
import torch
from tests.ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from train_toy import exported, settings

from diptych.data.text import Tokenizer
from diptych.systems.eve.system import SYSTEM
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.train.config import OptimConfig, resolve_run
from diptych.train.engine import train
from diptych.train.lamb import Lamb
from diptych.train.optim import build_optimizer, parameter_groups


def test_a_first_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    weight.grad = torch.tensor([0.5, -2.0])
    Lamb([weight], lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=0.1).step()
    # Corrected for their bias the moments are g and g^2, so u = [1, -1] + 0.1 [3, 4] = [1.3, -0.6];
    # |w| = 5, |u| = sqrt(1.69 + 0.36) = 1.4317821.
    factor = 0.1 * 5 / 1.4317821
    assert weight.detach().tolist() == pytest.approx([3 - 1.3 * factor, 4 + 0.6 * factor], rel=1e-6)


def test_two_steps_with_eps_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = Lamb([weight], lr=0.5, betas=(0.5, 0.75), eps=1.0, weight_decay=0.2)
    weight.grad = torch.tensor([4.0])
    optimizer.step()
    # m = 2 / 0.5 = 4, v = 4 / 0.25 = 16, u = 4 / (4 + 1) + 0.2 * 2 = 1.2; of one number |w| / |u| * u = w.
    assert weight.item() == pytest.approx(2 - 0.5 * 2)
    weight.grad = torch.tensor([-8.0])
    optimizer.step()
    # m = 0.5 * 2 - 0.5 * 8 = -3 over 0.75 = -4; v = 0.75 * 4 + 0.25 * 64 = 19 over 0.4375;
    # u = -4 / (6.5900 + 1) + 0.2 = -0.3270 is negative: w grows by half of itself.
    assert weight.item() == pytest.approx(1 + 0.5 * 1)


def test_without_decay_the_update_is_adams() -> None:
    start, gradient = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.1, 3.0, -0.2])
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lamb = Lamb([ours], lr=0.01, betas=(0.9, 0.95), eps=1e-6)
    adam = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.0)
    for factor in (1.0, -0.5, 2.0):
        ours.grad, theirs.grad = gradient * factor, gradient * factor
        lamb.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_weights_of_zero_move_like_adams() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, -1.0])
    Lamb([weight], lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=0.3).step()
    assert weight.detach().tolist() == pytest.approx([-0.1, 0.1])


def over_ranks(world):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    if world.size > 1:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    optimizer = Lamb(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.full_tensor().detach() if world.size > 1 else p.detach() for p in model.parameters()]


@pytest.mark.slow
def test_tensors_cut_over_ranks_have_the_norms_of_whole_ones() -> None:
    from diptych.blocks.collective import ALONE

    for one, two in zip(over_ranks(ALONE), run_ranks(over_ranks)[0], strict=True):
        torch.testing.assert_close(one, two)


def test_a_run_goes_on_with_its_moments(dataset, tmp_path) -> None:
    values = settings(dataset, optim={"name": "lamb", "lr": 0.05, "weight_decay": 0.1}, train__steps=6)
    values["train"]["count_flops"] = False
    train(resolve_run(values), tmp_path / "whole", progress=False)
    train(resolve_run(values), tmp_path / "cut", progress=False)
    (tmp_path / "cut" / "export").rename(tmp_path / "cut" / "before")
    for later in (tmp_path / "cut" / "checkpoints").glob("step_00000006*"):
        later.rename(tmp_path / "cut" / later.name)
    train(resolve_run(values), tmp_path / "cut", progress=False)
    for name, tensor in exported(tmp_path / "whole").items():
        assert torch.equal(tensor, exported(tmp_path / "cut")[name]), name


def rates(**changes) -> dict[str, float]:
    config = SYSTEM.toy_config()
    tokenizer = Tokenizer.train(["a b c", "d e f"], 50)
    task = RetrievalTask(SYSTEM.build(config), RetrievalConfig(matching=False), tokenizer)
    groups = parameter_groups(task, OptimConfig(lr=0.5, **changes), ())
    return {name: group["lr_scale"] for group in groups for name in group["names"]}


def test_rates_fall_with_depth() -> None:
    found = rates(layer_decay=0.5)
    layers = SYSTEM.toy_config().layers
    assert layers >= 2
    for i in range(layers):
        own = {scale for name, scale in found.items() if name.startswith(f"model.layers.{i}.")}
        assert own == {0.5 ** (layers - i)}
    assert {scale for name, scale in found.items() if not name.startswith("model.")} == {1.0}
    embeddings = {scale for name, scale in found.items() if name.startswith("model.text")}
    assert embeddings == {0.5 ** (layers + 1)}
    assert set(rates().values()) == {1.0}


def test_rates_of_groups_fall_with_depth_too() -> None:
    layers = SYSTEM.toy_config().layers
    found = rates(layer_decay=0.5, groups={"slow": {"match": ["model.layers.0.*"], "lr": 0.05}})
    own = {scale for name, scale in found.items() if name.startswith("model.layers.0.")}
    assert list(own) == [pytest.approx(0.1 * 0.5**layers)]


def test_the_rule_is_chosen_by_name() -> None:
    tokenizer = Tokenizer.train(["a b c", "d e f"], 50)
    task = RetrievalTask(SYSTEM.build(SYSTEM.toy_config()), RetrievalConfig(matching=False), tokenizer)
    assert isinstance(build_optimizer(task, OptimConfig(name="lamb"), ()), Lamb)

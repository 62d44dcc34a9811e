import pytest
import torch
from torch import nn
from train_toy import PairsConfig, PairsTask, ToyConfig, ToyModel

from diptych.data.text import Tokenizer
from diptych.train.config import OptimConfig
from diptych.train.optim import (
    Average,
    build_optimizer,
    drop_unused_slots,
    make_slots,
    optimizer_tensors,
    parameter_groups,
    set_lr,
    total_norm,
)


def toy_task(head=True):
    torch.manual_seed(3)
    return PairsTask(ToyModel(ToyConfig()), PairsConfig(head=head), Tokenizer.train(["a red thing"] * 3, 64))


def test_four_groups():
    groups = parameter_groups(
        toy_task(), OptimConfig(weight_decay=0.1, lr_mult=5), {"head.weight", "head.bias"}
    )
    assert [(g["names"], g["weight_decay"], g["lr_scale"]) for g in groups] == [
        (["model.pixels.weight"], 0.1, 1.0),
        # the word table because the system says so, the others because they have one dimension
        (["model.pixels.bias", "model.words.weight", "model.norm.weight", "model.norm.bias"], 0.0, 1.0),
        (["head.weight"], 0.1, 5),
        (["head.bias"], 0.0, 5),
    ]


def test_frozen_parameters_are_left_out():
    task = toy_task()
    task.model.pixels.weight.requires_grad_(False)
    assert not any("model.pixels.weight" in g["names"] for g in parameter_groups(task, OptimConfig(), ()))


def test_one_step_by_hand():
    """After one step of Adam from zero moments the update is lr * sign(gradient), decay comes on top."""
    task = toy_task()
    optimizer = build_optimizer(
        task, OptimConfig(lr=0.5, weight_decay=0.1, lr_mult=2), {"head.weight", "head.bias"}
    )
    set_lr(optimizer, 0.01)
    before = {n: p.detach().clone() for n, p in task.named_parameters()}
    for parameter in task.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    after = dict(task.named_parameters())
    torch.testing.assert_close(
        after["model.pixels.weight"], before["model.pixels.weight"] * (1 - 0.01 * 0.1) - 0.01
    )
    torch.testing.assert_close(after["model.pixels.bias"], before["model.pixels.bias"] - 0.01)
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * (1 - 0.02 * 0.1) - 0.02)
    torch.testing.assert_close(after["head.bias"], before["head.bias"] - 0.02)


@pytest.mark.parametrize("name", ["adamw", "adamw_published"])
def test_state_goes_out_and_in_by_name(name):
    first, second = toy_task(), toy_task()
    for task in (first, second):  # another layout in memory than the one that tensors from a file have
        weight = task.model.pixels.weight
        weight.data = weight.data.t().contiguous().t()
    optimizers = [build_optimizer(task, OptimConfig(name=name, lr=0.1), ()) for task in (first, second)]

    def step(task, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in task.named_parameters():
            if name != "head.bias":  # a parameter that no loss has reached
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    step(first, optimizers[0], 1)
    tensors = optimizer_tensors(optimizers[0])
    assert "exp_avg/model.words.weight" in tensors
    assert not any("head.bias" in name for name in tensors)
    second.load_state_dict(first.state_dict())
    make_slots(optimizers[1])
    for name, slot in optimizer_tensors(optimizers[1]).items():  # as a checkpoint fills what it holds
        if name in tensors:
            slot.copy_(tensors[name].detach().clone(memory_format=torch.contiguous_format))
    drop_unused_slots(optimizers[1])
    assert optimizer_tensors(optimizers[1]).keys() == tensors.keys()
    for task, optimizer in zip((first, second), optimizers, strict=True):
        step(task, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_norm_and_clipping_by_hand():
    one, two, unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, two.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert total_norm([one, two, unused], 0.0).item() == 5
    assert (one.grad.item(), two.grad.item()) == (3, 4)
    assert total_norm([one, two, unused], 1.0).item() == 5
    torch.testing.assert_close(torch.cat([one.grad, two.grad]), torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_average_by_hand():
    task = toy_task(head=False)
    with torch.no_grad():
        task.model.norm.bias.fill_(0.0)
    average = Average(task, 0.5)
    with torch.no_grad():
        task.model.norm.bias.fill_(1.0)
    average.update(0)  # decay 1/10: 0.1 * 0 + 0.9 * 1
    torch.testing.assert_close(average.tensors["model.norm.bias"], torch.full((16,), 0.9))
    with torch.no_grad():
        task.model.norm.bias.fill_(2.0)
    average.update(100)  # decay 0.5, the limit: 0.45 + 1
    torch.testing.assert_close(average.tensors["model.norm.bias"], torch.full((16,), 1.45))

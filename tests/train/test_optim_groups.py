"""Parameters that are trained in a way of their own: `optim.groups`."""

import pytest
import torch
from test_train_optim import toy_task
from train_toy import exported, settings

from diptych.errors import ConfigError
from diptych.train.config import OptimConfig, OptimGroup, resolve_run
from diptych.train.engine import train
from diptych.train.optim import (
    Optimizers,
    build_optimizer,
    drop_unused_slots,
    freeze,
    make_slots,
    optimizer_tensors,
    parameter_groups,
    set_lr,
)

SGD = OptimGroup(match=("model.pixels.*",), name="sgd", lr=0.5, weight_decay=0.2, decay="all", momentum=0.5)
"""What SOHO does with its convolutions, in small."""


def mixed(**rest):
    return OptimConfig(lr=0.05, weight_decay=0.1, groups={"cnn": SGD, **rest})


def test_groups_by_name():
    heads = OptimGroup(match=("*.weight", "head.*"), lr=0.1, decay="all")
    groups = parameter_groups(toy_task(), mixed(rest=heads), {"head.bias"})
    assert [(g["names"], g["rule"], g["weight_decay"], g["lr_scale"]) for g in groups] == [
        (["model.norm.bias"], "adamw", 0.0, 1.0),
        # The first group that matches: `*.weight` would take one of them, too.
        (["model.pixels.weight", "model.pixels.bias"], "sgd", 0.2, 10.0),
        (["model.words.weight", "model.norm.weight", "head.weight"], "adamw", 0.1, 2.0),
        (["head.bias"], "adamw", 0.1, 2.0),
    ]


def test_two_steps_of_sgd_by_hand_beside_adamw():
    task = toy_task()
    optimizer = build_optimizer(task, mixed(), ())
    assert isinstance(optimizer, Optimizers)
    set_lr(optimizer, 0.01)  # a fifth of the peak: of SGD's 0.5 as well
    weight, words = task.model.pixels.weight, task.model.words.weight
    p0, w0 = weight.detach().clone(), words.detach().clone()
    for _ in range(2):
        for parameter in task.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        optimizer.step()
    v1 = 3 + 0.2 * p0
    p1 = p0 - 0.1 * v1
    v2 = 0.5 * v1 + 3 + 0.2 * p1
    torch.testing.assert_close(weight.detach(), p1 - 0.1 * v2)
    torch.testing.assert_close(words.detach(), w0 - 0.02)  # equal gradients: each step of Adam is the rate


def test_state_of_several_rules_goes_out_and_in():
    first, second = toy_task(), toy_task()
    optimizers = [build_optimizer(task, mixed(), ()) for task in (first, second)]

    def step(task, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in task.named_parameters():
            if name != "head.bias":  # a parameter that no loss has reached
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    step(first, optimizers[0], 1)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizers[0]).items()}
    assert "momentum_buffer/model.pixels.bias" in kept
    assert "exp_avg/model.pixels.bias" not in kept
    second.load_state_dict(first.state_dict())
    make_slots(optimizers[1])
    for name, tensor in optimizer_tensors(optimizers[1]).items():
        if name in kept:
            tensor.copy_(kept[name])
    drop_unused_slots(optimizers[1])
    assert optimizer_tensors(optimizers[1]).keys() == kept.keys()
    for task, optimizer in zip((first, second), optimizers, strict=True):
        step(task, optimizer, 2)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_frozen():
    task = toy_task()
    config = mixed(still=OptimGroup(match=("head.*",), name="frozen"))
    assert freeze(task, config) == ["head.weight", "head.bias"]
    assert not any(name.startswith("head") for g in parameter_groups(task, config, ()) for name in g["names"])


@pytest.mark.slow
def test_a_run_with_two_rules_and_a_step_schedule_resumes_exactly(dataset, tmp_path, monkeypatch):
    recipe = settings(dataset, train__checkpoint_every=2) | {
        "schedule": {"name": "step", "warmup": 2, "warmup_from": 0.5, "milestones": [0.5]}
    }
    recipe["optim"] = recipe.get("optim", {}) | {
        "groups": {"cnn": {"match": ["model.pixels.*"], "name": "sgd", "lr": 0.1}}
    }

    def start(name):
        train(resolve_run(recipe), tmp_path / name, progress=False)
        return exported(tmp_path / name)

    whole = start("whole")
    from diptych.train import engine

    real, calls = engine.total_norm, []

    def crashing(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engine, "total_norm", crashing)
    with pytest.raises(KeyboardInterrupt):
        start("run")
    monkeypatch.setattr(engine, "total_norm", real)
    resumed = start("run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (OptimGroup(match=("backbone.*",)), r"optim.groups.x.match = \['backbone.\*'\]: no parameter"),
        (OptimGroup(match=("*",), name="frozen"), "every parameter is frozen"),
    ],
)
def test_groups_that_make_no_sense(group, words):
    with pytest.raises(ConfigError, match=words):
        freeze(toy_task(), OptimConfig(groups={"x": group}))

"""The published optimizer: its rule against a slow oracle, its groups, and its state over ranks."""

import pytest
import torch
from tests.ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from train_toy import exported, settings

from diptych.data.text import Tokenizer
from diptych.errors import ConfigError
from diptych.systems.eve.system import SYSTEM
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.train import adamw, engine
from diptych.train.adamw import AdamWPublished
from diptych.train.build import check_config
from diptych.train.checkpoint import Checkpoints
from diptych.train.config import OptimConfig, resolve_run
from diptych.train.engine import train
from diptych.train.optim import build_optimizer, parameter_groups, set_lr

RATE, BETAS, EPS, DECAY = 0.02, (0.8, 0.9), 0.01, 0.3


class Oracle:
    """One number at a time, as the rule reads."""

    def __init__(self, value):
        self.value, self.first, self.second, self.count = value, 0.0, 0.0, 0

    def step(self, gradient):
        self.count += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        size = RATE * (1 - BETAS[1] ** self.count) ** 0.5 / (1 - BETAS[0] ** self.count)
        self.value -= size * self.first / (self.second**0.5 + EPS)
        self.value -= RATE * DECAY * self.value


def made(parameters):
    return AdamWPublished(parameters, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)


def test_against_the_oracle():
    start = [[0.5, -2.0], [1.0, 0.0]]
    gradients = [[[1.0, -0.1], [0.3, 2.0]], [[-0.5, 0.2], None], [[0.0, 3.0], [0.01, -1.0]]]
    parameters = [nn.Parameter(torch.tensor(values)) for values in start]
    oracles = [[Oracle(value) for value in values] for values in start]
    optimizer = made(parameters)
    for step in gradients:
        for parameter, row, gradient in zip(parameters, oracles, step, strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient)
            for oracle, number in zip(row, gradient or (), strict=gradient is not None):
                oracle.step(number)
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in parameters] == [3, 2]
    for parameter, row in zip(parameters, oracles, strict=True):
        expected = torch.tensor([oracle.value for oracle in row])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_pieces_change_nothing(monkeypatch):
    found = []
    for size in (2**25, 5):  # all at once; 3, then 4 alone, then 2 and 2
        monkeypatch.setattr(adamw, "_AT_A_TIME", size)
        parameters = [nn.Parameter(torch.linspace(-1, 1, n)) for n in (3, 4, 2, 2)]
        optimizer = made(parameters)
        for step in range(2):
            for number, parameter in enumerate(parameters):
                parameter.grad = torch.full_like(parameter, number - step)
            optimizer.step()
        found.append([p.detach() for p in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert [len(piece) for piece in adamw._pieces(parameters)] == [1, 1, 2]


def test_first_step_by_hand():
    # m = 0.2 g, v = 0.1 g^2; size = 0.02 * sqrt(0.1) / 0.2; without eps the update would be 0.02 exactly.
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = AdamWPublished([parameter], lr=0.02, betas=(0.8, 0.9), eps=1.0, weight_decay=0.5)
    parameter.grad = torch.tensor([10.0])
    optimizer.step()
    moved = 1 - (0.02 * 0.1**0.5 / 0.2) * 2 / (10 * 0.1**0.5 + 1)
    assert parameter.item() == pytest.approx(moved * (1 - 0.02 * 0.5), rel=1e-6)


def test_half_precision_weights_have_exact_moments():
    low, high = (nn.Parameter(torch.linspace(-1, 1, 8).to(d)) for d in (torch.bfloat16, torch.float32))
    optimizers = [made([low]), made([high])]
    for step in range(3):
        gradient = torch.linspace(1, 2, 8).bfloat16() * (step + 1)
        low.grad, high.grad = gradient, gradient.float()
        for optimizer in optimizers:
            optimizer.step()
    states = [optimizer.state[p] for optimizer, p in zip(optimizers, (low, high), strict=True)]
    assert states[0]["exp_avg"].dtype == torch.float32
    for slot in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(states[0][slot], states[1][slot])
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.detach().float(), high.detach(), rtol=0.02, atol=0.01)


def test_closure_and_groups_without_gradients():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = made([parameter])
    assert optimizer.step() is None
    assert not optimizer.state
    assert optimizer.step(lambda: 3.5) == 3.5
    assert torch.equal(parameter.detach(), torch.ones(2))


def retrieval():
    torch.manual_seed(0)
    return RetrievalTask(
        SYSTEM.build(SYSTEM.toy_config()), RetrievalConfig(), Tokenizer.train(["a red thing"] * 3, 64)
    )


def test_published_groups_of_a_task():
    task = retrieval()
    names = [name for name, _ in task.named_parameters()]
    config = OptimConfig(name="adamw_published", decay="published", weight_decay=0.1, lr_mult=4)
    fresh = {name for name in names if not name.startswith("model.")}
    groups = parameter_groups(task, config, fresh, SYSTEM.published_names(names))
    assert [(g["weight_decay"], g["lr_scale"]) for g in groups] == [(0.1, 1), (0.0, 1), (0.1, 4), (0.0, 4)]
    assert sorted(name for group in groups for name in group["names"]) == sorted(names)
    decayed = set(groups[0]["names"])
    for name in ("visual.positions", "text.words.weight", "text.norm.weight", "layers.0.attention_scale"):
        assert f"model.{name}" in decayed
    assert {"model.layers.1.ffn.norm.weight", "model.layers.1.ffn.moe.experts.fc1_weight"} <= decayed
    kept = set(groups[1]["names"])
    for name in ("norm.weight", "input_norm.weight", "layers.0.norm.weight", "layers.0.attention.q_bias"):
        assert f"model.{name}" in kept
    assert "model.layers.1.ffn.moe.experts.fc1_bias" in kept
    assert groups[3]["names"] == ["itm.classifier.bias"]
    # By our rule tables and scales are not decayed.
    ours = parameter_groups(task, OptimConfig(), ())
    assert {"model.visual.positions", "model.layers.0.attention_scale"} <= set(ours[1]["names"])


@pytest.mark.parametrize("kinds", [{}, {"upper_ffn": "vl"}, {"lower_ffn": "shared"}, {"lower_ffn": "moe"}])
def test_every_weight_of_a_published_model_has_its_name(kinds):
    config = SYSTEM.toy_config().with_(stem="patch", patch_size=8, class_mean=False, **kinds)
    task = RetrievalTask(SYSTEM.build(config), RetrievalConfig(), Tokenizer.train(["a red thing"] * 3, 64))
    state = task.state_dict()
    names = SYSTEM.published_names(state)
    assert names.keys() == state.keys()
    # Of stacked experts the first one's.
    assert set(names.values()) <= SYSTEM.state_to_published(state).keys()
    assert len(set(names.values())) == len(names)


def test_names_that_nobody_published_are_judged_as_they_stand():
    names = SYSTEM.published_names(["model.norm.weight", "mim.decoder.norm.weight", "itc.temperature"])
    assert names == {"model.norm.weight": "backbone.norm.weight", "itc.temperature": "itc_temp"}
    # NLVR2 with and without attention between the pictures name the classifier differently.
    with_attention = SYSTEM.published_names(["nlvr.classifier.weight", "nlvr.pool.weight"])
    assert with_attention["nlvr.classifier.weight"] == "nlvr2_output.weight"
    plain = SYSTEM.published_names(["nlvr.classifier.weight"])
    assert plain == {"nlvr.classifier.weight": "output.3.weight"}


def test_a_system_that_was_never_published_has_no_such_groups():
    config = resolve_run("two_tower/pretrain/emoji_tiny", ["optim.decay=published"]).config
    with pytest.raises(ConfigError, match=r"optim.decay = published: system two_tower .*optim.decay = ours"):
        check_config(config)


def steps(world):
    """Return the weights after three steps of a linear map, cut over the ranks if there are several."""
    torch.manual_seed(1)
    model = nn.Linear(5, 3)
    if world is not None:
        fully_shard(model)
    inputs = torch.linspace(-1, 1, 20).view(4, 5)
    optimizer = AdamWPublished(model.parameters(), lr=0.1, betas=BETAS, eps=1e-3, weight_decay=0.2)
    for step in range(3):
        model(inputs * (step + 1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.full_tensor().detach() if world is not None else p.detach() for p in model.parameters()]


@pytest.mark.slow
def test_two_ranks_update_their_parts():
    alone = steps(None)
    for found in run_ranks(steps):
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_rate_of_a_schedule_is_used():
    task = retrieval()
    optimizer = build_optimizer(task, OptimConfig(name="adamw_published", lr=1.0, weight_decay=0.0), ())
    assert isinstance(optimizer, AdamWPublished)
    set_lr(optimizer, 0.0)
    before = [p.detach().clone() for p in task.parameters()]
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


def test_a_published_run_goes_on_where_it_was_killed(dataset, tmp_path, monkeypatch):
    recipe = settings(
        dataset,
        optim__name="adamw_published",
        train__checkpoint_every=2,
        train__steps=5,
        data__augment={"randaugment_ops": 2, "jitter": [0.4, 0.4, 0.4]},
    )
    train(resolve_run(recipe), tmp_path / "whole", progress=False)

    def crashing(*arguments):
        raise KeyboardInterrupt

    def saving(self, *arguments, **options):
        path = save(self, *arguments, **options)
        monkeypatch.setattr(engine, "total_norm", crashing)
        return path

    save, norm = Checkpoints.save, engine.total_norm
    monkeypatch.setattr(Checkpoints, "save", saving)
    with pytest.raises(KeyboardInterrupt):
        train(resolve_run(recipe), tmp_path / "run", progress=False)
    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(engine, "total_norm", norm)
    train(resolve_run(recipe), tmp_path / "run", progress=False)
    expected, found = exported(tmp_path / "whole"), exported(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)

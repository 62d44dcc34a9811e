"""Kind `optim_two_steps` of Uni-Perceiver: groups, two steps of AdamW, schedules."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.kinds_optim import Named
from tests.parity.runner import Case, Comparison, exact, loss, output
from tests.parity.uniperceiver_common import load, padding_of
from torch import Tensor

from diptych.objectives.likelihood import smoothed_loss
from diptych.systems.uniperceiver.convert import our_name
from diptych.train.config import OptimConfig, OptimGroup, ScheduleConfig
from diptych.train.optim import build_optimizer, parameter_groups, set_lr, total_norm
from diptych.train.schedule import Extent, lr_factor

GATES = ("*.gate.weight", "*.gate.tag.weight")
TABLES = ("*.words.weight", "*.positions.weight", "*.types.weight", "*.temporal.weight")
"""What published recipes set apart, as patterns for `optim.groups.<name>.match`."""


def published(
    lr: float, decay: float, *, tables: float = 0.0, gates: float | None = None, factor: float = 1.0
) -> OptimConfig:
    """Return the published way of training; everything else is decayed as `ours` says."""
    groups = {"tables": OptimGroup(match=TABLES, weight_decay=tables, decay="all")}
    if gates is not None:
        groups["gates"] = OptimGroup(match=GATES, lr=lr * factor, weight_decay=gates, decay="all")
    return OptimConfig(
        name="adamw", lr=lr, betas=(0.9, 0.95), eps=1e-6, weight_decay=decay, decay="ours", groups=groups
    )


def check(case: Case) -> list[Comparison]:
    """Compare two steps, the example of groups, and the schedules while a run lasts."""
    return [
        *_steps(case),
        *_groups(case.meta["moe_param_groups_example"]),
        *_schedules(case.meta["lr_schedules"]),
    ]


def _steps(case: Case) -> list[Comparison]:
    meta, given = case.meta["optimizer"], case.tensors
    net = load(case).train()
    own = dict(net.named_parameters())
    config = published(meta["lr"], meta["weight_decay"], tables=meta["wd_embedding"])
    config = config.with_(betas=tuple(meta["betas"]), eps=meta["eps"])
    task = Named({})
    task.model = net.model
    optimizer = build_optimizer(task, config, ())
    set_lr(optimizer, config.lr)
    done = []
    for step in range(meta["steps"]):
        optimizer.zero_grad()
        model = net.model
        states = model.encode(model.assemble([model.visual(given["in.pixels"])]))
        targets = model.encode_targets(given["in.target_tokens"].long(), padding_of(case, "target"))
        logits = model.classify(states[:, 0], targets[:, 0], "img_cls")
        value = meta["loss_weight"] * smoothed_loss(logits, given["in.labels"], meta["label_smoothing"])
        value.backward()
        norm = total_norm(task.parameters(), meta["clip_global_norm"])
        optimizer.step()
        done.append(loss(f"loss {step}", value, given["out.loss"][step]))
        done.append(loss(f"norm {step}", norm, given["out.grad_norm"][step]))
    for name, expected in case.under("out.after.").items():
        mine = our_name(name)
        assert mine is not None, name
        value = own[mine] if mine in own else net.state_dict()[mine]
        done.append(output(name, value, expected))
    return done


def _groups(example: Mapping[str, Any]) -> list[Comparison]:
    settings = example["settings"]
    assert settings["bias_lr_factor"] == 1.0
    config = published(
        settings["base_lr"],
        settings["weight_decay"],
        tables=settings["weight_decay_embedding"],
        gates=settings["weight_decay_wg"],
        factor=settings["wg_lr_facetor"],
    )
    names: dict[str, Tensor] = {}
    for theirs in example["groups"]:
        mine = _whole(theirs)
        if mine is not None:
            names[mine] = torch.zeros((2,) * _dimensions(mine))
    found = {name: g for g in parameter_groups(Named(names), config, ()) for name in g["names"]}
    done = []
    for theirs, recorded in example["groups"].items():
        mine = _whole(theirs)
        if mine is None:
            continue
        group = found[mine]
        done.append(exact(f"{theirs}: decay", group["weight_decay"], recorded["weight_decay"]))
        done.append(loss(f"{theirs}: rate", group["lr_scale"] * settings["base_lr"], recorded["lr"]))
    return done


def _whole(theirs: str) -> str | None:
    """Return our name; an expert's is that of the stack it is in."""
    base, _, rest = theirs.partition(".experts.deepspeed_experts.")
    return our_name(f"{base}.{rest.rpartition('.')[2]}" if rest else theirs)


def _dimensions(name: str) -> int:
    """Return how many dimensions a parameter of that name has, experts aside."""
    last = name.rpartition(".")[2]
    if ".scales." in name:
        return 0
    if last == "bias" or "norm" in name or last in ("scale1", "scale2"):
        return 1
    return 4 if "patches" in name else 2


def _schedules(recorded: Mapping[str, Any]) -> list[Comparison]:
    total, base = recorded["total"], recorded["base_lr"]
    done = []
    for name, shape in (("WarmupCosine", "cosine"), ("WarmupLinear", "linear")):
        schedule = ScheduleConfig(
            name=shape, warmup=recorded["warmup"], floor=recorded["min_lr"] / base, zero_first_step=True
        )
        rates = [lr_factor(schedule, Extent(total, 0.0), s, s / total) for s in range(total + 1)]
        # Past the end the published cosine rises again; our runs have none of these steps.
        expected = [rate / base for rate in recorded["lr_at_step_0_to_60"][name][: total + 1]]
        done.append(output(name, torch.tensor(rates).double(), torch.tensor(expected).double()))
    return done

"""Kinds `optimizer_steps`, `optimizer_groups` and `lr_schedule` of SOHO: AdamW and SGD side by side."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.kinds_optim import Named
from tests.parity.runner import Case, Comparison, exact, loss, output
from torch import nn

from diptych.train.config import OptimConfig, OptimGroup, ScheduleConfig
from diptych.train.optim import build_optimizer, parameter_groups, set_lr, total_norm
from diptych.train.schedule import Extent, lr_factor


def published(config: Mapping[str, Any], match: tuple[str, ...]) -> OptimConfig:
    """Translate the optimizer of a case: AdamW for all but the parameters that match."""
    sgd = config["sgd"]
    if sgd.get("dampening", 0) or sgd.get("nesterov", False):
        raise NotImplementedError("SGD with dampening or Nesterov's momentum is not published")
    return OptimConfig(
        name="adamw_published",
        decay="all",
        lr=config["lr"],
        betas=config.get("betas", (0.9, 0.999)),
        eps=config.get("eps", 1e-6),
        weight_decay=config["adamw_weight_decay"],
        groups={
            "cnn": OptimGroup(
                match=match,
                name="sgd",
                lr=sgd["lr"],
                momentum=sgd["momentum"],
                weight_decay=sgd["weight_decay"],
            )
        },
    )


def check_steps(case: Case) -> list[Comparison]:
    """Repeat the recorded steps with joint clipping."""
    meta, start = case.meta["config"], case.under("w.")
    task = Named(start)
    config = published(meta, tuple(meta["sgd"]["params"]))
    optimizer = build_optimizer(task, config, ())
    set_lr(optimizer, config.lr)
    norms = case.meta.get("notes", {}).get("norm_before_clip", [])
    steps = 1 + max(int(n.removeprefix("in.step").split(".")[0]) for n in case.tensors if n[:7] == "in.step")
    done = []
    for step in range(steps):
        for name in start:
            gradient = case.tensors.get(f"in.step{step}.{name}.grad")
            task.get_parameter(name).grad = None if gradient is None else gradient.clone()
        norm = total_norm(task.parameters(), meta.get("grad_clip") or 0.0)
        if step < len(norms):
            done.append(loss(f"step{step} norm", norm, norms[step]))
        optimizer.step()
        for name in start:
            done.append(
                output(f"step{step}.{name}", task.get_parameter(name), case.tensors[f"out.step{step}.{name}"])
            )
    return done


def check_groups(case: Case) -> list[Comparison]:
    """Group parameters of the recorded names; the frozen ones are in no group of ours."""
    recorded = case.meta["groups"]
    trained = [group for group in recorded if group["trainable"]]
    sgd = [group for group in trained if group["rule"] == "sgd"]
    adamw = [group for group in trained if group["rule"] == "adamw"]
    rules = {
        "lr": adamw[0]["lr"],
        "adamw_weight_decay": adamw[0]["adamw_weight_decay"],
        # Where all convolutions are frozen nothing tells what SGD would be.
        "sgd": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-4}
        if not sgd
        else {
            "lr": sgd[0]["lr"],
            "momentum": sgd[0]["momentum"],
            "weight_decay": sgd[0]["sgd_weight_decay"],
        },
    }
    config = published(rules, ("backbone.*",))
    task = Named({group["name"]: torch.zeros(1) for group in recorded})
    for group in recorded:
        task.get_parameter(group["name"]).requires_grad_(group["trainable"])
    found = {name: g for g in parameter_groups(task, config, ()) for name in g["names"]}
    done = [exact("trained parameters", sorted(found), sorted(g["name"] for g in trained))]
    for group in trained:
        mine, name = found[group["name"]], group["name"]
        rule = "sgd" if mine["rule"] == "sgd" else "adamw"
        done.append(exact(f"{name}: rule", rule, group["rule"]))
        done.append(exact(f"{name}: decay", mine["weight_decay"], group[f"{rule}_weight_decay"]))
        done.append(loss(f"{name}: rate", mine["lr_scale"] * config.lr / group["lr"], 1.0))
        if rule == "sgd":
            done.append(exact(f"{name}: momentum", mine["momentum"], group["momentum"]))
    return done


def check_schedule(case: Case) -> list[Comparison]:
    """Compare the rate of every group at every iteration of the recorded runs."""
    done = []
    for number, run in enumerate(case.meta["runs"]):
        each = run["iters_per_epoch"]
        steps = each * run["epochs"]
        schedule = ScheduleConfig(
            name="step",
            warmup=run["warmup_iters"],
            warmup_from=run.get("warmup_ratio", 1 / 3),
            milestones=tuple(each * epoch for epoch in run["milestones"]),
            gamma=run.get("gamma", 0.1),
        )
        peaks = run["base_lr"]
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": p / peaks[0]} for p in peaks]
        optimizer = torch.optim.SGD(groups, lr=peaks[0])
        rates = []
        for step in range(steps):
            set_lr(optimizer, peaks[0] * lr_factor(schedule, Extent(steps, 0.0), step, step / steps))
            rates.append([group["lr"] / p for group, p in zip(optimizer.param_groups, peaks, strict=True)])
        # Relative to the peak: rates are too small for an absolute comparison.
        expected = [[rate / p for rate, p in zip(row, peaks, strict=True)] for row in run["lr"]]
        done.append(
            output(
                f"run {number}",
                torch.tensor(rates, dtype=torch.float64),
                torch.tensor(expected, dtype=torch.float64),
            )
        )
    return done

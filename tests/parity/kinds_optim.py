"""Kinds `adamw_steps`, `optimizer_groups` and `lr_schedules`: how published EVE weights were trained."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, loss, output
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.systems.eve.keys import POSITION_IDS
from diptych.systems.eve.system import SYSTEM
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.train.config import OptimConfig, ScheduleConfig
from diptych.train.optim import build_optimizer, parameter_groups, set_lr
from diptych.train.schedule import Extent, lr_factor

MULTIPLES = (1.0, 10.0)
"""What `lr_mult` of the recorded groups was."""


class Named(Task):
    """A task that is nothing but parameters with given (dotted) names."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(VisionLanguageModel(), TaskConfig(name="named"), None)  # type: ignore[arg-type]
        for name, value in parameters.items():
            module: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(value.clone()))

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        return frozenset()

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        raise NotImplementedError

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        raise NotImplementedError


def check_steps(case: Case) -> list[Comparison]:
    """Repeat the recorded steps. Of four parameters the odd ones are not decayed, the last two are fresh."""
    meta, start = case.meta, case.under("in.param")
    # By its name a parameter comes into its group.
    names = {number: f"p{number}.{'bias' if int(number) % 2 else 'weight'}" for number in sorted(start)}
    task = Named({name: start[number] for number, name in names.items()})
    config = OptimConfig(
        name="adamw_published",
        decay="published",
        lr=meta["lr"],
        weight_decay=meta["weight_decay"],
        betas=meta["betas"],
        eps=meta["eps"],
        lr_mult=MULTIPLES[1],
    )
    fresh = {name for number, name in names.items() if int(number) % 4 >= 2}
    optimizer = build_optimizer(task, config, fresh)
    set_lr(optimizer, config.lr)
    done = [exact("bias correction", True, meta["correct_bias"])]
    for step in range(_steps(case.under("out.step"))):
        for number, name in names.items():
            task.get_parameter(name).grad = case.tensors[f"in.grad.step{step}.param{number}"].clone()
        optimizer.step()
        for number, name in names.items():
            what = f"step{step}.param{number}"
            done.append(output(what, task.get_parameter(name), case.tensors[f"out.{what}"]))
    return done


def _steps(names: Iterable[str]) -> int:
    return 1 + max(int(name.split(".")[0]) for name in names)


def check_groups(case: Case) -> list[Comparison]:
    """Group parameters of the recorded published names as our optimizer does, under our names for them."""
    meta = case.meta
    recorded = [name for group in meta["groups"] for name in group["params"]]
    values = {name: torch.zeros(1) for name in recorded}
    ours = SYSTEM.state_from_published(values)
    published = {name: [theirs] for name, theirs in SYSTEM.published_names(ours).items()}
    published |= {name: _published({name: ours[name]}) for name in ours if name.startswith("model.")}
    # What has no name with us keeps its own.
    published |= {name: [name] for name in set(recorded).difference(*published.values())}
    task = Named({name: ours.get(name, torch.zeros(1)) for name in published})
    fresh = set(meta["init_params_missing_from_checkpoint"])
    peak = meta["adamw"]["lr"]
    config = OptimConfig(
        decay="published",
        lr=peak,
        lr_mult=max(group["lr"] for group in meta["groups"]) / peak,
        weight_decay=max(group["weight_decay"] for group in meta["groups"]),
    )
    fresh_ours = {name for name, theirs in published.items() if fresh.issuperset(theirs)}
    groups = parameter_groups(task, config, fresh_ours, SYSTEM.published_names(ours))
    found = {(g["lr_scale"] != 1, g["weight_decay"] != 0): g for g in groups}
    done = [exact("number of groups", len(groups), len(meta["groups"]))]
    for group in meta["groups"]:
        key = (group["lr"] > peak, group["weight_decay"] > 0)
        label = f"{'fresh' if key[0] else 'loaded'}, {'decayed' if key[1] else 'not decayed'}"
        mine = found.get(key, {"names": [], "lr_scale": 0.0, "weight_decay": -1.0})
        names = sorted(theirs for name in mine["names"] for theirs in published[name])
        done.append(exact(f"{label}: names", names, sorted(group["params"])))
        done.append(exact(f"{label}: weight decay", mine["weight_decay"], group["weight_decay"]))
        done.append(loss(f"{label}: rate", mine["lr_scale"] * peak / group["lr"], 1.0))
    return done


def _published(state: Mapping[str, Tensor]) -> list[str]:
    """Return the published names of weights; of stacked experts there are several."""
    return [name for name in SYSTEM.state_to_published(state) if not name.endswith(POSITION_IDS)]


def check_schedules(case: Case) -> list[Comparison]:
    """Compare the rates of every step of a run for both groups; nothing is trained after its end."""
    done = []
    for number, recorded in enumerate(case.meta["cases"]):
        config, rates = recorded["config"], recorded["lr_per_step_for_groups_with_mult_1_and_10"]
        steps = config["epochs"] * config["step_per_epoch"]
        ours = _rates(config, steps)
        label = f"{number} ({config['sched']})"
        done.append(exact(f"{label}: steps", len(ours), len(rates[:steps])))
        # Relative to the peak: rates are too small for an absolute comparison.
        scale = torch.tensor([m * config["lr"] for m in MULTIPLES], dtype=torch.float64)
        expected = torch.tensor(rates[:steps], dtype=torch.float64) / scale
        done.append(output(label, torch.tensor(ours, dtype=torch.float64) / scale, expected))
    return done


def _rates(published: Mapping[str, Any], steps: int) -> list[list[float]]:
    """Return the rates [steps][group] that an optimizer gets under our schedule."""
    peak = published["lr"]
    cosine = published["sched"] == "cos"
    schedule = ScheduleConfig(
        name="cosine" if cosine else "linear",
        warmup=published["num_warmup_steps"],
        final=published.get("eta_min", 0.0) / peak if cosine else 0.0,
        zero_first_step=True,
    )
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": m} for m in MULTIPLES]
    optimizer = torch.optim.SGD(groups, lr=peak)
    rates = []
    for step in range(steps):
        set_lr(optimizer, peak * lr_factor(schedule, Extent(steps, 0.0), step, step / steps))
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates

"""Parameter groups, the optimizer, the average of the weights."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diptych.errors import ConfigError
from diptych.systems.task import Task
from diptych.train.adamw import AdamWPublished
from diptych.train.config import OptimConfig, OptimGroup
from diptych.train.lamb import Lamb
from diptych.train.moments import local_part
from diptych.train.norms import tensor_norms

PUBLISHED_UNDECAYED = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")
"""Parts of published names whose parameters the published EVE code does not decay."""


@dataclass(frozen=True)
class _Way:
    """How a parameter is trained: `optim`, or what a group of it says instead."""

    name: str
    lr: float
    weight_decay: float
    decay: str
    betas: tuple[float, float]
    eps: float
    momentum: float

    @classmethod
    def of(cls, config: OptimConfig, group: OptimGroup | None) -> "_Way":
        def value(field: str) -> Any:
            own = None if group is None else getattr(group, field)
            return getattr(config, field) if own is None else own

        return cls(**{field.name: value(field.name) for field in fields(cls)})


def group_of(config: OptimConfig, name: str) -> OptimGroup | None:
    """Return the first group of `optim.groups` that a parameter belongs to, if any."""
    groups = config.groups.values()
    return next((g for g in groups if any(fnmatchcase(name, p) for p in g.match)), None)


def freeze(task: Task, config: OptimConfig) -> list[str]:
    """Take the gradient from the parameters of `frozen` groups, and return their names.

    Raises:
        ConfigError: a group without parameters, or nothing is left to train.
    """
    names = [name for name, _ in task.named_parameters()]
    for label, group in config.groups.items():
        if not any(group_of(config, name) is group for name in names):
            shown = ", ".join(names[:3])
            raise ConfigError(
                f"optim.groups.{label}.match = {list(group.match)}: no parameter is called like that "
                f"(or all belong to an earlier group); they are called {shown}, ..."
            )
    found = []
    for name, parameter in task.named_parameters():
        own = group_of(config, name)
        if own is not None and own.name == "frozen":
            parameter.requires_grad = False
            found.append(name)
    if not any(parameter.requires_grad for parameter in task.parameters()):
        raise ConfigError("optim.groups: every parameter is frozen, nothing is left to train")
    return found


def parameter_groups(
    task: Task, config: OptimConfig, fresh: Collection[str], published: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return up to four groups for each way of training: {decayed, not} x {normal rate, times `lr_mult`}.

    With `optim.layer_decay` there are as many for each block of the model. There is one way, `optim`, and one
    for each of `optim.groups`. Parameters that are cut over ranks (`DTensor`) are in groups apart: kernels
    take one kind at a time.

    With `optim.decay` = `ours` not decayed are parameters with fewer than two dimensions, those whose name
    ends in `bias` (experts hold theirs stacked), and those that the system names in `undecayed`. With
    `published` they are those whose published name holds one of `PUBLISHED_UNDECAYED`.

    Args:
        task: its parameters that require gradients are grouped.
        config: all but the betas and eps of torch's optimizer enter.
        fresh: names of the parameters that `init_from` did not fill; empty when the run starts afresh.
        published: name of a parameter -> its published name, for `optim.decay` = `published`; names that it
            lacks (parts that nobody published) are judged as they stand.

    Returns:
        Groups with `params`, `names`, `weight_decay`, `lr_scale` and what their rule needs; empty ones are
        left out.
    """
    undecayed = {f"model.{name}" for name in task.model.undecayed()}

    def decays(way: _Way, name: str, parameter: nn.Parameter) -> bool:
        if way.decay == "all":
            return True
        if way.decay == "published":
            theirs = (published or {}).get(name, name)
            return not any(part in theirs for part in PUBLISHED_UNDECAYED)
        return parameter.ndim >= 2 and not name.endswith("bias") and name not in undecayed

    ways = [_Way.of(config, group) for group in (None, *config.groups.values())]
    depths, behind = depths_of(task) if config.layer_decay < 1 else ({}, 0)
    groups: dict[tuple[_Way, bool, bool, bool, int], dict[str, Any]] = {}
    kinds = itertools.product(ways, (False, True), (False, True), (True, False), range(behind + 1))
    for way, spread, is_fresh, decayed, above in kinds:
        scale = 1.0 if way.lr == config.lr else way.lr / config.lr
        groups[way, decayed, is_fresh, spread, above] = {
            "params": [],
            "names": [],
            "rule": way.name,
            "weight_decay": way.weight_decay if decayed else 0.0,
            "lr_scale": scale * (config.lr_mult if is_fresh else 1.0) * config.layer_decay**above,
        } | _of_the_rule(way)
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            way = _Way.of(config, group_of(config, name))
            above = behind - depths.get(name, behind)
            spread = isinstance(parameter, DTensor)
            group = groups[way, decays(way, name, parameter), name in fresh, spread, above]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def depths_of(task: Task) -> tuple[dict[str, int], int]:
    """Return how deep in the model each parameter lies, and the depth of what is behind all blocks.

    0 is what the model registers before its blocks (embeddings), i + 1 is block i; what comes after the
    blocks, and the heads of tasks, have no entry. A model with blocks in several towers counts them in the
    order in which `fsdp_units` names them, unless it says otherwise (`VisionLanguageModel.depths`).
    """
    own = task.model.depths()
    found = {f"model.{name}": depth for name, depth in own.items()}
    return found, max(own.values(), default=0) + 1


def _of_the_rule(way: _Way) -> dict[str, Any]:
    return {"momentum": way.momentum} if way.name == "sgd" else {"betas": way.betas, "eps": way.eps}


class Optimizers(torch.optim.Optimizer):
    """Several optimizers over parameters of their own, as one: shared groups and shared state."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        # The groups are the parts' own dictionaries, so that a new rate reaches them.
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = list(parts)
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def build_optimizer(
    task: Task, config: OptimConfig, fresh: Collection[str], published: Mapping[str, str] | None = None
) -> torch.optim.Optimizer:
    """Build the optimizers that `optim.name` and `optim.groups` say over `parameter_groups`, as one.

    `adamw` is torch's fused AdamW. `adamw_published` adds eps before the bias correction and decays after
    the update; the difference is of the order lr * weight_decay * update and below what a change of seed
    does. `lamb` see `Lamb`. `sgd` adds the decay to the gradient, then the gradient to its momentum.
    """
    by_rule: dict[str, list[dict[str, Any]]] = {}
    for group in parameter_groups(task, config, fresh, published):
        by_rule.setdefault(group["rule"], []).append(group)
    parts: list[torch.optim.Optimizer] = []
    for rule, groups in by_rule.items():
        if rule == "sgd":
            parts.append(torch.optim.SGD(groups, lr=config.lr, fused=True))
        elif rule == "adamw_published":
            parts.append(AdamWPublished(groups, lr=config.lr))
        elif rule == "lamb":
            parts.append(Lamb(groups, lr=config.lr))
        else:
            parts.append(torch.optim.AdamW(groups, lr=config.lr, fused=True))
    return parts[0] if len(parts) == 1 else Optimizers(parts)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state as "<slot>/<parameter name>" -> tensor (parameters never updated have none)."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{slot}/{name}"] = value
    return tensors


def make_slots(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter the state that it would have before its first update, to be filled in place."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # The fused kernel walks memory and trusts that moments are laid out like their parameter
            # (channels last, transposed).
            like = parameter.detach()
            if group["rule"] == "sgd":
                # A momentum of zero is what the first update starts from.
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(like)}
                continue
            dtype, device = like.dtype, like.device
            if group["rule"] in ("adamw_published", "lamb"):
                dtype, device = torch.float32, torch.device("cpu")
            zeros = {slot: torch.zeros_like(like, dtype=dtype) for slot in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=device), **zeros}


def drop_unused_slots(optimizer: torch.optim.Optimizer) -> None:
    """Take the state from parameters that were never updated, as if `make_slots` had not made it."""
    for parameter, state in list(optimizer.state.items()):
        if "step" in state and state["step"].item() == 0:
            del optimizer.state[parameter]


def total_norm(
    parameters: Iterable[nn.Parameter],
    clip: float,
    record: Callable[[Sequence[nn.Parameter], Tensor], None] | None = None,
    gradients: Callable[[Sequence[nn.Parameter]], Sequence[Tensor]] | None = None,
) -> Tensor:
    """Return the global norm of the gradients and, if `clip` > 0, scale them down to it.

    Args:
        parameters: those without a gradient are left out.
        clip: largest norm; 0: nothing is scaled.
        record: is given the parameters with gradients and the norm of each gradient (before scaling).
        gradients: returns the gradients of some parameters as `DTensor`s where ranks hold parts of them but
            the parameters do not say so.
    """
    found = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in found if p.grad is not None]
    norms = tensor_norms(grads if gradients is None else gradients(found))
    norm: Tensor = torch.linalg.vector_norm(norms)
    if record is not None:
        record(found, norms)
    if clip > 0 and grads:
        factor = torch.clamp(clip / (norm + 1e-6), max=1.0)
        torch._foreach_mul_([local_part(g) for g in grads], factor)
    return norm


class Average:
    """An exponential moving average of a task's parameters.

    The decay starts at 1/10 and rises to its value as (1 + step) / (10 + step), so that the first weights do
    not
    linger.
    """

    def __init__(self, task: Task, decay: float) -> None:
        self.decay = decay
        self._live = dict(task.named_parameters())
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}
        """Parameter name -> averaged value."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current weights after the step with number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # Ranks move the parts that they hold.
        averages = [local_part(average) for average in self.tensors.values()]
        torch._foreach_lerp_(averages, [local_part(p.detach()) for p in self._live.values()], 1 - decay)

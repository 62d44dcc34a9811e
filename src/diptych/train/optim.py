"""Parameter groups, the optimizer, the average of the weights."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diptych.systems.task import Task
from diptych.train.adamw import AdamWPublished, local_part
from diptych.train.config import OptimConfig
from diptych.train.norms import tensor_norms

PUBLISHED_UNDECAYED = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")
"""Parts of published names whose parameters the published EVE code does not decay."""


def parameter_groups(
    task: Task, config: OptimConfig, fresh: Collection[str], published: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return up to four groups: {decayed, not decayed} x {normal rate, rate times `optim.lr_mult`}.

    Parameters that are cut over ranks (`DTensor`) are in groups apart: kernels take one kind at a time.
    With `optim.decay` = `ours` not decayed are parameters with fewer than two dimensions, those whose name
    ends in `bias` (experts hold theirs stacked), and those that the system names in `undecayed`. With
    `published` they are those whose published name holds one of `PUBLISHED_UNDECAYED`.

    Args:
        task: its parameters that require gradients are grouped.
        config: `weight_decay`, `lr_mult` and `decay` are read.
        fresh: names of the parameters that `init_from` did not fill; empty when the run starts afresh.
        published: name of a parameter -> its published name, for `optim.decay` = `published`; names that it
            lacks (parts that nobody published) are judged as they stand.

    Returns:
        Groups with `params`, `names`, `weight_decay` and `lr_scale`; empty ones are left out.
    """
    undecayed = {f"model.{name}" for name in task.model.undecayed()}

    def decays(name: str, parameter: nn.Parameter) -> bool:
        if config.decay == "published":
            theirs = (published or {}).get(name, name)
            return not any(part in theirs for part in PUBLISHED_UNDECAYED)
        return parameter.ndim >= 2 and not name.endswith("bias") and name not in undecayed

    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {}
    for spread in (False, True):
        for is_fresh in (False, True):
            for decayed in (True, False):
                groups[decayed, is_fresh, spread] = {
                    "params": [],
                    "names": [],
                    "weight_decay": config.weight_decay if decayed else 0.0,
                    "lr_scale": config.lr_mult if is_fresh else 1.0,
                }
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            group = groups[decays(name, parameter), name in fresh, isinstance(parameter, DTensor)]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(
    task: Task, config: OptimConfig, fresh: Collection[str], published: Mapping[str, str] | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer that `optim.name` says over `parameter_groups`.

    `adamw` is torch's fused AdamW. `adamw_published` adds eps before the bias correction and decays after
    the update; the difference is of the order lr * weight_decay * update and below what a change of seed
    does.
    """
    groups = parameter_groups(task, config, fresh, published)
    rule: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.name == "adamw_published":
        return AdamWPublished(groups, **rule)
    return torch.optim.AdamW(groups, fused=True, **rule)


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
            dtype, device = like.dtype, like.device
            if isinstance(optimizer, AdamWPublished):
                dtype, device = torch.float32, torch.device("cpu")
            zeros = {slot: torch.zeros_like(like, dtype=dtype) for slot in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=device), **zeros}


def drop_unused_slots(optimizer: torch.optim.Optimizer) -> None:
    """Take the state from parameters that were never updated, as if `make_slots` had not made it."""
    for parameter, state in list(optimizer.state.items()):
        if state["step"].item() == 0:
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

"""Parameter groups, the optimizer, the average of the weights."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.systems.task import Task
from diptych.train.config import OptimConfig
from diptych.train.norms import tensor_norms

SLOTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


def parameter_groups(task: Task, config: OptimConfig, fresh: Collection[str]) -> list[dict[str, Any]]:
    """Return up to four groups: {decayed, not decayed} x {normal rate, rate times `optim.lr_mult`}.

    Not decayed are parameters with fewer than two dimensions, those whose name ends in `bias` (experts hold
    theirs stacked), and those that the system names in `undecayed`.

    Args:
        task: its parameters that require gradients are grouped.
        config: `weight_decay` and `lr_mult` are read.
        fresh: names of the parameters that `init_from` did not fill; empty when the run starts afresh.

    Returns:
        Groups with `params`, `names`, `weight_decay` and `lr_scale`; empty ones are left out.
    """
    undecayed = {f"model.{name}" for name in task.model.undecayed()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for is_fresh in (False, True):
        for decayed in (True, False):
            groups[decayed, is_fresh] = {
                "params": [],
                "names": [],
                "weight_decay": config.weight_decay if decayed else 0.0,
                "lr_scale": config.lr_mult if is_fresh else 1.0,
            }
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not name.endswith("bias") and name not in undecayed
            group = groups[decays, name in fresh]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(task: Task, config: OptimConfig, fresh: Collection[str]) -> torch.optim.AdamW:
    """Build AdamW over `parameter_groups`.

    It is torch's fused AdamW. Published EVE code adds eps before the bias correction and decays after the
    update;
    the difference is of the order lr * weight_decay * update and below what a change of seed does.
    """
    groups = parameter_groups(task, config, fresh)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


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


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if f"step/{name}" in tensors:
                state = {slot: tensors[f"{slot}/{name}"] for slot in SLOTS}
                # The fused kernel walks memory and trusts that moments are laid out like their parameter
                # (channels last, transposed); tensors out of a file never are.
                for slot in ("exp_avg", "exp_avg_sq"):
                    state[slot] = torch.empty_like(parameter.detach()).copy_(state[slot])
                state["step"] = state["step"].to(parameter.device)
                optimizer.state[parameter] = state


def total_norm(
    parameters: Iterable[nn.Parameter],
    clip: float,
    record: Callable[[Sequence[nn.Parameter], Tensor], None] | None = None,
) -> Tensor:
    """Return the global norm of the gradients and, if `clip` > 0, scale them down to it.

    `record` is given the parameters with gradients and the norm of each gradient (before scaling).
    """
    found = [p for p in parameters if p.grad is not None]
    norms = tensor_norms([p.grad for p in found if p.grad is not None])
    norm: Tensor = torch.linalg.vector_norm(norms)
    if record is not None:
        record(found, norms)
    if clip > 0:
        torch.nn.utils.clip_grads_with_norm_(found, clip, norm)
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
        torch._foreach_lerp_(
            list(self.tensors.values()), [p.detach() for p in self._live.values()], 1 - decay
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back the averages of a checkpoint."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

"""What optimizers with two moments of each gradient have in common."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def local_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Moments(torch.optim.Optimizer):
    """Base of optimizers whose state of a parameter is that of `torch.optim.AdamW`.

    It holds `step` (a scalar on the CPU), `exp_avg` and `exp_avg_sq`, both float32 whatever the parameter is.

    Args:
        params: parameters, or groups with `lr` and `weight_decay` of their own.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: see the subclass.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            found = [p for p in group["params"] if p.grad is not None]
            if found:
                self._move(found, group)
        return loss

    @abstractmethod
    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of a group; all have a gradient."""

    def _slots(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter, made at its first update."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(())} | {
                slot: torch.zeros_like(parameter, dtype=torch.float32) for slot in ("exp_avg", "exp_avg_sq")
            }
        return state

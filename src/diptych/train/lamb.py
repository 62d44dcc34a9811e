"""LAMB: AdamW whose update of each tensor is as long as the tensor, times the rate."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from diptych.train.moments import Moments, local_part
from diptych.train.norms import tensor_norms


class Lamb(Moments):
    """LAMB by the rule that published Uni-Perceiver uses (that of Apex, decoupled decay, bias correction).

    With moments m and v corrected for their bias, the update is u = m / (sqrt(v) + eps) + decay * w, and
    w moves by rate * (|w| / |u|) * u. The factor |w| / |u| is 1 in groups without decay, and where either
    norm is 0. Norms are those of whole tensors, also where ranks hold parts of them (`DTensor`). The rule's
    own limit on the global norm of the gradient (1) is left to `train.clip`.

    The state of a parameter is that of `torch.optim.AdamW`: `step` (a scalar on the CPU), `exp_avg` and
    `exp_avg_sq`, both float32 whatever the parameter is.

    Args:
        params: parameters, or groups with `lr` and `weight_decay` of their own.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: added to the update, times the weight.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = [self._update(parameter, group) for parameter in parameters]
        scaled = group["weight_decay"] != 0
        factors = torch.ones(len(parameters))
        if scaled:
            lengths = tensor_norms([p.detach() for p in parameters])
            # An update is laid out like its parameter, so that its norm is taken over the same ranks.
            own = tensor_norms(updates)
            factors = torch.where((lengths > 0) & (own > 0), lengths / own, torch.ones_like(own))
        for parameter, update, factor in zip(parameters, updates, factors.unbind(), strict=True):
            weight = local_part(parameter.detach())
            weight.sub_((local_part(update) * (float(group["lr"]) * factor)).to(weight.dtype))

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what a parameter is to move along, laid out like it."""
        slots = self._slots(parameter)
        slots["step"] += 1
        number = int(slots["step"].item())
        beta1, beta2 = group["betas"]
        assert parameter.grad is not None
        gradient = parameter.grad.detach().float()
        slots["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        slots["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        first = slots["exp_avg"] / (1 - beta1**number)
        root = (slots["exp_avg_sq"] / (1 - beta2**number)).sqrt() + group["eps"]
        update: Tensor = first / root
        if group["weight_decay"] != 0:
            update = update + group["weight_decay"] * parameter.detach().float()
        return update

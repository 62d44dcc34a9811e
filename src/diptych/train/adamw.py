"""AdamW as the published EVE code has it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.train.moments import Moments, local_part

_AT_A_TIME = 2**25


def _pieces(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list into pieces of at most 2^25 numbers, so that an update needs little memory of its own."""
    piece: list[Tensor] = []
    numbers = 0
    for parameter in parameters:
        size = local_part(parameter.detach()).numel()
        if piece and numbers + size > _AT_A_TIME:
            yield piece
            piece, numbers = [], 0
        piece.append(parameter)
        numbers += size
    yield piece


class AdamWPublished(Moments):
    """AdamW by the rule of transformers 4.12, which published EVE weights were trained with.

    Two things differ from torch's: eps is added to the root of the second moment before its bias is
    corrected, so it weighs more in the first steps (by 1 / sqrt(1 - beta2^t)); and decay comes after the
    update, of the weights already moved. Everything is element by element, so ranks update the parts of a
    `DTensor` that they hold.

    The state of a parameter is that of `torch.optim.AdamW`: `step` (a scalar on the CPU), `exp_avg` and
    `exp_avg_sq`, both float32 whatever the parameter is.

    Args:
        params: parameters, or groups with `lr` and `weight_decay` of their own.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: what a step takes off, times the rate.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        steps = [self._slots(parameter)["step"] for parameter in parameters]
        torch._foreach_add_(steps, 1)
        # A parameter that no loss has reached for a while has made fewer steps than the others.
        by_step: dict[int, list[Tensor]] = defaultdict(list)
        for parameter, step in zip(parameters, steps, strict=True):
            by_step[int(step.item())].append(parameter)
        for number, alike in by_step.items():
            for piece in _pieces(alike):
                self._update(piece, number, group)

    def _update(self, parameters: list[Tensor], step: int, group: dict[str, Any]) -> None:
        """Make update number `step` (from 1) of some parameters of a group."""
        lr, eps, decay = float(group["lr"]), group["eps"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        weights = [local_part(p.detach()) for p in parameters]
        exact = [w.float() for w in weights]  # float32 weights themselves, copies of others
        grads = [local_part(p.grad).float() for p in parameters if p.grad is not None]
        first = [local_part(self.state[p]["exp_avg"]) for p in parameters]
        second = [local_part(self.state[p]["exp_avg_sq"]) for p in parameters]
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_add_(roots, eps)
        size = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        torch._foreach_addcdiv_(exact, first, roots, -size)
        if decay > 0:
            torch._foreach_add_(exact, exact, alpha=-lr * decay)
        copies = [(w, e) for w, e in zip(weights, exact, strict=True) if w is not e]
        if copies:
            torch._foreach_copy_([w for w, _ in copies], [e for _, e in copies])

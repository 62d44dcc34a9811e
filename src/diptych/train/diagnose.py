"""What to say about a loss or gradient that is not finite."""

from collections.abc import Sequence

from torch import Tensor

from diptych.systems.task import Loss, Task

SHOWN = 8


def describe(task: Task, losses: Sequence[Loss], norm: Tensor) -> str:
    """Return the loss with its parts (means over the step's batches) and which gradients are not finite."""
    total = _mean([loss.total for loss in losses])
    parts = [f"{name} {_mean([loss.parts[name] for loss in losses]):.6g}" for name in losses[0].parts]
    bad = [n for n, p in task.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    found = f"gradients that are not finite: {shorten(bad)}" if bad else "all gradients are finite"
    return f"loss {total:.6g} ({', '.join(parts) or 'no parts'}), gradient norm {norm.item():.6g}, {found}"


def shorten(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names, and how many there are beyond them."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _mean(values: Sequence[Tensor]) -> float:
    return sum(value.item() for value in values) / len(values)

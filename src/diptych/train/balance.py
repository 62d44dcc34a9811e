"""How large the gradient of each task is: what its loss pulls the weights with."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from diptych.blocks.collective import World


def task_norms(
    pieces: Mapping[str, Tensor],
    labels: Sequence[str],
    parameters: Iterable[nn.Parameter],
    world: World,
) -> dict[str, Tensor]:
    """Return label -> norm of the gradient of what a task adds to the loss, over all parameters.

    The graph stays for the backward pass of the step, and no `grad` is touched.

    Args:
        pieces: `Loss.pieces` of this rank.
        labels: of all tasks, in an order that all ranks have.
        parameters: those that are trained.
        world: the ranks whose mean is the gradient; alone, where a batch is one rank's own.
    """
    found = {}
    trained = [p for p in parameters if p.requires_grad]
    for label in labels:
        grads: Sequence[Tensor | None] = [None] * len(trained)
        if label in pieces:
            grads = torch.autograd.grad(pieces[label], trained, retain_graph=True, allow_unused=True)
        elif world.size == 1:
            continue
        if world.size == 1:
            norms = torch._foreach_norm([g.float() for g in grads if g is not None])
            found[label] = torch.linalg.vector_norm(torch.stack(norms))
            continue
        flat = [
            torch.zeros(p.numel(), device=p.device) if g is None else g.float().flatten()
            for g, p in zip(grads, trained, strict=True)
        ]
        norm = torch.linalg.vector_norm(world.sum(torch.cat(flat)) / world.size)
        if label in pieces:
            found[label] = norm
    return found

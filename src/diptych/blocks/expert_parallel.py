"""Experts spread over ranks: every rank holds some of them, and rows travel to their expert and back.

N ranks form N / k groups of k neighbours. The ranks of a group hold E / k experts each of every mixture
(rank i of a group the i-th part), so a group holds all of them; groups hold the same. Everything else is held
as before. In memory an expert parameter is this rank's slice [E / k, ...] under its ordinary name; in
checkpoints it is the whole [E, ...], whatever the number of ranks.

Legend: N rows, D width, E experts, k ranks of a group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from diptych.blocks.collective import World
from diptych.blocks.moe import Apply, Experts, Mixture
from diptych.errors import ConfigError


@dataclass(frozen=True)
class ExpertGroup:
    """The expert parameters of a task that are spread over ranks; without any, every method does nothing."""

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    """Name in the task -> this rank's slice [E / k, ...]."""
    world: int = 1
    """Ranks of the run."""
    mesh: DeviceMesh | None = None
    """[groups, k]: rank `i` of a group holds the i-th part of the experts."""

    def reduce_gradients(self) -> None:
        """Turn the gradients into the average over all ranks, as data parallelism does for the others.

        Call it once a step, after the last backward pass. Rows of the whole group were summed up there
        already; what is left is the sum over groups.
        """
        if self.mesh is None:
            return
        pending = []
        for parameter in self.parameters.values():
            if parameter.grad is None:  # no mixture was used here; another group may have used it
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.div_(self.world)
            if self.mesh.size(0) > 1:
                pending.append(dist.all_reduce(parameter.grad, group=self.mesh.get_group(0), async_op=True))
        for work in pending:
            work.wait()

    def sum_squares(self, squares: Tensor) -> Tensor:
        """Return sums over the ranks of a group of [n] squared norms of slices: those of whole tensors."""
        if self.mesh is None:
            return squares
        total = squares.detach().clone()
        dist.all_reduce(total, group=self.mesh.get_group(1))
        return total

    @torch.no_grad()
    def norm_squares(self) -> dict[str, Tensor]:
        """Return name -> squared norm of the whole gradient (of all experts); equal on all ranks.

        Call it after `reduce_gradients`.
        """
        if not self.parameters:
            return {}
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
        squares = torch.stack([norm.float().square() for norm in torch._foreach_norm(grads)])
        return dict(zip(self.parameters, self.sum_squares(squares).unbind(), strict=True))

    def as_dtensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with every slice of experts as a `DTensor` of the whole, sharing its memory.

        What a tensor belongs to is told by the part of its key after the last "/" ("optim/exp_avg/<name>").
        Saved by `torch.distributed.checkpoint` they are whole, and are read in place on any number of ranks.
        """
        if self.mesh is None:
            return dict(tensors)
        placements = (Replicate(), Shard(0))
        return {
            key: DTensor.from_local(tensor.detach(), self.mesh, placements, run_check=False)
            if self._is_slice(key, tensor)
            else tensor
            for key, tensor in tensors.items()
        }

    def local(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors with those of experts cut to this rank's slice; keys as in `as_dtensors`."""
        if self.mesh is None:
            return dict(tensors)
        part, parts = self.mesh.get_local_rank(1), self.mesh.size(1)
        return {
            key: tensor.chunk(parts)[part] if self._is_whole(key, tensor) else tensor
            for key, tensor in tensors.items()
        }

    def _is_slice(self, key: str, tensor: Tensor) -> bool:
        parameter = self.parameters.get(key.rpartition("/")[2])
        return parameter is not None and not isinstance(tensor, DTensor) and tensor.shape == parameter.shape

    def _is_whole(self, key: str, tensor: Tensor) -> bool:
        parameter = self.parameters.get(key.rpartition("/")[2])
        return parameter is not None and tensor.shape[1:] == parameter.shape[1:] and tensor.dim() > 0


class Exchange:
    """Brings rows to the ranks of a group that hold their experts, and the results back."""

    def __init__(self, group: Any, size: int) -> None:
        self.group, self.size = group, size

    def __call__(self, experts: Apply, x: Tensor, counts: list[int]) -> Tensor:
        """Apply all experts of the group to rows [N, D] sorted by expert.

        Every rank of the group has to call it equally often, also with no rows at all.

        Args:
            experts: applies the experts that are held here.
            x: [N, D].
            counts: rows of each of the E experts.
        """
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # what the experts would do anyway
        sent = torch.tensor(counts, device=x.device).view(self.size, -1)  # [to, E / k]
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        arrived = received.tolist()  # [from, E / k]
        out, back = sent.sum(1).tolist(), [sum(row) for row in arrived]
        rows = self._move(x, out, back)
        by_expert = _by_expert(received)
        own = [sum(column) for column in zip(*arrived, strict=True)]
        served = experts(rows.index_select(0, by_expert), own)
        order = torch.empty_like(by_expert)
        order[by_expert] = torch.arange(len(by_expert), device=x.device)
        return self._move(served.index_select(0, order), back, out)

    def _move(self, x: Tensor, sizes: list[int], arriving: list[int]) -> Tensor:
        moved: Tensor = _Move.apply(x, sizes, arriving, self.group)  # type: ignore[no-untyped-call]
        return moved


class _Move(torch.autograd.Function):
    """All-to-all of rows; gradients travel the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], arriving: list[int], group: Any) -> Tensor:
        ctx.sizes, ctx.arriving, ctx.group = sizes, arriving, group
        return _all_to_all(x, sizes, arriving, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grads[0], ctx.arriving, ctx.sizes, ctx.group), None, None, None


def _all_to_all(x: Tensor, sizes: list[int], arriving: list[int], group: Any) -> Tensor:
    moved = x.new_empty(sum(arriving), x.shape[1])
    dist.all_to_all_single(moved, x.contiguous(), arriving, sizes, group=group)
    return moved


def _by_expert(counts: Tensor) -> Tensor:
    """Return the order [N] that sorts rows, which come by (sender, expert), by (expert, sender).

    `counts` [senders, experts] are the rows of each block.
    """
    senders, experts = counts.shape
    expert = torch.arange(experts, device=counts.device).expand(senders, -1).reshape(-1)
    return expert.repeat_interleave(counts.reshape(-1)).argsort(stable=True)


def shard_experts(task: nn.Module, world: World, ranks: int) -> ExpertGroup:
    """Spread the experts of every mixture of a task over groups of `ranks` ranks.

    All ranks call it with equal weights, on the final device, before wrappers, optimizer and averages are
    made. Expert parameters become new, smaller parameters of the same names.

    Args:
        task: what holds the mixtures.
        world: all ranks of the run.
        ranks: ranks that share the experts of a mixture (`train.expert_parallel`); 1: nothing is spread.

    Raises:
        ConfigError: the number divides neither the ranks nor the experts of some mixture, or there are none.
    """
    if ranks == 1:
        return ExpertGroup()
    mixtures = {name: part for name, part in task.named_modules() if isinstance(part, Mixture)}
    _check(mixtures, world.size, ranks)
    weight = next(iter(mixtures.values())).experts.fc1_weight
    # Sharded training moves weights to the GPU later; what the ranks talk with is known already.
    device = "cuda" if "nccl" in dist.get_backend(world.group) else weight.device.type
    mesh = init_device_mesh(device, (world.size // ranks, ranks), mesh_dim_names=("groups", "experts"))
    exchange = Exchange(mesh.get_group(1), ranks)
    parameters = {}
    for name, mixture in mixtures.items():
        _cut(mixture.experts, mesh.get_local_rank(1), ranks)
        mixture.experts.elsewhere = exchange
        for part, parameter in mixture.experts.named_parameters():
            parameters[f"{name}.experts.{part}"] = parameter
    return ExpertGroup(parameters, world.size, mesh)


def _check(mixtures: Mapping[str, Mixture], size: int, ranks: int) -> None:
    key = f"train.expert_parallel = {ranks}"
    if not mixtures:
        raise ConfigError(f"{key}: the model has no mixture of experts; set train.expert_parallel=1")
    if size % ranks:
        raise ConfigError(
            f"{key} does not divide the {size} processes of the run; expected one of {_divisors(size)}"
        )
    for name, mixture in mixtures.items():
        experts = len(mixture.experts.fc1_weight)
        if experts % ranks:
            raise ConfigError(
                f"{key} does not divide the {experts} experts of {name}; expected one of "
                f"{[n for n in _divisors(size) if experts % n == 0]}, or change the number of experts"
            )


def _divisors(number: int) -> Sequence[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _cut(experts: Experts, part: int, parts: int) -> None:
    for name, parameter in list(experts.named_parameters()):
        slice_ = parameter.detach().chunk(parts)[part].clone()  # a view would keep the whole alive
        setattr(experts, name, nn.Parameter(slice_, parameter.requires_grad))

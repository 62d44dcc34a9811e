"""How a task is copied (DDP) or cut (FSDP2) over ranks, and its blocks made cheaper in memory or time."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from diptych.blocks.collective import World, set_world
from diptych.blocks.expert_parallel import ExpertGroup, shard_experts
from diptych.blocks.moe import keep_eager
from diptych.blocks.router import Router
from diptych.data.batch import Batch
from diptych.errors import ConfigError
from diptych.systems.task import Loss, StepContext, Task
from diptych.train.config import TrainConfig


class Parallel:
    """A task that is trained by all ranks together. After it is made, the task's parameters are final.

    Gradients are averages over ranks: the ranks' losses have to be shares of the loss of the global batch
    (`World.mean`). Parameters keep their names; with FSDP they are `DTensor`s.
    """

    def __init__(self, task: Task, config: TrainConfig, world: World, device: torch.device) -> None:
        self.task, self.world = task, world
        self.mode = chosen(config, world)
        set_world(task, world)
        # With FSDP units move to the device as they are cut, so that it never holds all of a large model.
        if self.mode != "fsdp" or config.expert_parallel > 1:
            task.to(device)
        self.experts: ExpertGroup = shard_experts(task, world, config.expert_parallel)
        units = task.model.fsdp_units()
        if config.activation_checkpointing:
            for unit in units:
                _recompute(unit)
        if config.compile != "off":
            keep_eager(task)
            for unit in units:
                unit.compile(backend=config.compile)
        self._scalars: list[nn.Parameter] = []
        self._whole: nn.Module = _Step(task)
        if self.mode == "ddp":
            self._copy()
        elif self.mode == "fsdp":
            self._cut(units, config, device)

    def __call__(self, batch: Batch, context: StepContext) -> Loss:
        """Return the task's loss of this rank's part of a batch."""
        loss: Loss = self._whole(batch, context)[1]
        return loss

    @contextlib.contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Within it, go forward and backward with a batch; only after the last one gradients are reduced."""
        if isinstance(self._whole, FSDPModule):
            self._whole.set_requires_gradient_sync(last)
            self._whole.set_is_last_backward(last)
            yield
        elif isinstance(self._whole, DistributedDataParallel) and not last:
            with self._whole.no_sync():
                yield
        else:
            yield

    def finish_gradients(self) -> None:
        """Reduce what the wrappers leave alone; once a step, after the last backward pass."""
        self.experts.reduce_gradients()
        _average(self._scalars, self.world)

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the gradients of parameters that have one, as `DTensor`s where ranks hold parts of them."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if not self.experts.parameters:
            return grads
        names = {id(p): name for name, p in self.experts.parameters.items()}
        keys = [f"{i}/{names.get(id(p), '')}" for i, p in enumerate(parameters)]
        return list(self.experts.as_dtensors(dict(zip(keys, grads, strict=True))).values())

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a snapshot, as `DTensor`s where ranks hold parts of them."""
        return self.experts.as_dtensors(tensors)

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on rank 0, and nothing elsewhere; all ranks call it.

        Those that had to be put together are in host memory.
        """
        whole = {}
        for name, tensor in self.spread(tensors).items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.is_main:
                whole[name] = full.cpu() if isinstance(tensor, DTensor) else full
        return whole

    def _copy(self) -> None:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self._whole, [f"task.{name}" for name in self.experts.parameters]
        )
        self._whole = DistributedDataParallel(
            self._whole,
            # Buffers are kept equal by the modules that have them; rank 0's would undo what they agreed on.
            forward_sync_buffers=False,
            # Objectives come and go in a run, and batches of ranks may need different parts of a model.
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def _cut(self, units: Sequence[nn.Module], config: TrainConfig, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (self.world.size,))
        whole_types = MixedPrecisionPolicy()
        unit_types = whole_types
        if config.precision == "bf16":
            # Weights travel and multiply in bf16, gradients are added up in float32. On a GPU the residual
            # stream stays float32, as under autocast alone; CPU norms want inputs and weights of one type.
            unit_types = MixedPrecisionPolicy(
                torch.bfloat16, torch.float32, cast_forward_inputs=device.type == "cpu"
            )
        self._scalars = [p for p in self.task.parameters() if p.ndim == 0]  # nothing to cut in them
        left = {*self._scalars, *self.experts.parameters.values()}
        for parameter in self.task.parameters():  # FSDP refuses channels-last weights of convolutions
            parameter.data = parameter.data.contiguous()
        _check_types(self.task, units)
        for unit in units:
            for router in (m for m in unit.modules() if isinstance(m, Router)):
                fully_shard(router, mesh=mesh, mp_policy=whole_types)  # gates are float32, weights included
            fully_shard(unit, mesh=mesh, mp_policy=unit_types, ignored_params=left)
        fully_shard(self._whole, mesh=mesh, mp_policy=whole_types, ignored_params=left)
        for parameter in left:
            parameter.data = parameter.data.to(device)


class _Step(nn.Module):
    """A task whose output begins with the tensor that wrappers look for."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch, context: StepContext) -> tuple[Tensor, Loss]:
        """Return the loss to go backward from, and all of it."""
        loss: Loss = self.task(batch, context)
        return loss.total, loss


def chosen(config: TrainConfig, world: World) -> str:
    """Return `none`, `ddp` or `fsdp`: what `train.parallel` means for these ranks."""
    if config.parallel == "fsdp":
        return "fsdp"
    return "ddp" if world.size > 1 else "none"


def _check_types(task: nn.Module, units: Sequence[nn.Module]) -> None:
    """Refuse weights that FSDP cuts together and trains in several types; what is frozen may have any."""
    names = {parameter: name for name, parameter in task.named_parameters() if parameter.requires_grad}
    inside = [[p for p in unit.parameters() if p in names] for unit in units]
    met = {p for group in inside for p in group}
    for group in [*inside, [p for p in names if p not in met]]:
        types = {p.dtype: names[p] for p in group}
        if len(types) > 1:
            found = ", ".join(f"{name} in {str(kind).removeprefix('torch.')}" for kind, name in types.items())
            raise ConfigError(
                f"train.parallel = fsdp: {found} are cut together and trained, expected one type; freeze "
                "what is kept in bf16 (optim.groups, name=frozen), or keep it in float32 "
                "(system.language.dtype=fp32) with train.precision=bf16"
            )


def _average(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Average the gradients of a few small parameters; one that no rank has used keeps none."""
    if not parameters or world.size == 1:
        return
    device = parameters[0].device
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    held = torch.stack(
        [p.grad.float() if p.grad is not None else torch.zeros((), device=device) for p in parameters]
    )
    sums = world.sum(torch.stack([held, used]))
    for parameter, total, users in zip(parameters, *sums.unbind(), strict=True):
        if users > 0:
            parameter.grad = (total / world.size).to(parameter.dtype)


def _recompute(unit: nn.Module) -> None:
    """Keep only a block's inputs for the backward pass, which runs the block again."""
    forward: Callable[..., Any] = unit.forward
    social = [part for part in unit.modules() if isinstance(getattr(part, "world", None), World)]
    # Layers that were told something for this forward alone (partial LoRA) need it again.
    told: list[Any] = [part for part in unit.modules() if hasattr(part, "checkpoint_contexts")]

    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        more: dict[str, Any] = {"use_reentrant": False}
        if told:
            more["context_fn"] = lambda: _contexts(told)
        if not social:
            return checkpoint(forward, *args, **more, **kwargs)
        worlds: list[Any] = [part.world for part in social]

        def as_then(*args: Any, **kwargs: Any) -> Any:
            """Run with the ranks of the first time: by now the block may have served other ones."""
            now: list[Any] = [part.world for part in social]
            _meet(social, worlds)
            try:
                return forward(*args, **kwargs)
            finally:
                _meet(social, now)

        return checkpoint(as_then, *args, **more, **kwargs)

    unit.forward = recomputed


def _contexts(parts: Sequence[Any]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what all of them want to be run in: the first time, and again."""

    @contextlib.contextmanager
    def within(contexts: Sequence[AbstractContextManager[None]]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            yield

    first, again = zip(*(part.checkpoint_contexts() for part in parts), strict=True)
    return within(first), within(again)


def _meet(parts: Sequence[Any], worlds: Sequence[World]) -> None:
    for part, world in zip(parts, worlds, strict=True):
        part.world = world

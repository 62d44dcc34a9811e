"""Floating-point operations of a training step, counted once and scaled by tokens.

What is counted are the matrix products and convolutions that run, forward and backward (with what activation
checkpointing repeats), by the formulas of `torch.utils.flop_counter`; everything else is small beside them.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

TRIES = 8
"""Steps that are counted at most in search of one kind of step."""


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query.shape, key.shape, value.shape)  # type: ignore[no-untyped-call]
    return count


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = (grad.shape, query.shape, key.shape, value.shape)
    count: int = sdpa_backward_flop_count(*shapes)  # type: ignore[no-untyped-call]
    return count


def _grouped_product(a: Tensor, b: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Count one product a group; what is split into groups may be rows, columns or the inner dimension."""
    if a.dim() == b.dim() == 2:  # [M, K] x [K, N], split along K: one [M, N] a group
        return 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return 2 * out_val.numel() * a.shape[-1]


def _product(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight.shape[0]


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return the formulas of torch, and those that it lacks for kernels that a step may run."""
    aten = torch.ops.aten
    lacking: dict[str, Callable[..., int]] = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
        "_grouped_mm": _grouped_product,
    }
    own = {getattr(aten, name): formula for name, formula in lacking.items() if hasattr(aten, name)}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        own[torch.ops.mkldnn._linear_pointwise] = _product
    return {**own, **flop_registry}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of what runs inside the context.

    Unlike torch's own mode it takes no operation apart and hooks into no module, so what is computed is the
    same to the last bit.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        """Operations so far; a multiplication and an addition are two."""
        self._formulas = _formulas()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and add its count."""
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(getattr(func, "_overloadpacket", func))
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class StepFlops:
    """Knows how many operations a token costs in every kind of step, from counting one step of each kind.

    Steps are of one kind if their losses have the same parts: a matching loss that begins late, or tasks that
    take turns, make steps of different cost. The first step is counted, and one more whenever a kind turns up
    that was not seen.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.counted: dict[frozenset[str], tuple[int, Tensor]] = {}
        """Kind of step -> operations and tokens of the step that was counted."""
        self._wanted: dict[frozenset[str] | None, int] = {None: 0} if enabled else {}
        self._counter: FlopCounter | None = None

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what runs inside, if the step is one to count."""
        if not self._wanted:
            yield
            return
        self._counter = FlopCounter()
        with _uncompiled(), self._counter:
            yield

    def end_step(self, kind: frozenset[str], tokens: Tensor) -> None:
        """Tell which kind of step it was and how many tokens it had (scalar)."""
        if not self.enabled:
            return
        if self._counter is not None:
            self.counted[kind] = (self._counter.total, tokens)
            self._counter = None
            self._wanted.pop(None, None)
            self._wanted.pop(kind, None)
            # A kind that never comes back must not keep the counter running.
            self._wanted = {k: tries + 1 for k, tries in self._wanted.items() if tries + 1 < TRIES}
        elif kind not in self.counted:
            self._wanted.setdefault(kind, 0)

    def of(self, tokens: Mapping[frozenset[str], Tensor]) -> float | None:
        """Return the operations of steps with so many tokens of each kind; None before anything is counted.

        A kind that was not counted yet costs what the last one that was counted costs.
        """
        if not self.counted:
            return None
        total = 0.0
        for kind, number in tokens.items():
            operations, counted = self.counted.get(kind) or next(reversed(self.counted.values()))
            total += operations * float(number) / max(float(counted), 1.0)
        return total


def _uncompiled() -> Any:
    """Return a context in which compiled modules run as written: the counter sees no generated code."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()

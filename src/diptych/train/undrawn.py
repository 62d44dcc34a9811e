"""Building a model whose weights come from a file: the draws for fresh ones are left out.

At full size they take minutes on one core. Weights are zero instead, so every one must be filled afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_uniform_,
}


class Undrawn(TorchFunctionMode):
    """While it is on, functions that fill a tensor with random numbers in place fill it with zeros.

    Zeros, not whatever was there: `trunc_normal_` draws again until all numbers are within its range.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or fill its first argument with zeros if it draws."""
        del types
        if func in _DRAWS:
            tensor: Tensor = args[0] if args else (kwargs or {})["tensor"]
            tensor.detach().zero_()
            return tensor
        return func(*args, **(kwargs or {}))

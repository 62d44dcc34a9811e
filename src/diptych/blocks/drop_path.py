"""Stochastic depth."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, drop the branch of whole samples with probability `rate`; scale the kept by 1/keep."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a branch [B, ...]."""
        if not self.training or self.rate == 0.0:
            return x
        return x * (self._drawn(x) / (1.0 - self.rate))

    def add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + self(branch(x)) [B, ...], on a CPU without the work for samples that are dropped.

        Args:
            x: [B, ...].
            branch: Turns any number of the samples into what is added to them; nothing else reads what it
                returns. It is called once, with one sample at least, so that all of its parameters get a
                gradient.
        """
        if not self.training or self.rate == 0.0:
            return x + branch(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # the host would wait for the draw there
            added: Tensor = self(branch(x))
            return x + added
        drawn = self._drawn(x).flatten()
        kept, scale = drawn.nonzero().flatten(), 1.0 / (1.0 - self.rate)
        if len(kept) == len(x):
            return torch.add(x, branch(x), alpha=scale)
        if not len(kept):
            kept, scale = kept.new_zeros(1), 0.0
        return x.index_add(0, kept, branch(x.index_select(0, kept)), alpha=scale)

    def _drawn(self, x: Tensor) -> Tensor:
        """Draw one or zero for each sample [B, 1, ...]."""
        drawn = torch.empty(x.shape[0], *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return drawn.bernoulli_(1.0 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate in the module's printout."""
        return f"rate={self.rate:g}"

"""Queues of features of earlier batches, and the slowly following copies of encoders that make them.

Legend: N rows of a batch, K places, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World

Wrap = Literal["ring", "published"]
"""What happens at the end of the queue. ring: the rest of a batch goes to the front. published (SNP-S3): a
batch that does not fit is put into the last places, and the next one begins at the front."""


class FeatureQueue(nn.Module):
    """The newest K features of all ranks, with match ids. All state is in buffers, equal on all ranks."""

    features: Tensor
    """[K, D] float32; random unit vectors where nothing was put yet."""
    ids: Tensor
    """[K] int64: match ids; 0 where none was given."""
    pointer: Tensor
    """Scalar int64: the place that is written next."""
    filled: Tensor
    """Scalar int64: places from the front that hold features."""

    def __init__(self, places: int, width: int, wrap: Wrap = "ring") -> None:
        super().__init__()
        self.wrap = wrap
        self.world: World = ALONE
        self.register_buffer("features", nn.functional.normalize(torch.randn(places, width), dim=1))
        self.register_buffer("ids", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def used(self) -> Tensor:
        """[K] bool: places that hold features. (SNP-S3 takes the random ones for negatives too.)"""
        return torch.arange(len(self.ids), device=self.ids.device) < self.filled

    @torch.no_grad()
    def put(self, features: Tensor, ids: Tensor | None = None) -> None:
        """Add the rows of all ranks, in the order of ranks; the oldest go. All ranks call it together.

        A batch with a number that is not finite is left out. Of a batch longer than the queue the last K
        rows are put in.

        Args:
            features: [N, D] of this rank.
            ids: [N] int64 match ids of the rows, if they have any.
        """
        sizes = self.world.sizes(len(features), features.device)
        ids = self.ids.new_zeros(len(features)) if ids is None else ids
        places = len(self.ids)
        rows = self.world.gather(features.detach().to(self.features.dtype), sizes)
        numbers = self.world.gather(ids, sizes)
        start, end = self._range(len(rows))
        skipped = max(len(rows) - places, 0)
        rows, numbers = rows[skipped:], numbers[skipped:]
        slots = (start + skipped + torch.arange(len(rows), device=rows.device)) % places
        good = rows.isfinite().all()
        self.features[slots] = torch.where(good, rows, self.features[slots])
        self.ids[slots] = torch.where(good, numbers, self.ids[slots])
        self.pointer.copy_(torch.where(good, end % places, self.pointer))
        self.filled.copy_(torch.where(good, torch.maximum(self.filled, end.clamp(max=places)), self.filled))

    def _range(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the first place of a batch of `number` rows, and the one behind its last, not wrapped."""
        end = self.pointer + number
        if self.wrap == "published":
            end = end.clamp(max=len(self.ids))
        return end - number, end


@torch.no_grad()
def follow(copy: nn.Module, live: nn.Module, momentum: float) -> None:
    """Move the parameters of a momentum copy: copy = momentum * copy + (1 - momentum) * live.

    Buffers (running statistics) are taken over as they are.
    """
    theirs = dict(live.named_parameters())
    pairs = [(mine, theirs[name]) for name, mine in copy.named_parameters()]
    torch._foreach_lerp_([mine for mine, _ in pairs], [source.detach() for _, source in pairs], 1 - momentum)
    buffers = dict(live.named_buffers())
    for name, mine in copy.named_buffers():
        mine.copy_(buffers[name])

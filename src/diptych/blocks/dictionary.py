"""The visual dictionary of SOHO: vectors become their nearest code, codes follow the vectors they stand for.

Legend: N vectors, C width, K codes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.config.schema import Section

CHUNK = 8192
"""Vectors whose distances to all codes are held at a time."""


class DictionaryConfig(Section):
    """How a dictionary learns. The defaults are ours; `published()` is the original's behaviour."""

    codes: int = Field(2048, ge=1, description="Vectors in the dictionary.")
    decay: float = Field(0.4, ge=0, lt=1, description="Share of the old averages kept at each update.")
    eps: float = Field(1e-5, gt=0, description="Smoothing of the counts, so that no code is divided by zero.")
    start: Literal["counted", "published"] = Field(
        "counted",
        description="counted: a random code weighs as one vector at first. published: as none, so that codes "
        "that the first batch does not use become zero for good.",
    )
    revive: float = Field(
        0.0,
        ge=0,
        description="Codes whose moving count falls below this become vectors of the batch; 0: never.",
    )

    @model_validator(mode="after")
    def _used_codes_live(self) -> "DictionaryConfig":
        if self.revive >= 1 - self.decay:
            raise ValueError(
                f"revive {self.revive} must be below 1 - decay = {1 - self.decay:g}: a code that has just "
                "been used once counts that much"
            )
        return self

    def published(self) -> "DictionaryConfig":
        """Return a copy with the behaviour of the published code."""
        return self.with_(start="published", revive=0.0)


@dataclass(frozen=True)
class Quantised:
    """Vectors replaced by codes."""

    vectors: Tensor
    """[N, C] of the input's type: codes in value; the gradient passes to the input unchanged."""
    indices: Tensor
    """[N] int64: the nearest codes."""


class VisualDictionary(nn.Module):
    """Codes that are moving averages of the vectors nearest to them. All state is in buffers, in float32.

    In training every forward pass updates the codes with the vectors of all ranks (so it must not be run
    again by activation checkpointing), and returns the new codes at the indices found among the old ones, as
    published. All ranks start with equal buffers and keep them equal.
    """

    codes: Tensor
    """[K, C]"""
    sizes: Tensor
    """[K]: moving average of the vectors a code stands for at a step."""
    sums: Tensor
    """[K, C]: moving average of the sum of those vectors."""
    totals: Tensor
    """[K]: vectors a code has stood for in all."""

    def __init__(self, width: int, config: DictionaryConfig) -> None:
        super().__init__()
        self.config = config
        self.world: World = ALONE
        codes = torch.randn(config.codes, width)
        counted = config.start == "counted"
        self.register_buffer("codes", codes)
        self.register_buffer("sizes", torch.full((config.codes,), float(counted)))
        self.register_buffer("sums", codes.clone() if counted else torch.zeros_like(codes))
        self.register_buffer("totals", torch.zeros(config.codes))

    def forward(self, x: Tensor, real: Tensor | None = None, times: int = 1) -> Quantised:
        """Replace vectors [N, C] by their nearest codes.

        Args:
            x: the vectors. In training all ranks pass theirs, any number of them.
            real: [N] bool, False at vectors (padding) that the dictionary should not learn from; None: it
                learns from all, as published.
            times: how often every vector counts: that of a picture with several captions was published to be
                passed once for each.
        """
        with torch.autocast(x.device.type, enabled=False):
            flat = x.detach().float()
            indices = self.nearest(flat)
            if self.training:
                self._update(flat, indices, real, times)
            codes = self.codes.index_select(0, indices).to(x.dtype)
        return Quantised(x + (codes - x).detach(), indices)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Return [N] int64: the code nearest to each row of [N, C], the first one of equals."""
        squares = self.codes.square().sum(1)
        found = [
            (part.square().sum(1, keepdim=True) + squares - 2 * (part @ self.codes.t())).argmin(1)
            for part in x.split(CHUNK)  # type: ignore[no-untyped-call]
        ]
        return torch.cat(found)

    @torch.no_grad()
    def perplexity(self) -> Tensor:
        """Return how many codes are in use, as e to the entropy of their moving shares (scalar float32)."""
        shares = self.sizes / self.sizes.sum().clamp(min=1e-12)
        return torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum())

    @torch.no_grad()
    def _update(self, x: Tensor, indices: Tensor, real: Tensor | None, times: int) -> None:
        if real is not None:
            x, indices = x[real], indices[real]
        K, C = self.codes.shape
        # Counts beside sums, so that the ranks talk once.
        own = x.new_zeros(K, C + 1)
        own[:, :C].index_add_(0, indices, x)
        own[:, C] = torch.bincount(indices, minlength=K)
        joint = self.world.sum(own * times)
        self.totals += joint[:, C]
        new = 1 - self.config.decay
        self.sizes.lerp_(joint[:, C], new)
        self.sums.lerp_(joint[:, :C], new)
        if self.config.revive:
            self._revive(x)
        mass = self.sizes.sum()
        smooth = (self.sizes + self.config.eps) / (mass + K * self.config.eps) * mass
        self.codes.copy_(self.sums / smooth[:, None])

    def _revive(self, x: Tensor) -> None:
        """Put vectors of the batch in the place of codes that stand for hardly anything."""
        dead = self.sizes < self.config.revive
        if not bool(dead.any()):
            return
        numbers = self.world.sizes(len(x), x.device)
        if not sum(numbers):
            return
        # Rank 0 draws for all; the rank that holds a vector tells it to the others.
        draws = torch.rand(len(dead), device=x.device) if self.world.is_main else x.new_zeros(len(dead))
        rows = (self.world.sum(draws) * sum(numbers)).long().clamp(max=sum(numbers) - 1)
        rows = rows - sum(numbers[: self.world.rank])
        here = (rows >= 0) & (rows < len(x))
        chosen = x.new_zeros(self.sums.shape)
        chosen[here] = x[rows[here]]
        self.sums.copy_(torch.where(dead[:, None], self.world.sum(chosen), self.sums))
        self.sizes.masked_fill_(dead, 1.0)

"""Random numbers of the samples of a batch, the same wherever a sample is processed.

A number depends on the seed, the sample's global position and how many draws were made before it, and on
nothing else: not on the other samples of the batch, the rank, or the number of ranks. B samples.
"""

import numpy as np
import torch
from torch import Tensor

from diptych.data.order import uniforms


class Draws:
    """A stream of draws for each sample of a batch; all calls must be made in the same order everywhere.

    Attributes:
        positions: [B] int64 on the CPU, global positions of the samples.
    """

    def __init__(self, seed: int, positions: Tensor) -> None:
        self.seed = seed
        self.positions = positions.cpu()
        self._branch = 1
        self._calls = 0

    def __len__(self) -> int:
        return len(self.positions)

    def rand(self, *shape: int) -> Tensor:
        """Return [B, *shape] float32, uniform in [0, 1), on the CPU."""
        # 24 bits: rounding to float32 must not give 1.
        words = np.floor(self._units(int(np.prod(shape))) * 2.0**24) * 2.0**-24
        return torch.from_numpy(words.astype(np.float32)).view(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return [B, *shape] int64, uniform in [0, high), on the CPU; `high` is at most 2**53."""
        numbers = np.floor(self._units(int(np.prod(shape))) * high).astype(np.int64)
        return torch.from_numpy(numbers).view(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return [B, *shape] float32, standard normal, on the CPU; fast for many numbers a sample."""
        seeds = self.integers(2**53)
        drawn = torch.empty(len(self), *shape)
        generator = torch.Generator()
        for row, seed in zip(drawn, seeds.tolist(), strict=True):
            generator.manual_seed(seed)
            row.normal_(generator=generator)
        return drawn

    def some(self, count: int) -> tuple[Tensor, "Draws"]:
        """Return `count` of the samples at random, their rows [count] int64 ascending, and their draws.

        A sample's chance to be chosen is drawn by itself, so that the choice differs little between one
        process and several that choose their shares of it. What the chosen ones draw is theirs: it repeats
        nothing that the whole batch draws.
        """
        rows = self.rand().argsort(stable=True)[:count].sort().values
        chosen = Draws(self.seed, self.positions[rows])
        chosen._branch = self._stream()
        return rows, chosen

    def _stream(self) -> int:
        # A thousand calls on each branch: what they draw never meets.
        return 1000 * self._branch + self._calls

    def _units(self, count: int) -> np.ndarray:
        self._calls += 1
        return uniforms(self.seed, self.positions.numpy(), count, stream=self._stream())

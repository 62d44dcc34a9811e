"""Batch norm whose statistics are those of the batch of all ranks.

Legend: B batch, C channels, H and W height and width, R ranks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; in training on several ranks it gives what one process gives on the joined batch.

    Ranks may hold different numbers of pictures, or none. They end up with equal running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.world: World = ALONE

    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        """Normalise [B, C, H, W]; all ranks call it equally often in training.

        Args:
            x: the maps.
            times: what a batch that holds every map so many times would do, done with one of each. Only the
                running variance sees a difference: it takes the batch for a sample, and so knows its size.
        """
        if not self.training:
            return super().forward(x)
        # torch refuses a single value a channel (one small picture); here it becomes the bias.
        if self.world.size == 1 and x.numel() > x.shape[1]:
            return self._alone(x, times)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            mean, variance, count = self._statistics(wide)
            with torch.no_grad():
                self._follow(mean, variance * times * count / (times * count - 1).clamp(min=1))
            scale = self.weight * (variance + self.eps).rsqrt()
            y = (wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    def _alone(self, x: Tensor, times: int) -> Tensor:
        count = x.numel() // x.shape[1]
        if times == 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        # Autograd keeps the buffer that it is given; ours is changed once more.
        moved, kept = self.running_var.clone(), (1 - self.momentum) * self.running_var
        out = F.batch_norm(
            x,
            self.running_mean,
            moved,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )
        correction = times * (count - 1) / (times * count - 1)
        self.running_var.copy_(kept + (moved - kept) * correction)
        self.num_batches_tracked.add_(1)
        return out

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean [C], variance [C] and the number of values a channel, of all ranks.

        Each rank's own mean and squared deviations are combined, which is exact where a difference of large
        sums would not be.
        """
        count = x.new_tensor(float(x.numel() // x.shape[1]))
        mean = x.sum((0, 2, 3)) / count.clamp(min=1)
        deviation = (x - mean[:, None, None]).square().sum((0, 2, 3))
        own = torch.cat([mean, deviation, count[None]])
        ranks = self.world.gather(own[None], [1] * self.world.size)  # [R, 2C + 1]
        channels = len(mean)
        means, deviations, counts = ranks[:, :channels], ranks[:, channels:-1], ranks[:, -1:]
        total = counts.sum().clamp(min=1)
        joint = (means * counts).sum(0) / total
        variance = (deviations + counts * (means - joint).square()).sum(0) / total
        return joint, variance, total

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as torch does it (with the unbiased variance)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)

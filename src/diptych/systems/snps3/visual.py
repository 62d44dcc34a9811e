"""From frames to clip tokens.

Legend: B samples, N frames, n clips, D width, h and w rows and columns of the grid.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.pvt import Pvt
from diptych.blocks.resnet import ResNet
from diptych.blocks.video_swin import VideoSwin
from diptych.systems.snps3.config import SnpS3Config


@dataclass(frozen=True)
class Clips:
    """Clips as the joint encoder and the contrastive losses take them."""

    tokens: Tensor
    """[B, n, D] means of the grid, for the joint encoder."""
    features: Tensor
    """[B, n, D] float32 unit vectors, for contrastive losses."""


class VisualTower(nn.Module):
    """A visual encoder, means over the cells of clips, and the projection of contrastive losses."""

    def __init__(self, config: SnpS3Config) -> None:
        super().__init__()
        self.encoder: VideoSwin | Pvt | ResNet
        if config.encoder == "swin":
            self.encoder = VideoSwin(config.swin)
        elif config.encoder == "pvt":
            self.encoder = Pvt(config.pvt)
        else:
            self.encoder = ResNet(config.resnet)
        channels, D = self.encoder.out_channels, config.width
        # As published: frames seen one by one are always projected; Video Swin has the width already.
        whole = config.encoder == "swin" and channels == D
        self.projection = None if whole else nn.Conv2d(channels, D, 1)
        self.fc1 = nn.Linear(D, D)
        self.fc2 = nn.Linear(D, D)

    def grid(self, frames: Tensor) -> Tensor:
        """Turn normalised frames [B, N, 3, H, W] into [B, N, D, h, w]."""
        B, N = frames.shape[:2]
        if isinstance(self.encoder, VideoSwin):
            cells: Tensor = self.encoder(frames).flatten(0, 1)
        else:
            cells = self.encoder(frames.flatten(0, 1))
        if self.projection is not None:
            cells = self.projection(cells)
        return cells.view(B, N, *cells.shape[1:])

    def forward(self, frames: Tensor, padding: Tensor | None = None, clips: int = 0) -> Clips:
        """See normalised frames [B, N, 3, H, W].

        Args:
            frames: the frames of all clips of a sample, one clip behind the other.
            padding: [B, N, H, W] bool, True at pixels that are padding; a cell counts unless the pixel that
                stands for it is.
            clips: n, a divisor of N; 0: every frame is a clip.
        """
        cells = self.grid(frames)  # [B, N, D, h, w]
        B, N, _, h, w = cells.shape
        n = clips or N
        used = torch.ones(B, N, h, w, device=cells.device)
        if padding is not None:
            used = 1 - F.interpolate(padding.float(), size=(h, w))
        weights = used.view(B, n, -1)  # [B, n, frames h w]
        values = cells.transpose(2, 3).transpose(3, 4).reshape(B, n, -1, cells.shape[2])
        tokens = (values * weights[..., None].to(values.dtype)).sum(2) / weights.sum(2, keepdim=True).clamp(
            min=1
        )
        return Clips(tokens, self.features(tokens))

    def features(self, tokens: Tensor) -> Tensor:
        """Project clip tokens [..., D] to unit vectors, float32."""
        return F.normalize(self.fc2(F.relu(self.fc1(tokens))).float(), dim=-1)

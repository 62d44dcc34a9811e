"""From the CNN's map to visual tokens: pooling, the dictionary, positions.

Legend: B pictures, C channels of the map, D width, h and w rows and columns of tokens, P = h w tokens,
R rows (a picture may appear in several).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.batch_norm import BatchNorm
from diptych.blocks.dictionary import VisualDictionary
from diptych.blocks.sine import sine_positions
from diptych.systems.soho.config import SohoConfig

EPS = 1e-5


@dataclass(frozen=True)
class Seen:
    """Pictures as visual tokens."""

    tokens: Tensor
    """[B, P, D], normalised, positions included; row by row of the grid."""
    mask: Tensor
    """[B, P] bool: tokens that are picture."""
    indices: Tensor | None = None
    """[B, P] int64: dictionary entry of each token; None without a dictionary."""
    positions: Tensor | None = None
    """[B, P, D]: what was added for the place of a token, where there is a dictionary."""


class Neck(nn.Module):
    """Pools the map, quantises it and adds positions."""

    def __init__(self, config: SohoConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        D = config.width
        self.conv = nn.Conv2d(channels, D, 1, bias=False)
        self.bn = BatchNorm(D)
        self.norm = nn.LayerNorm(D, eps=EPS)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if config.neck == "plain":
            return
        self.align_before = nn.Linear(D, D) if config.align_before else None
        self.dictionary = VisualDictionary(D, config.dictionary)
        self.align = nn.Linear(D, D) if config.align else None
        if config.neck == "gated":
            self.gate = nn.Conv2d(2 * D, 2, 1, bias=False)
            self.gate_bn = BatchNorm(2)
            nn.init.kaiming_normal_(self.gate.weight, mode="fan_out", nonlinearity="relu")
        self.hidden_token = nn.Parameter(torch.randn(D))

    def forward(self, maps: Tensor, sizes: Tensor, frame: tuple[int, int], times: int = 1) -> Seen:
        """Turn maps [B, C, 2h, 2w] (an odd last row or column is dropped) into tokens.

        Args:
            maps: of the backbone.
            sizes: [B, 2] int64, height and width of each picture in pixels.
            frame: height and width that all were padded to.
            times: how often each picture is used; statistics count it so often, as published.
        """
        cells = F.max_pool2d(maps, 2, 2) if self.config.pool else maps
        v = self.bn(self.conv(cells), times)  # [B, D, h, w]
        mask = token_mask(sizes, frame, (v.shape[2], v.shape[3]), published=self.config.mask == "published")
        positions = sine_positions(mask, self.config.width).flatten(1, 2).to(v.dtype)
        if self.config.neck == "plain":
            return Seen(self.norm(v.flatten(2).transpose(1, 2) + positions), mask.flatten(1))
        z, indices = self._quantise(v, times)
        return Seen(self.norm(z + positions), mask.flatten(1), indices, positions)

    def _quantise(self, v: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """Mix features with their dictionary entries; returns [B, P, D] and the entries [B, P]."""
        B, D, h, w = v.shape
        flat = v.permute(0, 2, 3, 1)  # [B, h, w, D]
        before = flat if self.align_before is None else self.align_before(flat)
        found = self.dictionary(before.reshape(-1, D), times=times)
        quantised = found.vectors.view(B, h, w, D)
        a = quantised if self.align is None else self.align(quantised)
        indices = found.indices.view(B, h * w)
        if self.config.neck == "added":
            return (a + flat).flatten(1, 2), indices
        both = torch.cat([a.permute(0, 3, 1, 2), v], 1)
        weights = self.gate_bn(self.gate(both), times).softmax(1).permute(0, 2, 3, 1)  # [B, h, w, 2]
        return (weights[..., :1] * a + weights[..., 1:] * flat).flatten(1, 2), indices

    def hide(self, seen: Seen, pictures: Tensor, hidden: Tensor) -> Tensor:
        """Return the tokens of rows [R, P, D] with the learned token in the place of hidden ones.

        Args:
            seen: the pictures.
            pictures: [R] int64: the picture of each row.
            hidden: [R, P] bool.
        """
        assert seen.positions is not None
        tokens = seen.tokens[pictures]
        if not bool(hidden.any()):
            return tokens
        rows, places = hidden.nonzero(as_tuple=True)
        put = self.norm(self.hidden_token + seen.positions[pictures[rows], places])
        return tokens.index_put((rows, places), put.to(tokens.dtype))


def token_mask(sizes: Tensor, frame: tuple[int, int], grid: tuple[int, int], *, published: bool) -> Tensor:
    """Return which tokens are picture, [B, h, w] bool.

    Args:
        sizes: [B, 2] int64, height and width of each picture in pixels.
        frame: height and width that all were padded to.
        grid: h and w.
        published: measure columns by the frame's height too.
    """
    height, width = frame
    top = _starts(height, grid[0], sizes.device)
    left = _starts(height if published else width, grid[1], sizes.device)
    rows = top[None] < sizes[:, :1].clamp(max=height)
    columns = left[None] < sizes[:, 1:].clamp(max=height if published else width)
    return rows[:, :, None] & columns[:, None]


def _starts(pixels: int, cells: int, device: torch.device) -> Tensor:
    """Return the pixel that stands for each cell as torch's nearest interpolation picks it, [cells]."""
    line = torch.arange(pixels, dtype=torch.float32, device=device)
    return F.interpolate(line[None, None], size=cells, mode="nearest")[0, 0]

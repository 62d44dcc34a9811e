"""From the vision encoder's features of tiles to tokens of the language model.

Legend: N views of all pictures, s tokens along a side of a view, f merge factor, m = s / f, C width of the
encoder, D width of the language model, T tokens of all pictures.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diptych.config.schema import Section
from diptych.data.tiling_config import TilingConfig, count_tokens
from diptych.errors import ConfigError

Grid = tuple[int, int]
"""Rows and columns of a picture's tiles."""


class TilesConfig(Section):
    """How features become tokens."""

    kind: Literal["tiles", "qformer"] = Field(
        "tiles",
        description="`tiles`: features are merged and projected; `qformer`: queries read them "
        "(`system.qformer`), so that a picture or a whole video becomes a fixed number of tokens.",
    )
    merge: int = Field(
        2, ge=1, description="So many by so many neighbouring features become one token (4KHD 2, nanoVLM 4)."
    )
    projector: Literal["linear", "mlp"] = Field(
        "mlp", description="`mlp`: two layers with GELU between (4KHD); `linear`: one layer (nanoVLM)."
    )
    bias: bool = Field(True, description="Whether the projector's layers have a bias (nanoVLM: no).")


def merge_neighbours(features: Tensor, factor: int) -> Tensor:
    """Put f x f neighbours into one vector: [N, s * s, C] -> [N, m, m, f * f * C].

    Within a vector: top row of neighbours first, from left to right, each with all its channels.
    """
    N, tokens, C = features.shape
    side = round(tokens**0.5)
    m = side // factor
    cells = features.reshape(N, m, factor, m, factor, C)
    return cells.transpose(2, 3).reshape(N, m, m, factor * factor * C)


class Connector(nn.Module):
    """Merges neighbours, lays views out as one sequence a picture, and projects.

    With lines (4KHD) a sequence is the rows of the whole view, each with the newline vector behind it, the
    separator, then the rows of the whole grid of tiles with their newlines. Without, it is tile after tile.
    """

    def __init__(
        self, config: TilesConfig, tiling: TilingConfig, side: int, width: int, language_width: int
    ) -> None:
        """Build it with fresh weights.

        Args:
            config: merging and projector.
            tiling: says which views there are and how they are laid out.
            side: s.
            width: C.
            language_width: D.

        Raises:
            ConfigError: the merge factor does not divide the side.
        """
        super().__init__()
        if side % config.merge:
            raise ConfigError(
                f"merge = {config.merge}: expected a divisor of the {side} features along a side of a tile"
            )
        self.tiling = tiling
        self.merge = config.merge
        self.side = side // config.merge
        inside = width * config.merge**2
        if config.projector == "linear":
            layers: list[nn.Module] = [nn.Linear(inside, language_width, bias=config.bias)]
        else:
            first = nn.Linear(inside, language_width, bias=config.bias)
            layers = [first, nn.GELU(), nn.Linear(language_width, language_width, bias=config.bias)]
        self.projector = nn.Sequential(*layers)
        self.newline: nn.Parameter | None = None
        self.separator: nn.Parameter | None = None
        if tiling.lines:
            self.newline = nn.Parameter(torch.empty(inside).normal_(std=0.02))
            self.separator = nn.Parameter(torch.empty(inside).normal_(std=0.02))

    def count(self, rows: int, columns: int) -> int:
        """Return how many tokens a picture of such a grid becomes."""
        return count_tokens(rows, columns, self.tiling, self.side)

    def forward(self, features: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Return the tokens [T, D] of all pictures, one picture behind the other.

        Args:
            features: [N, s * s, C], the views of all pictures, each picture's as `tile_picture` orders them.
            grids: rows and columns of each picture.
        """
        out: Tensor = self.projector(self.lay_out(features, grids))
        return out

    def lay_out(self, features: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Return the merged vectors [T, f * f * C] that `forward` projects."""
        merged = merge_neighbours(features, self.merge)
        if not self.tiling.lines:
            return merged.flatten(0, 2)
        counts = [self.tiling.views(*grid) for grid in grids]
        if sum(counts) != len(merged):
            raise ValueError(f"grids {list(grids)} have {sum(counts)} views, but {len(merged)} were encoded")
        parts = zip(torch.split(merged, counts), grids, strict=True)
        return torch.cat([piece for views, grid in parts for piece in self._lines(views, *grid)])

    def _lines(self, views: Tensor, rows: int, columns: int) -> list[Tensor]:
        """Return the sequence of one picture [n, m, m, K] in pieces."""
        assert self.newline is not None
        assert self.separator is not None
        # Without a separator it has a gradient of zero, so that ranks have the same gradients.
        m, pieces = self.side, [self.separator.to(views.dtype)[None][:0]]
        if self.tiling.has_global_view(rows, columns):
            pieces = [self._with_newlines(views[0]), self.separator.to(views.dtype)[None]]
            views = views[1:]
        grid = views.view(rows, columns, m, m, -1).transpose(1, 2)  # [h, m, w, m, K]
        return [*pieces, self._with_newlines(grid.reshape(rows * m, columns * m, -1))]

    def _with_newlines(self, lines: Tensor) -> Tensor:
        """Turn lines [R, W, K] into [R * (W + 1), K]."""
        assert self.newline is not None
        ends = self.newline.to(lines.dtype).expand(len(lines), 1, -1)
        return torch.cat([lines, ends], dim=1).flatten(0, 1)

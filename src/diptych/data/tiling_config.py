"""Settings of cutting pictures into tiles. No heavy imports, for the command line."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from diptych.config.schema import Section


class TilingConfig(Section):
    """How a picture becomes tiles of `tile` x `tile` pixels, and what stands between their tokens."""

    kind: Literal["none", "hd", "closest", "nanovlm"] = Field(
        "none",
        description="`none`: one tile, the whole picture; `hd`: InternLM-XComposer2-4KHD, as many tiles "
        "along the longer side as `hd_num` allows, bars of `background` to fill up the shorter one; "
        "`closest`: InternVL, stretched to the grid of nearest shape; `nanovlm`: nanoVLM, both sides rounded "
        "up to whole tiles within `max_side`.",
    )
    tile: int = Field(336, ge=1, description="Side of a tile in pixels; the vision encoder's picture size.")
    hd_num: int = Field(
        25, ge=1, description="`hd`, `closest`: most tiles of a picture, without its whole view."
    )
    eval_hd_num: int = Field(0, ge=0, description="`hd`, `closest`: the same in evaluation; 0: `hd_num`.")
    enlarge: bool = Field(
        True,
        description="`hd`: enlarge small pictures until `hd_num` is reached, as published; false: at most as "
        "many tiles along the longer side as cover its own pixels.",
    )
    random_size: bool = Field(
        False,
        description="`hd`: in training draw the number of tiles along the longer side, between what covers "
        "the picture's own pixels and what `hd_num` allows (fine-tuning of 4KHD).",
    )
    max_side: int = Field(2048, ge=1, description="`nanovlm`: longest side in pixels, a multiple of `tile`.")
    to_max_side: bool = Field(
        False, description="`nanovlm`: bring every picture's longer side to `max_side`."
    )
    fit: Literal["squash", "pad", "crop"] = Field(
        "squash",
        description="`none`: `squash` to the square, `pad` with bars of `background`, or `crop` the middle.",
    )
    global_view: bool = Field(
        True,
        description="Put a view of the whole picture before the tiles; `closest` and `nanovlm` leave it out "
        "where there is one tile only.",
    )
    layout: Literal["auto", "lines", "tiles"] = Field(
        "auto",
        description="Order of tokens. `lines`: rows of the whole picture, a newline token after each and a "
        "separator behind the whole view; `tiles`: tile after tile, nothing between; `auto`: `lines` with "
        "`hd`, else `tiles`.",
    )
    background: str = Field(
        "white", description="Colour of bars and behind transparent pixels: a name or #rrggbb."
    )

    @field_validator("background")
    @classmethod
    def _check_colour(cls, value: str) -> str:
        from diptych.data.config import parse_colour  # which imports this module

        parse_colour(value)
        return value

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.kind == "nanovlm" and self.max_side % self.tile:
            raise ValueError(
                f"tiling.max_side = {self.max_side}: expected a multiple of tiling.tile = {self.tile}"
            )
        return self

    @property
    def lines(self) -> bool:
        """Whether tokens are laid out in rows of the whole picture, with newlines and a separator."""
        return self.layout == "lines" or (self.layout == "auto" and self.kind == "hd")

    def has_global_view(self, rows: int, columns: int) -> bool:
        """Tell whether a view of the whole picture comes before a grid of tiles."""
        if self.kind == "none" or not self.global_view:
            return False
        return self.kind == "hd" or rows * columns > 1

    def limit(self, training: bool) -> int:
        """Return the most tiles of a picture, without its whole view, of `hd` and `closest`."""
        return self.hd_num if training or not self.eval_hd_num else self.eval_hd_num

    def most_views(self, training: bool) -> int:
        """Return the most views of a picture."""
        tiles = {"none": 1, "nanovlm": (self.max_side // self.tile) ** 2}.get(self.kind, self.limit(training))
        return tiles + (self.kind != "none" and self.global_view)

    def views(self, rows: int, columns: int) -> int:
        """Return how many tiles go through the vision encoder for a grid, the whole view included."""
        return rows * columns + self.has_global_view(rows, columns)


def count_tokens(rows: int, columns: int, config: TilingConfig, side: int) -> int:
    """Return how many tokens of the language model a picture becomes; known before any pixel is read.

    Args:
        rows: of the grid of tiles.
        columns: of the grid of tiles.
        config: of the tiling.
        side: tokens along one side of a tile after merging (12 for CLIP ViT-L/14-336 merged 2 x 2).

    With lines, m = `side`, h rows, w columns: (h w + 1) m^2 + 1 + (h + 1) m, as published for 4KHD.
    """
    whole = config.has_global_view(rows, columns)
    tokens = config.views(rows, columns) * side * side
    if config.lines:
        tokens += rows * side + (side + 1 if whole else 0)
    return tokens

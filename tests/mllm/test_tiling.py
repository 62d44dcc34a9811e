"""Pictures as tiles: the partition of 4KHD and others, by hand and against slow rules."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from diptych.data.tiling import TilingConfig, count_tokens, plan_tiles, tile_picture

SIDES = st.integers(1, 6000)


def hd(limit: int, **more: object) -> TilingConfig:
    return TilingConfig(kind="hd", hd_num=limit, **more)


@pytest.mark.parametrize(
    ("size", "limit", "columns", "rows", "tokens"),
    [
        ((336, 336), 9, 3, 3, 1489),
        ((640, 480), 55, 8, 6, 7141),
        ((480, 640), 25, 4, 5, 3097),
        ((1000, 300), 16, 6, 2, 1909),
        ((300, 1000), 55, 4, 13, 7801),
        ((1080, 1920), 9, 2, 3, 1057),
        ((3840, 1600), 55, 11, 5, 8137),
        ((3024, 336), 16, 9, 1, 1465),
        ((100, 1000), 9, 1, 9, 1561),
    ],
)
def test_published_grids_and_token_counts(
    size: tuple[int, int], limit: int, columns: int, rows: int, tokens: int
) -> None:
    plan = plan_tiles(*size, hd(limit))
    assert (plan.columns, plan.rows) == (columns, rows)
    assert count_tokens(rows, columns, hd(limit), 12) == tokens


@pytest.mark.parametrize(("limit", "most"), [(9, 1561), (16, 2653), (25, 4057), (55, 8737)])
def test_most_tokens_are_those_of_the_paper(limit: int, most: int) -> None:
    grids = [(r, c) for r in range(1, limit + 1) for c in range(1, limit + 1) if r * c <= limit]
    counts = {grid: count_tokens(*grid, hd(limit), 12) for grid in grids}
    assert max(counts.values()) == most
    assert max(counts, key=counts.__getitem__) == (limit, 1)


@given(SIDES, SIDES, st.integers(1, 60))
def test_partition_keeps_its_promises(width: int, height: int, limit: int) -> None:
    config = hd(limit)
    plan = plan_tiles(width, height, config)
    along, across = max(plan.rows, plan.columns), min(plan.rows, plan.columns)
    assert along * across <= limit
    # The longer side is covered exactly, the other one as far as its shape says, in the middle.
    canvas = plan.columns * 336, plan.rows * 336
    spare = canvas[0] - plan.width, canvas[1] - plan.height
    long = 0 if width >= height else 1
    assert spare[long] == 0
    assert 0 <= spare[1 - long] < 336
    before, after = (plan.left, plan.top)[1 - long], spare[1 - long] - (plan.left, plan.top)[1 - long]
    assert after - before in (0, 1)
    content = plan.width, plan.height
    ratio = max(width, height) / min(width, height)
    assert content[1 - long] == max(1, int(content[long] / ratio))
    # One more tile along the longer side would be too many.
    assert (along + 1) * math.ceil((along + 1) / ratio) > limit


@given(SIDES, SIDES, st.integers(1, 60))
def test_a_turned_picture_has_the_turned_grid(width: int, height: int, limit: int) -> None:
    plan, turned = plan_tiles(width, height, hd(limit)), plan_tiles(height, width, hd(limit))
    assert (plan.rows, plan.columns) == (turned.columns, turned.rows)
    assert (plan.width, plan.height, plan.left, plan.top) == (
        turned.height,
        turned.width,
        turned.top,
        turned.left,
    )


@given(
    st.sampled_from(["none", "hd", "closest", "nanovlm"]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from(["squash", "pad", "crop"]),
)
def test_every_kind_cuts_every_picture(
    kind: str, width: int, height: int, limit: int, whole: bool, fit: str
) -> None:
    config = TilingConfig(
        kind=kind, tile=8, hd_num=limit, max_side=32, global_view=whole, fit=fit, background="black"
    )
    pixels = np.full((height, width, 3), 200, dtype=np.uint8)
    plan, tiled = plan_tiles(width, height, config), tile_picture(pixels, config)
    assert tiled.grid == (plan.rows, plan.columns)
    assert tiled.tiles.shape == (config.views(*tiled.grid), 3, 8, 8)
    assert tiled.tiles.dtype == torch.uint8
    # The picture is one colour: what is not background is all of it.
    shown = tiled.tiles[len(tiled.tiles) - plan.rows * plan.columns :]
    area = min(plan.width, plan.columns * 8) * min(plan.height, plan.rows * 8)
    assert int((shown == 200).sum()) == 3 * area
    assert int((shown == 0).sum()) == shown.numel() - 3 * area


def numbered(rows: int, columns: int, side: int) -> np.ndarray:
    """Return a picture whose cells of side x side have the colours 10, 20, 30, ... row by row."""
    cells = 10 * np.arange(1, rows * columns + 1, dtype=np.uint8).reshape(rows, columns)
    grey = cells.repeat(side, 0).repeat(side, 1)
    return np.stack([grey, grey + 1, grey + 2], -1)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 3), (3, 1)])
def test_tiles_are_in_reading_order_behind_the_whole_view(rows: int, columns: int) -> None:
    # No resizing: the picture has just the pixels that the grid has.
    tiled = tile_picture(numbered(rows, columns, 4), hd(rows * columns, tile=4))
    assert tiled.grid == (rows, columns)
    assert len(tiled.tiles) == 1 + rows * columns
    for number, tile in enumerate(tiled.tiles[1:], 1):
        for channel in range(3):
            assert tile[channel].unique().tolist() == [10 * number + channel]


def test_bars_of_a_portrait_picture_are_left_and_right_and_nothing_is_rotated() -> None:
    # 5 x 8 pixels on one tile of 8 x 8: nothing is resized. The top half is 50, the bottom half 100.
    picture = np.full((8, 5, 3), 50, dtype=np.uint8)
    picture[4:] = 100
    picture[:, 4] += 20  # a mark on the right
    tiled = tile_picture(picture, hd(1, tile=8))
    assert tiled.grid == (1, 1)
    tile = tiled.tiles[1][0]
    assert (tile[:, 0] == 255).all()  # 3 spare columns: one left, two right
    assert (tile[:, 6:] == 255).all()
    assert tile[0, 1:6].tolist() == [50, 50, 50, 50, 70]
    assert tile[7, 1:6].tolist() == [100, 100, 100, 100, 120]


def test_whole_view_of_a_picture_without_detail_is_the_picture() -> None:
    tiled = tile_picture(np.full((4, 8, 3), 77, dtype=np.uint8), hd(2, tile=4))
    assert (tiled.tiles[0] == 77).all()


def test_extremely_thin_pictures_have_a_pixel_at_least() -> None:
    plan = plan_tiles(60000, 1, hd(9))
    assert (plan.rows, plan.columns, plan.height) == (1, 9, 1)
    assert plan_tiles(1, 60000, hd(9)).width == 1


def test_pictures_of_no_size_are_refused() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        plan_tiles(0, 5, hd(9))


def test_transparency_shows_the_background() -> None:
    picture = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    tiled = tile_picture(picture, TilingConfig(tile=4, background="#0102ff"))
    assert tiled.tiles[0, :, 0, 0].tolist() == [1, 2, 255]


def test_small_pictures_stay_small_without_enlarging() -> None:
    assert plan_tiles(300, 200, hd(25, enlarge=False))[:2] == (1, 1)
    assert plan_tiles(700, 200, hd(25, enlarge=False))[:2] == (1, 3)
    assert plan_tiles(9000, 9000, hd(25, enlarge=False)) == plan_tiles(9000, 9000, hd(25))


def test_random_sizes_lie_between_the_pictures_own_and_the_largest() -> None:
    config = hd(25, random_size=True)
    # 700 x 700: three tiles cover it, five are allowed.
    found = [plan_tiles(700, 700, config, draw).columns for draw in (0.0, 0.3, 0.34, 0.66, 0.67, 0.999, 1.0)]
    assert found == [3, 3, 4, 4, 5, 5, 5]
    assert plan_tiles(700, 700, config).columns == 5
    # More pixels than are allowed: always the largest.
    assert {plan_tiles(5000, 5000, config, draw).columns for draw in (0.0, 0.5, 1.0)} == {5}


def test_evaluation_may_have_another_limit() -> None:
    config = hd(9, eval_hd_num=16)
    assert plan_tiles(336, 336, config, training=True).columns == 3
    assert plan_tiles(336, 336, config).columns == 4
    assert plan_tiles(336, 336, hd(9)).columns == 3


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((448, 448), (1, 1)),
        ((800, 400), (1, 2)),  # 2 x 4 has the same shape, but the picture has less than half of its pixels
        ((1600, 800), (2, 4)),
        ((400, 800), (2, 1)),
        ((1000, 250), (1, 4)),
        ((100, 3000), (12, 1)),
        ((1024, 768), (3, 4)),
    ],
)
def test_closest_grid_by_hand(size: tuple[int, int], grid: tuple[int, int]) -> None:
    config = TilingConfig(kind="closest", tile=448, hd_num=12)
    plan = plan_tiles(*size, config)
    assert (plan.rows, plan.columns) == grid
    assert config.views(*grid) == math.prod(grid) + (grid != (1, 1))


@given(st.integers(1, 5000), st.integers(1, 5000), st.booleans())
@example(1487, 1487, False)
def test_nanovlm_rounds_both_sides_up(width: int, height: int, largest: bool) -> None:
    config = TilingConfig(kind="nanovlm", tile=512, max_side=2048, to_max_side=largest)
    plan = plan_tiles(width, height, config)
    long, short = max(width, height), min(width, height)
    along = 4 if largest else min(4, -(-long // 512))
    # Enough tiles across for the shape, and not one more; where it fits exactly, rounding may add one.
    landscape = width >= height
    across = plan.rows if landscape else plan.columns
    exact = Fraction(short * along, long)
    assert exact <= across <= math.ceil(exact) + (exact.denominator == 1)
    assert (plan.columns if landscape else plan.rows) == along


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "expected"),
    [("none", 1, 1, 1), ("closest", 1, 1, 1), ("closest", 2, 2, 5), ("nanovlm", 1, 3, 4), ("hd", 1, 1, 2)],
)
def test_views(kind: str, rows: int, columns: int, expected: int) -> None:
    config = TilingConfig(kind=kind, tile=512)
    assert config.views(rows, columns) == expected
    without = config.with_(global_view=False)
    assert without.views(rows, columns) == rows * columns


def test_counts_without_lines_are_those_of_the_views() -> None:
    assert count_tokens(2, 2, TilingConfig(kind="closest"), 8) == 5 * 64
    assert count_tokens(2, 2, hd(4, layout="tiles"), 8) == 5 * 64
    # Lines without the whole view: no separator either.
    assert count_tokens(2, 3, hd(6, global_view=False), 4) == 6 * 16 + 2 * 4


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"multiple of tiling\.tile = 336"):
        TilingConfig(kind="nanovlm", max_side=1000)
    with pytest.raises(ValidationError, match="#rrggbb"):
        TilingConfig(background="mauve")

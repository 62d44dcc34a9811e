"""The connector of tiles: merging, order of tokens, newlines and separator, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diptych.data.tiling_config import TilingConfig
from diptych.errors import ConfigError
from diptych.systems.mllm.connector import Connector, TilesConfig, merge_neighbours

HD = TilingConfig(kind="hd", tile=8)


def connector(tiling: TilingConfig = HD, merge: int = 1, side: int = 2, width: int = 1) -> Connector:
    """Return one whose markers are recognisable: newline -1, separator -2."""
    made = Connector(TilesConfig(merge=merge), tiling, side, width, 5)
    if made.newline is not None and made.separator is not None:
        with torch.no_grad():
            made.newline.fill_(-1)
            made.separator.fill_(-2)
    return made


def views(*starts: int) -> Tensor:
    """Return views of 2 x 2 features whose values count from each start."""
    return torch.stack([torch.arange(s, s + 4, dtype=torch.float32)[:, None] for s in starts])


def test_merged_neighbours_are_upper_left_upper_right_lower_left_lower_right() -> None:
    features = torch.arange(16.0).view(1, 4, 4, 1) * torch.tensor([1.0, 100.0])  # two channels
    merged = merge_neighbours(features.view(1, 16, 2), 2)
    assert merged.shape == (1, 2, 2, 8)
    assert merged[0, 0, 0].tolist() == [0, 0, 1, 100, 4, 400, 5, 500]
    assert merged[0, 1, 0].tolist() == [8, 800, 9, 900, 12, 1200, 13, 1300]


def test_sequence_of_a_wide_picture_by_hand() -> None:
    # The whole view 0..3, then two tiles beside each other, 10..13 and 20..23.
    laid = connector().lay_out(views(0, 10, 20), [(1, 2)])[:, 0].tolist()
    whole = [0, 1, -1, 2, 3, -1]
    assert laid == [*whole, -2, 10, 11, 20, 21, -1, 12, 13, 22, 23, -1]


def test_sequence_of_a_tall_picture_by_hand() -> None:
    laid = connector().lay_out(views(0, 10, 20), [(2, 1)])[:, 0].tolist()
    whole = [0, 1, -1, 2, 3, -1]
    assert laid == [*whole, -2, 10, 11, -1, 12, 13, -1, 20, 21, -1, 22, 23, -1]


def test_pictures_follow_each_other() -> None:
    net = connector()
    both = net.lay_out(views(0, 10, 20, 30, 40), [(1, 1), (1, 2)])
    first, second = net.lay_out(views(0, 10), [(1, 1)]), net.lay_out(views(20, 30, 40), [(1, 2)])
    assert torch.equal(both, torch.cat([first, second]))


def test_without_the_whole_view_there_is_no_separator() -> None:
    net = connector(HD.with_(global_view=False))
    assert net.lay_out(views(10, 20), [(1, 2)])[:, 0].tolist() == [10, 11, 20, 21, -1, 12, 13, 22, 23, -1]


def test_tile_after_tile_without_lines() -> None:
    net = connector(TilingConfig(kind="closest"))
    assert net.newline is None
    assert net.lay_out(views(0, 10, 20), [(1, 2)])[:, 0].tolist() == [
        *range(4),
        *range(10, 14),
        *range(20, 24),
    ]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3), st.booleans())
def test_counts_are_the_lengths(grids: list[tuple[int, int]], whole: bool) -> None:
    for kind in ("hd", "closest"):
        net = connector(TilingConfig(kind=kind, global_view=whole), merge=2, side=4, width=3)
        n = sum(net.tiling.views(*grid) for grid in grids)
        out = net(torch.randn(n, 16, 3), grids)
        assert out.shape == (sum(net.count(*grid) for grid in grids), 5)


def test_views_that_do_not_go_with_the_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="3 views, but 2 were encoded"):
        connector().lay_out(views(0, 10), [(1, 2)])


def test_every_parameter_learns() -> None:
    net = connector(merge=2, side=4, width=3)
    net(torch.randn(2, 16, 3), [(1, 1)]).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_the_merge_factor_divides_the_side() -> None:
    with pytest.raises(ConfigError, match=r"merge = 3.*4 features"):
        connector(merge=3, side=4)


def test_nanovlm_has_one_layer_without_bias() -> None:
    net = Connector(TilesConfig(merge=2, projector="linear", bias=False), TilingConfig(), 4, 3, 5)
    assert [(n, list(p.shape)) for n, p in net.named_parameters()] == [("projector.0.weight", [5, 12])]

"""Several short texts in one sequence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diptych.blocks.transformer import TransformerLayer
from diptych.data.budget import WindowPlan
from diptych.data.mixture import Cycle, PartsPlan
from diptych.data.order import Order
from diptych.data.packing import PackCutter, best_fit, pack_texts, segment_mask
from diptych.data.plan import OneSource
from diptych.errors import DataError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=80)


def plan_of(lengths: list[int], *, most: int = 4, window: int = 30, seed: int = 1) -> WindowPlan:
    stream = OneSource(Order(len(lengths), seed))
    return WindowPlan(stream, [np.array(lengths, np.int32)], PackCutter(seed, 12, most), window, {})


# --- Which texts go together ---


@settings(max_examples=150, deadline=None)
@given(lengths=LENGTHS)
def test_no_sequence_is_too_long_and_few_are_needed(lengths: list[int]) -> None:
    found = best_fit(np.array(lengths), 12)
    assert sorted(i for pack in found for i in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= 12 for pack in found)
    # No two sequences would fit into one, so that on average they are more than half full.
    sums = sorted(sum(lengths[i] for i in pack) for pack in found)
    assert len(sums) == 1 or sums[0] + sums[1] > 12


def test_packing_by_hand() -> None:
    # 9 first; 6 with 6; 3 beside 9; then 2 on its own.
    assert best_fit(np.array([3, 6, 9, 6, 2]), 12) == [[2, 0], [1, 3], [4]]


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, most=st.integers(1, 5), window=st.integers(1, 50), seed=st.integers(0, 2**62))
def test_every_sample_once_an_epoch(lengths: list[int], most: int, window: int, seed: int) -> None:
    plan = plan_of(lengths, most=most, window=window, seed=seed)
    seen: list[int] = []
    number = 0
    while len(seen) < 2 * len(lengths):
        drawn = plan.batch(number)
        assert drawn.packs is not None
        assert drawn.packs.tolist() == sorted(drawn.packs.tolist())
        assert set(drawn.packs.tolist()) == set(range(int(drawn.packs[-1]) + 1))
        assert drawn.packs[-1] < most
        assert np.bincount(drawn.packs, weights=[lengths[i] for i in drawn.rows]).max() <= 12
        seen += drawn.rows.tolist()
        number += 1
    for start in (0, len(lengths)):
        assert sorted(seen[start : start + len(lengths)]) == list(range(len(lengths)))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_whole_sequences(world: int) -> None:
    plan = plan_of([3, 5, 2, 9, 7, 4] * 10, most=6, window=60)
    for number in range(12):
        whole = plan.batch(number)
        assert whole.packs is not None
        for rank in range(world):
            drawn = plan.batch(number, rank, world)
            mine = whole.packs % world == rank
            assert drawn.positions.tolist() == whole.positions[mine].tolist()
            assert drawn.packs is not None
            assert (drawn.packs * world + rank).tolist() == whole.packs[mine].tolist()


def test_a_batch_with_fewer_sequences_than_ranks_is_refused() -> None:
    with pytest.raises(DataError, match="batch 0 has 1 sequences for 2 ranks"):
        plan_of([12] * 4, most=1).batch(0, 0, 2)


def test_a_resumed_plan_goes_on() -> None:
    lengths = [3, 5, 2, 9, 7, 4] * 10
    plan, resumed = plan_of(lengths), plan_of(lengths)
    resumed.start(plan.anchor(77))
    for number in range(77, 90):
        a, b = plan.batch(number), resumed.batch(number)
        assert a.positions.tolist() == b.positions.tolist()
        assert a.packs is not None
        assert b.packs is not None
        assert a.packs.tolist() == b.packs.tolist()


def test_parts_count_their_sequences_on() -> None:
    plan = PartsPlan([plan_of([6] * 8), plan_of([12] * 8)], Cycle(np.array([1, 1]), 3), 2, {})
    drawn = plan.batch(0)
    assert drawn.packs is not None
    assert sorted(set(drawn.packs.tolist())) == list(range(8))
    rows = {s: len(set(drawn.packs[drawn.sources == s].tolist())) for s in (0, 1)}
    assert rows == {0: 4, 1: 4}


# --- Laying out ---


def test_layout_by_hand() -> None:
    found = pack_texts([[5, 6], [7, 8, 9], [4]], np.array([0, 1, 0]), 4, pad_id=0)
    assert found.ids.tolist() == [[5, 6, 4, 0], [7, 8, 9, 0]]
    assert found.segments.tolist() == [[1, 1, 2, 0], [1, 1, 1, 0]]
    assert found.positions.tolist() == [[0, 1, 0, 0], [0, 1, 2, 0]]
    assert found.places.tolist() == [[0, 1], [1, 1], [0, 2]]
    assert found.starts.tolist() == [[0, 0], [1, 0], [0, 2]]
    assert found.to(torch.device("cpu")).ids.equal(found.ids)


def test_a_text_longer_than_planned_moves_and_is_not_lost() -> None:
    # The second does not fit beside the first and goes to the next; the fourth opens a new sequence.
    found = pack_texts([[1, 1, 1], [2, 2], [3, 3], [4, 4, 4, 4]], np.array([0, 0, 1, 1]), 4, pad_id=9)
    assert found.ids.tolist() == [[1, 1, 1, 9], [2, 2, 3, 3], [4, 4, 4, 4]]


def test_sequences_whose_samples_are_missing_are_left_out() -> None:
    found = pack_texts([[1], [2]], np.array([0, 2]), 2, pad_id=0)
    assert found.ids.tolist() == [[1, 0], [2, 0]]
    assert pack_texts([], np.array([], dtype=np.int64), 2, pad_id=0).ids.shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), max_size=20), data=st.data())
def test_every_text_can_be_read_back(texts: list[list[int]], data: st.DataObject) -> None:
    packs = sorted(data.draw(st.lists(st.integers(0, 6), min_size=len(texts), max_size=len(texts))))
    found = pack_texts(texts, np.array(packs, dtype=np.int64), 6, pad_id=0)
    for text, (row, segment), (_, column) in zip(
        texts, found.places.tolist(), found.starts.tolist(), strict=True
    ):
        here = found.segments[row] == segment
        assert found.ids[row][here].tolist() == text
        assert found.positions[row][here].tolist() == list(range(len(text)))
        assert int(here.int().argmax()) == column
    assert int((found.segments > 0).sum()) == sum(map(len, texts))


def test_segments_read_only_themselves() -> None:
    found = segment_mask(torch.tensor([[1, 1, 2, 0]]))
    assert found.int().tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]


def encode(layers: nn.ModuleList, words: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Return states [R, L, D] of tokens with word vectors and position vectors."""
    x = words + positions
    for layer in layers:
        x = layer(x, mask)
    return x


def test_packed_texts_are_encoded_as_if_they_were_alone() -> None:
    torch.manual_seed(0)
    texts = [[5, 6, 7], [8, 9], [1, 2, 3, 4], [3], [7, 7]]
    layers = nn.ModuleList(TransformerLayer(16, 2, 32, "gelu") for _ in range(2)).double()
    words, places = torch.randn(10, 16).double(), torch.randn(6, 16).double()
    packed = pack_texts(texts, np.array([0, 0, 1, 1, 0]), 8, pad_id=0)
    mask = segment_mask(packed.segments)
    together = encode(layers, words[packed.ids], places[packed.positions], mask)
    for text, (row, segment) in zip(texts, packed.places.tolist(), strict=True):
        ids = torch.tensor([text])
        alone = encode(layers, words[ids], places[: len(text)], torch.ones(1, len(text), dtype=torch.bool))
        torch.testing.assert_close(
            together[row][packed.segments[row] == segment], alone[0], rtol=0, atol=1e-12
        )
    assert together.isfinite().all()

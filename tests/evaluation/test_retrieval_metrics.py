"""Retrieval metrics by hand, and against an oracle that sorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.metrics.retrieval import (
    best_ranks,
    candidate_recall,
    chance,
    filled_matrix,
    itm_eval,
    reranked_ranks,
    summarise,
    top_cut,
)


def indices(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int64) for row in rows]


def oracle_rank(order: list[int], right: list[int]) -> int:
    """Rank of the first right answer in a full order; one past the end without any."""
    return next((place for place, answer in enumerate(order, 1) if answer in right), len(order) + 1)


def pessimistic_order(scores: list[float], right: list[int]) -> list[int]:
    """Best first; among equal scores the wrong ones first."""
    return sorted(range(len(scores)), key=lambda c: (-scores[c], c in right))


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4], [0.5, 0.5, 0.4], [0.1, 0.2, 0.3]])
    right = indices([0], [0, 1], [1], [])
    # third row: text 0 ties with the right text 1 and stands before it; fourth: nothing is right
    assert best_ranks(scores, right).tolist() == [1, 2, 2, 4]


def test_ties_and_nan_count_against_us() -> None:
    assert best_ranks(np.zeros((1, 5)), indices([2])).tolist() == [5]
    assert best_ranks(np.array([[np.nan, 1.0, 2.0]]), indices([2])).tolist() == [2]
    assert best_ranks(np.array([[0.0, 1.0, np.nan]]), indices([2])).tolist() == [3]


def test_two_right_answers_do_not_push_each_other_back() -> None:
    assert best_ranks(np.array([[1.0, 1.0, 0.0]]), indices([0, 1])).tolist() == [1]


def candidates(scores: np.ndarray, k: int) -> list[list[int]]:
    """Candidates of each query, ascending."""
    cut = top_cut(scores, k)
    return [cut.candidates(q, row).tolist() for q, row in enumerate(scores)]


def test_reranked_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.1]] * 4)
    new = np.array([[1.0, 2.0, 9.0, np.nan], [1.0, 2.0, 9.0, 9.0], [5.0, 5.0, 9.0, 9.0], [0.0] * 4])
    right = indices([0], [3], [1], [])
    # 0 falls behind 1; 3 is no candidate: behind both candidates and 2; a tie; nothing right
    assert reranked_ranks(scores, top_cut(scores, 2), new, right).tolist() == [2, 4, 2, 5]


def test_summary_by_hand() -> None:
    summary = summarise(np.array([1, 1, 5, 6, 10, 11]))
    assert summary == pytest.approx({"R@1": 2 / 6, "R@5": 3 / 6, "R@10": 5 / 6, "median_rank": 5.5})


def test_candidates_by_hand() -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]])
    assert candidates(scores, 2) == [[1, 3], [0, 1]]  # of equal scores the first
    assert candidates(scores, 3) == [[1, 2, 3], [0, 1, 2]]
    assert top_cut(scores, 9).k == 4
    assert candidates(scores, 9) == [[0, 1, 2, 3]] * 2
    cut = top_cut(scores, 2)
    assert candidate_recall(scores, cut, indices([2, 3], [2]), [0, 1]) == 0.5
    assert candidate_recall(scores, cut, indices([2, 3], [2]), [0]) == 1
    assert candidate_recall(scores, cut, indices([], [2]), [0, 1]) == 0


def test_chance_by_hand() -> None:
    # 20 answers, one right: R@k = k / 20; half of the queries are reached at rank 10.
    one = chance(np.array([1, 1, 1]), 20)
    assert one == pytest.approx({"R@1": 0.05, "R@5": 0.25, "R@10": 0.5, "median_rank": 10})
    # two right of 4: first place 1/2, so the median is 1; R@5 with 4 answers is certain.
    two = chance(np.array([2]), 4)
    assert two == pytest.approx({"R@1": 0.5, "R@5": 1, "R@10": 1, "median_rank": 1})


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), total=st.integers(6, 30))
def test_chance_equals_the_binomial_formula(counts: list[int], total: int) -> None:
    from math import comb

    def reached(k: int) -> float:
        k = min(k, total)
        return sum(1 - comb(total - c, k) / comb(total, k) for c in counts) / len(counts)

    got = chance(np.array(counts), total)
    for k in (1, 5, 10):
        assert got[f"R@{k}"] == pytest.approx(reached(k))
    median = int(got["median_rank"])
    assert reached(median) >= 0.5 - 1e-9
    assert median == 1 or reached(median - 1) < 0.5 + 1e-9


@st.composite
def retrieval_case(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]], int]:
    """Scores with many ties, several right answers a query (or none), and a number of candidates."""
    queries, answers = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    cell = st.integers(-2, 2)
    scores = draw(
        st.lists(st.lists(cell, min_size=answers, max_size=answers), min_size=queries, max_size=queries)
    )
    right = draw(
        st.lists(st.sets(st.integers(0, answers - 1), max_size=4), min_size=queries, max_size=queries)
    )
    return np.array(scores, dtype=np.float32), [sorted(r) for r in right], draw(st.integers(1, answers))


@settings(max_examples=80, deadline=None)
@given(case=retrieval_case())
def test_ranks_equal_the_sorting_oracle(case: tuple[np.ndarray, list[list[int]], int]) -> None:
    scores, right, _ = case
    expected = [
        oracle_rank(pessimistic_order(row, answers), answers)
        for row, answers in zip(scores.tolist(), right, strict=True)
    ]
    assert best_ranks(scores, indices(*right)).tolist() == expected


@settings(max_examples=80, deadline=None)
@given(case=retrieval_case())
def test_candidates_equal_a_stable_sort(case: tuple[np.ndarray, list[list[int]], int]) -> None:
    scores, _, k = case
    assert candidates(scores, k) == np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :k]).tolist()
    # The other direction sees the same matrix by columns.
    cut, queries = top_cut(scores.T, k), np.arange(scores.shape[1])
    by_column = [np.flatnonzero(cut.has(queries, a, row)).tolist() for a, row in enumerate(scores)]
    by_row = candidates(np.ascontiguousarray(scores.T), k)
    assert by_column == [[q for q in queries if a in by_row[q]] for a in range(len(scores))]


@settings(max_examples=80, deadline=None)
@given(case=retrieval_case(), seed=st.integers(0, 100))
def test_reranked_ranks_equal_the_sorting_oracle(
    case: tuple[np.ndarray, list[list[int]], int], seed: int
) -> None:
    scores, right, k = case
    new = np.random.default_rng(seed).integers(0, 3, scores.shape).astype(np.float32)
    expected = []
    for q, answers in enumerate(right):
        chosen = np.argsort(-scores[q], kind="stable")[:k].tolist()
        first = sorted(chosen, key=lambda c: (-new[q, c], c in answers))
        rest = [c for c in pessimistic_order(scores[q].tolist(), answers) if c not in chosen]
        expected.append(oracle_rank(first + rest, answers))
    assert reranked_ranks(scores, top_cut(scores, k), new, indices(*right)).tolist() == expected


def test_published_figures_by_hand() -> None:
    # 2 pictures with 2 texts each; picture 0 finds its text 1 first, picture 1 finds text 2 second.
    i2t = np.array([[0.1, 0.9, 0.5, 0.3], [0.9, 0.1, 0.5, 0.3]])
    figures = itm_eval(i2t, i2t.T.copy(), {0: 0, 1: 0, 2: 1, 3: 1}, {0: [0, 1], 1: [2, 3]})
    # Texts 0..3 score (0.1, 0.9), (0.9, 0.1), (0.5, 0.5), (0.3, 0.3); of equal scores the reversed
    # argsort puts picture 1 first.
    assert figures["txt_r1"] == 50
    assert figures["txt_r5"] == 100
    assert figures["img_r1"] == 75
    assert figures["txt_r_mean"] == pytest.approx(250 / 3)
    assert figures["img_r_mean"] == pytest.approx(275 / 3)
    assert figures["r_mean"] == pytest.approx(87.5)


def test_filled_matrix() -> None:
    scores, new = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), np.array([[9, 9, 0.5], [-1.5, np.nan, 9]])
    got = filled_matrix(scores, top_cut(scores, 1), new.astype(np.float32))
    assert got.tolist() == [[-100, -100, 0.5], [-1.5, -100, -100]]
    assert got.dtype == np.float32

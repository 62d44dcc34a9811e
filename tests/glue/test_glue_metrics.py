"""Figures of GLUE, by hand and against slow ones."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import DataError
from diptych.metrics.glue import (
    FIGURES,
    RULES,
    Rule,
    accuracy,
    f1,
    glue_scores,
    matthews,
    pearson,
    ranks,
    spearman,
)
from diptych.systems.uniperceiver.glue import PROMPTS

# Counts: 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
SAID = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
TRUE = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_accuracy_and_f1_by_hand() -> None:
    assert accuracy(SAID, TRUE) == 0.7
    assert f1(SAID, TRUE) == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert f1(SAID, TRUE, positive=0) == pytest.approx(8 / 11)
    assert f1([0, 0], [0, 0]) == 0.0
    assert f1([1, 1], [0, 0]) == 0.0


def test_matthews_by_hand() -> None:
    assert matthews(SAID, TRUE) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    assert matthews([1, 1, 0], [0, 0, 1]) == pytest.approx(-1.0)
    assert matthews([1, 1, 1], [1, 0, 1]) == 0.0  # one class alone is said
    # Three classes: confusion [[2, 1, 0], [0, 1, 0], [1, 0, 1]], rows what is true.
    true, said = [0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 0, 2]
    expected = (6 * 4 - (3 * 3 + 1 * 2 + 2 * 1)) / math.sqrt((36 - (9 + 4 + 1)) * (36 - (9 + 1 + 4)))
    assert matthews(said, true) == pytest.approx(expected)


def test_correlations_by_hand() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 9.0]
    # Deviations -1.5 -0.5 0.5 1.5 and -2 -3 0 5: products 3 + 1.5 + 0 + 7.5, squares 5 and 38.
    assert pearson(x, y) == pytest.approx(12 / math.sqrt(5 * 38))
    # Ranks of y: 2 1 3 4; 1 - 6 * 2 / (4 * 15).
    assert spearman(x, y) == pytest.approx(0.8)
    assert ranks([5.0, 1.0, 5.0, 3.0]).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert pearson([1.0, 1.0], [0.0, 2.0]) == 0.0
    assert pearson([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_matthews_is_the_correlation_of_indicators(pairs: list[tuple[int, int]]) -> None:
    said, true = (np.array(each) for each in zip(*pairs, strict=True))

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return sum(float(np.cov(a == k, b == k, bias=True)[0, 1]) for k in range(4))

    spread = covariance(said, said) * covariance(true, true)
    expected = covariance(said, true) / math.sqrt(spread) if spread > 1e-12 else 0.0
    assert matthews(said, true) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=30))
def test_ranks_against_a_slow_one(pairs: list[tuple[int, int]]) -> None:
    for scores in zip(*pairs, strict=True):
        slow = [
            sum(other < score for other in scores) + (sum(other == score for other in scores) + 1) / 2
            for score in scores
        ]
        assert ranks(scores).tolist() == slow


def test_large_counts_stay_exact() -> None:
    random = Random(4)
    true = [random.random() < 0.4 for _ in range(400_000)]
    said = [t if random.random() < 0.8 else not t for t in true]
    indicator = pearson([float(s) for s in said], [float(t) for t in true])
    assert matthews(said, true) == pytest.approx(indicator, abs=1e-9)


def test_rules() -> None:
    assert set(RULES) <= set(PROMPTS)
    assert glue_scores(RULES["mrpc"], SAID, TRUE) == {
        "accuracy": 0.7,
        "f1": pytest.approx(2 / 3),
        "mean": pytest.approx((0.7 + 2 / 3) / 2),
    }
    assert glue_scores(Rule(), SAID, TRUE) == {"accuracy": 0.7}
    for rule in [*RULES.values(), Rule()]:
        assert set(rule.figures) <= set(FIGURES)
        assert rule.headline in (*rule.figures, "mean")


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="0 predictions and 0 right answers"):
        glue_scores(Rule(), [], [])
    with pytest.raises(DataError, match="2 predictions and 1 right answers"):
        glue_scores(Rule(), [1, 0], [1])

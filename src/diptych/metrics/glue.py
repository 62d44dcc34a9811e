"""Figures of GLUE: accuracy, F1, Matthews' correlation, Pearson's and Spearman's. N examples.

All are fractions (papers print 100 times as much). Where a figure has no value, since its denominator is 0
(one class only is predicted, all scores are equal), it is 0, as usual for these tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diptych.errors import DataError

Numbers = NDArray[np.float64]


def accuracy(predicted: ArrayLike, right: ArrayLike) -> float:
    """Return the share of equal classes [N]."""
    return float(np.mean(np.asarray(predicted) == np.asarray(right)))


def f1(predicted: ArrayLike, right: ArrayLike, positive: int = 1) -> float:
    """Return the harmonic mean of precision and recall of a class; classes [N] int."""
    said, true = np.asarray(predicted) == positive, np.asarray(right) == positive
    both = int(said.sum() + true.sum())
    return 2 * int((said & true).sum()) / both if both else 0.0


def matthews(predicted: ArrayLike, right: ArrayLike) -> float:
    """Return Matthews' correlation of classes [N] int, for two or more classes (then also called R_K).

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    """
    _, codes = np.unique(np.concatenate([np.asarray(predicted), np.asarray(right)]), return_inverse=True)
    said, true = np.split(codes, 2)
    count, classes = len(said), int(codes.max()) + 1
    # Whole numbers: squares of counts are exact.
    of_said, of_true = (np.bincount(each, minlength=classes).astype(object) for each in (said, true))
    hits = int((said == true).sum())
    covariance = count * hits - int((of_said * of_true).sum())
    spreads = [count * count - int((each * each).sum()) for each in (of_said, of_true)]
    return covariance / float(spreads[0] * spreads[1]) ** 0.5 if all(spreads) else 0.0


def pearson(predicted: ArrayLike, right: ArrayLike) -> float:
    """Return Pearson's correlation of scores [N]."""
    x, y = (
        np.asarray(each, np.float64) - np.mean(np.asarray(each, np.float64)) for each in (predicted, right)
    )
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip((x @ y) / spread, -1.0, 1.0)) if spread else 0.0


def spearman(predicted: ArrayLike, right: ArrayLike) -> float:
    """Return Spearman's correlation of scores [N]: Pearson's of their ranks, equal scores share theirs."""
    return pearson(ranks(predicted), ranks(right))


def ranks(scores: ArrayLike) -> Numbers:
    """Return ranks from 1 of scores [N] float64; equal scores get the mean of the ranks they take."""
    _, places, counts = np.unique(np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[places], np.float64)


FIGURES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""Name -> function of predictions and what is right."""


@dataclass(frozen=True)
class Rule:
    """How a task is scored."""

    figures: tuple[str, ...] = ("accuracy",)
    headline: str = "accuracy"
    """The one that tables print; `mean` is that of all figures, as the site takes two figures of a task."""


_PAIRS = Rule(("accuracy", "f1"), "f1")
RULES: dict[str, Rule] = {
    "cola": Rule(("matthews", "accuracy"), "matthews"),
    "mrpc": _PAIRS,
    "qqp": _PAIRS,
    "sts-b": Rule(("pearson", "spearman"), "mean"),
    "ax": Rule(("matthews", "accuracy"), "matthews"),
}
"""Task -> how it is scored; all others by accuracy."""


def glue_scores(rule: Rule, predicted: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Return the figures of a task, and `mean` where there are several.

    Args:
        rule: which ones (`RULES`).
        predicted: [N] classes or scores.
        right: [N] the same.

    Raises:
        DataError: no examples, or not as many of one as of the other.
    """
    if not len(predicted) or len(predicted) != len(right):
        raise DataError(
            f"GLUE: {len(predicted)} predictions and {len(right)} right answers; expected one or more, and "
            "as many of both"
        )
    found = {name: FIGURES[name](predicted, right) for name in rule.figures}
    return found if len(found) == 1 else {**found, "mean": sum(found.values()) / len(found)}

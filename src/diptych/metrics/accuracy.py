"""Accuracies by kind of question, and what constant answers reach. N questions."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any


def mean(scores: Sequence[float]) -> float:
    """Return the mean of [N] scores; 0 without any."""
    return sum(scores) / len(scores) if scores else 0.0


def by_kind(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return kind -> {`accuracy`, `count`}, in the order of the kinds' names; questions without one ("") are
    left out.

    Args:
        scores: [N], 0 to 1.
        kinds: [N].
    """
    groups: dict[str, list[float]] = {}
    for score, kind in zip(scores, kinds, strict=True):
        if kind:
            groups.setdefault(kind, []).append(score)
    return {kind: {"accuracy": mean(groups[kind]), "count": len(groups[kind])} for kind in sorted(groups)}


def by_order(scores: Sequence[float], ordered: Sequence[bool | None]) -> dict[str, dict[str, Any]]:
    """Return {`accuracy`, `count`} of the questions that need the order of events, and of the others.

    Keys: `ordered` and `unordered`.

    Args:
        scores: [N], 0 to 1.
        ordered: [N]; None where the data do not tell. Nothing is returned where they tell of none.
    """
    names = {True: "ordered", False: "unordered"}
    told = [(score, names[flag]) for score, flag in zip(scores, ordered, strict=True) if flag is not None]
    return by_kind([score for score, _ in told], [name for _, name in told])


def shared_accuracy(scores: Sequence[float], right: int) -> float:
    """Return whether the right one of [C] options scores best: 1, 0, or 1 / m where m share the best score.

    A model that gives all options one score is right as often as a guess.
    """
    best = max(scores)
    return 1 / sum(score == best for score in scores) if scores[right] == best else 0.0


def best_constant(right: Sequence[Hashable]) -> float:
    """Return the accuracy of saying the most frequent of [N] right answers always."""
    return max(Counter(right).values(), default=0) / max(len(right), 1)


def best_constant_by_kind(right: Sequence[Hashable], kinds: Sequence[str]) -> float:
    """Return the accuracy of saying the most frequent right answer of its kind to each of [N] questions."""
    groups: dict[str, list[Hashable]] = {}
    for answer, kind in zip(right, kinds, strict=True):
        groups.setdefault(kind, []).append(answer)
    found = sum(max(Counter(group).values()) for group in groups.values())
    return found / max(len(right), 1)

"""What an evaluation of retrieval writes: figures for metrics.json and rows for predictions.jsonl.

Legend: Q queries, C answers to choose from, k of them are candidates, which are scored again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diptych.metrics.retrieval import (
    RECALLS,
    Cut,
    Floats,
    Ints,
    best_ranks,
    candidate_recall,
    chance,
    dual_softmax,
    reranked_ranks,
    summarise,
)

DUAL = "_dual_softmax"
"""Behind the name of a ranking."""
SHOWN = 10
"""Answers listed for each query in predictions.jsonl."""


@dataclass(frozen=True)
class Candidates:
    """The best answers of each query by similarity, and their new scores."""

    cut: Cut
    scores: Floats
    """[Q, C], read at the candidates only."""
    scored: int = 0
    """Pairs that were read together, for both directions."""


@dataclass(frozen=True)
class Ranking:
    """One direction of retrieval, ranked."""

    similarity: Floats
    """[Q, C]"""
    right: Sequence[Ints]
    """For each query its right answers."""
    candidates: Candidates | None = None
    """None without a matching head."""

    @cached_property
    def answerable(self) -> Ints:
        """Queries that have a right answer at all; the others are not counted."""
        return np.flatnonzero([len(answers) > 0 for answers in self.right])

    @cached_property
    def contrastive(self) -> Ints:
        """[Q] ranks by similarity."""
        return best_ranks(self.similarity, self.right)

    @cached_property
    def reranked(self) -> Ints:
        """[Q] ranks after re-ranking."""
        assert self.candidates is not None
        return reranked_ranks(self.similarity, self.candidates.cut, self.candidates.scores, self.right)

    @property
    def read_all(self) -> bool:
        """Whether every pair was read together."""
        return self.candidates is not None and self.candidates.cut.k == self.similarity.shape[1]

    def dual(self, scale: float) -> Ints:
        """Return [Q] ranks by dual softmax of the similarities."""
        return best_ranks(dual_softmax(self.similarity, scale), self.right)

    def dual_reranked(self) -> Ints:
        """Return [Q] ranks by dual softmax of the scores of pairs; all of them were read together."""
        assert self.candidates is not None
        return best_ranks(dual_softmax(self.candidates.scores), self.right)

    @property
    def headline(self) -> Ints:
        """[Q] ranks that count: re-ranked where there is a matching head."""
        return self.contrastive if self.candidates is None else self.reranked

    def chance(self) -> dict[str, float]:
        """Return what a random order reaches."""
        counts = np.array([len(self.right[q]) for q in self.answerable], dtype=np.int64)
        return chance(counts, self.similarity.shape[1])

    def candidate_recall(self) -> float:
        """Return the share of queries with a right answer among their candidates."""
        assert self.candidates is not None
        return candidate_recall(self.similarity, self.candidates.cut, self.right, self.answerable)

    def top(self, query: int) -> list[tuple[int, float, bool]]:
        """Return the first answers of a query: (answer, score, right), equal scores wrong ones first."""
        if self.candidates is None:
            row = self.similarity[query]
            last = np.partition(row, -min(SHOWN, len(row)))[-min(SHOWN, len(row))]
            index = np.flatnonzero(row >= last)
            scores = row[index]
        else:
            index = self.candidates.cut.candidates(query, self.similarity[query])
            scores = self.candidates.scores[query, index]
        right = np.isin(index, self.right[query])
        order = np.lexsort((index, right, -scores))[:SHOWN]
        return [(int(index[o]), float(scores[o]), bool(right[o])) for o in order]


def figures(
    to_text: Ranking,
    to_image: Ranking,
    names: tuple[str, str] = ("contrastive", "reranked"),
    dual: float = 0.0,
) -> dict[str, Any]:
    """Return `headline`, `scores`, `candidates` and `chance` of metrics.json.

    Args:
        to_text: ranking of the texts of each picture.
        to_image: of the pictures of each text.
        names: what the similarities are, and the scores of pairs that were read together.
        dual: factor on similarities for rankings by dual softmax; 0: none. Pairs that were read together are
            ranked so where all of them were.
    """
    scores = {names[0]: _both(to_text, to_image, lambda r: r.contrastive)}
    result: dict[str, Any] = {"headline": names[0], "scores": scores}
    if dual:
        scores[f"{names[0]}{DUAL}"] = _both(to_text, to_image, lambda r: r.dual(dual))
    if to_text.candidates is not None and to_image.candidates is not None:
        scores[names[1]] = _both(to_text, to_image, lambda r: r.reranked)
        if dual and to_text.read_all and to_image.read_all:
            scores[f"{names[1]}{DUAL}"] = _both(to_text, to_image, Ranking.dual_reranked)
        result["headline"] = names[1]
        texts, images = to_text.candidates.cut.k, to_image.candidates.cut.k
        result["candidates"] = {
            "k": max(texts, images),
            "k_texts": texts,
            "k_images": images,
            "pairs": to_text.candidates.scored,
            "image_to_text_recall": to_text.candidate_recall(),
            "text_to_image_recall": to_image.candidate_recall(),
        }
    result["queries"] = {"image_to_text": len(to_text.answerable), "text_to_image": len(to_image.answerable)}
    result["chance"] = {"image_to_text": to_text.chance(), "text_to_image": to_image.chance()}
    return result


def _both(to_text: Ranking, to_image: Ranking, ranks: Callable[[Ranking], Ints]) -> dict[str, Any]:
    """Return recalls, their mean, and the median rank of both directions."""
    found = {}
    for name, ranking in (("image_to_text", to_text), ("text_to_image", to_image)):
        summary = summarise(ranks(ranking)[ranking.answerable])
        found[name] = {**summary, "mean_recall": float(np.mean([summary[f"R@{k}"] for k in RECALLS]))}
    return found


def predictions(
    to_text: Ranking, to_image: Ranking, keys: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of predictions.jsonl: picture queries in the order of the split, then text queries."""
    rows = [
        {"direction": "image_to_text", "query": keys[q], "key": keys[q], **_answers(to_text, q, texts)}
        for q in to_text.answerable
    ]
    rows += [
        {"direction": "text_to_image", "query": texts[q], **_answers(to_image, q, keys)}
        for q in to_image.answerable
    ]
    return rows


def _answers(ranking: Ranking, query: int, names: Sequence[str]) -> dict[str, Any]:
    """The part of a row that both directions share."""
    top = [{"id": names[a], "score": score, "right": right} for a, score, right in ranking.top(query)]
    right = [names[a] for a in ranking.right[query]]
    return {"rank": int(ranking.headline[query]), "right": right, "top": top}

"""What an evaluation of retrieval writes: figures for metrics.json and rows for predictions.jsonl.

Legend: Q queries, C answers to choose from, k of them are candidates, which are scored again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diptych.metrics.retrieval import (
    Cut,
    Floats,
    Ints,
    best_ranks,
    candidate_recall,
    chance,
    reranked_ranks,
    summarise,
)

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


def figures(to_text: Ranking, to_image: Ranking, name: str = "contrastive") -> dict[str, Any]:
    """Return `headline`, `scores`, `candidates` and `chance` of metrics.json.

    Args:
        to_text: ranking of the texts of each picture.
        to_image: of the pictures of each text.
        name: what the similarities are.
    """

    def both(compute: Callable[[Ranking], Any]) -> dict[str, Any]:
        return {"image_to_text": compute(to_text), "text_to_image": compute(to_image)}

    scores = {name: both(lambda r: summarise(r.contrastive[r.answerable]))}
    result: dict[str, Any] = {"headline": name, "scores": scores}
    if to_text.candidates is not None and to_image.candidates is not None:
        scores["reranked"] = both(lambda r: summarise(r.reranked[r.answerable]))
        result["headline"] = "reranked"
        texts, images = to_text.candidates.cut.k, to_image.candidates.cut.k
        result["candidates"] = {
            "k": max(texts, images),
            "k_texts": texts,
            "k_images": images,
            "pairs": to_text.candidates.scored,
            "image_to_text_recall": to_text.candidate_recall(),
            "text_to_image_recall": to_image.candidate_recall(),
        }
    result["queries"] = both(lambda r: len(r.answerable))
    result["chance"] = both(Ranking.chance)
    return result


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

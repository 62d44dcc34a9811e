"""Retrieval metrics: rank of the best right answer, recalls, median rank, chance; the published figures.

Legend: Q queries, C answers to choose from, k candidates scored again. "Right" answers come as one index
array a query, so that a picture with many captions, or pictures that match each other's captions, are no
special case.

Ties count against us: a wrong answer with the score of the right one stands before it, so a model that gives
every pair one score has no recall. A NaN counts as such a tie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RECALLS = (1, 5, 10)
NOT_RANKED = -100.0
"""What the published code puts where a pair was not scored again."""


@dataclass(frozen=True)
class Cut:
    """The k best answers of each query, told by the last one of them: two numbers a query, whatever k is.

    Of equal scores those of lower index are better.
    """

    k: int
    """Candidates of each query."""
    lowest: Floats
    """[Q] score of the last candidate."""
    last: Ints
    """[Q] its index."""

    def has(self, query: Ints | int, answer: Ints | int, score: Floats | float) -> Bools:
        """Return which answers are candidates; the arguments are broadcast against each other.

        Args:
            query: numbers of queries.
            answer: indices of answers.
            score: the first scores of these pairs, from the very array that was cut.
        """
        lowest = self.lowest[query]
        found: Bools = (score > lowest) | ((score == lowest) & (answer <= self.last[query]))
        return found

    def candidates(self, query: int, row: Floats) -> Ints:
        """Return the candidates [k] of a query in ascending order; `row` [C] holds its first scores."""
        return np.flatnonzero(self.has(query, np.arange(len(row)), row))


def top_cut(scores: Floats, k: int) -> Cut:
    """Cut the best min(k, C) answers of each query off, by finite scores [Q, C]."""
    queries, answers = scores.shape
    k = min(k, answers)
    lowest, last = np.empty(queries, scores.dtype), np.empty(queries, np.int64)
    for q, row in enumerate(scores):
        worst = np.partition(row, answers - k)[answers - k]
        better = np.count_nonzero(row > worst)
        lowest[q], last[q] = worst, np.flatnonzero(row == worst)[k - better - 1]
    return Cut(k, lowest, last)


def best_ranks(scores: Floats, right: Sequence[Ints]) -> Ints:
    """Return the rank (1 = first) of each query's best right answer, [Q] int64.

    Args:
        scores: [Q, C], higher is better.
        right: for each query the indices of its right answers; none at all gives rank C + 1.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for q, (row, answers) in enumerate(zip(scores, right, strict=True)):
        ranks[q] = _rank(row, answers)
    return ranks


def reranked_ranks(scores: Floats, cut: Cut, new_scores: Floats, right: Sequence[Ints]) -> Ints:
    """Return the rank of each query's best right answer after its candidates were scored again, [Q] int64.

    The candidates come before everything else, ordered by their new scores; the others follow in the order of
    `scores`. A right answer that is no candidate therefore has a rank above k.

    Args:
        scores: [Q, C] first scores.
        cut: which answers are candidates.
        new_scores: [Q, C], read at the candidates only.
        right: for each query the indices of its right answers.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for q, answers in enumerate(right):
        if cut.has(q, answers, scores[q, answers]).any():
            chosen = cut.candidates(q, scores[q])
            ranks[q] = _rank(new_scores[q, chosen], np.flatnonzero(np.isin(chosen, answers)))
        else:  # all candidates are wrong and stand before it anyway
            ranks[q] = _rank(scores[q], answers)
    return ranks


def _rank(row: Floats, answers: Ints) -> int:
    """Rank of the best of `answers` in one row of scores."""
    if not len(answers):
        return len(row) + 1
    before = ~(row < row[answers].max())  # not `>=`, so that NaN counts against us on either side
    before[answers] = False
    return 1 + int(before.sum())


def dual_softmax(scores: Floats, scale: float = 1.0) -> Floats:
    """Return scores [Q, C] that rank as the product of two softmaxes: over answers, and over queries.

    That is the logarithm of the product, up to a number for each query. An answer that many queries ask for
    is worth less to each of them. The result depends on which queries are there.

    Args:
        scores: [Q, C], finite.
        scale: what they are multiplied by first.
    """
    scaled = scores * np.float32(scale)
    largest = scaled.max(axis=0)
    # log of the sum over queries, query by query: no second matrix.
    total = np.zeros_like(largest)
    for row in scaled:
        total += np.exp(row - largest)
    result: Floats = 2 * scaled - (largest + np.log(total))
    return result


def summarise(ranks: Ints) -> dict[str, float]:
    """Return `R@1`, `R@5`, `R@10` (fractions) and `median_rank` of ranks [Q]."""
    recalls = {f"R@{k}": float((ranks <= k).mean()) for k in RECALLS}
    return {**recalls, "median_rank": float(np.median(ranks))}


def candidate_recall(scores: Floats, cut: Cut, right: Sequence[Ints], queries: Sequence[int] | Ints) -> float:
    """Return the share of `queries` with a right answer among their candidates: re-ranking's ceiling.

    Args:
        scores: [Q, C] first scores.
        cut: which answers are candidates.
        right: for each of the Q queries the indices of its right answers.
        queries: those that count.
    """
    return float(np.mean([cut.has(q, right[q], scores[q, right[q]]).any() for q in queries]))


def chance(right_counts: Ints, candidates: int) -> dict[str, float]:
    """Return what a random order of `candidates` answers gives, in the form of `summarise`.

    Args:
        right_counts: [Q] number of right answers of each query.
        candidates: number of answers to choose from, C.

    `median_rank` is the smallest rank that at least half of the queries are expected to reach.
    """
    counts, weights = np.unique(right_counts, return_counts=True)
    missed = np.ones(len(counts))  # probability that no right answer is among the first `rank`
    reached = np.zeros(candidates + 1)
    for rank in range(1, candidates + 1):
        left = candidates - rank + 1  # answers not yet placed; all right ones are among them
        missed = missed * np.clip(1 - counts / left, 0, 1)
        reached[rank] = 1 - np.average(missed, weights=weights)
    recalls = {f"R@{k}": float(reached[min(k, candidates)]) for k in RECALLS}
    # A query without right answers is never reached; its rank is C + 1, as in `best_ranks`.
    half = np.flatnonzero(reached >= 0.5 - 1e-12)
    return {**recalls, "median_rank": float(half[0]) if len(half) else float(candidates + 1)}


def itm_eval(
    scores_i2t: Floats, scores_t2i: Floats, txt2img: Mapping[int, int], img2txt: Mapping[int, Sequence[int]]
) -> dict[str, float]:
    """Return the published figures in percent: txt_r1/5/10, img_r1/5/10, their means, r_mean.

    `txt_*` are picture queries (a text is found), `img_*` text queries. Ties by the published rule: numpy's
    argsort, reversed.

    Args:
        scores_i2t: [images, texts].
        scores_t2i: [texts, images].
        txt2img: text index -> index of its picture.
        img2txt: picture index -> indices of its texts.
    """
    text_ranks = [_published_rank(row, img2txt[i]) for i, row in enumerate(scores_i2t)]
    image_ranks = [_published_rank(row, [txt2img[j]]) for j, row in enumerate(scores_t2i)]
    txt, img = (np.asarray(ranks) for ranks in (text_ranks, image_ranks))
    result = {f"txt_r{k}": 100.0 * float((txt < k).mean()) for k in RECALLS}
    result["txt_r_mean"] = sum(result.values()) / 3
    images = {f"img_r{k}": 100.0 * float((img < k).mean()) for k in RECALLS}
    images["img_r_mean"] = sum(images.values()) / 3
    return {**result, **images, "r_mean": (result["txt_r_mean"] + images["img_r_mean"]) / 2}


def _published_rank(row: Floats, answers: Sequence[int]) -> int:
    """Position (0 = first) of the best of `answers` in the reversed argsort of a row."""
    order = np.argsort(row)[::-1]
    return int(np.flatnonzero(np.isin(order, answers)).min())


def filled_matrix(scores: Floats, cut: Cut, new_scores: Floats) -> Floats:
    """Return the published re-ranked matrix [Q, C]: new scores at the candidates, `NOT_RANKED` elsewhere."""
    queries, answers = np.ogrid[: scores.shape[0], : scores.shape[1]]
    filled: Floats = np.where(cut.has(queries, answers, scores), new_scores, NOT_RANKED)
    return filled.astype(new_scores.dtype)

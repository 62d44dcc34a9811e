"""Retrieval metrics: rank of the best right answer, recalls, median rank, chance; the published figures.

Legend: Q queries, C candidates, k candidates scored again. "Right" answers come as one index array a query,
so that a picture with many captions, or pictures that match each other's captions, are no special case.

Ties count against us: a wrong answer with the score of the right one stands before it, so a model that gives
every pair one score has no recall. A NaN counts as such a tie.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

RECALLS = (1, 5, 10)
SORTED_AT_ONCE = 2**24
"""Scores sorted at once: the sort's own memory stays at some 200 MB."""
NOT_RANKED = -100.0
"""What the published code puts where a pair was not scored again."""


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


def reranked_ranks(scores: Floats, candidates: Ints, candidate_scores: Floats, right: Sequence[Ints]) -> Ints:
    """Return the rank of each query's best right answer after its candidates were scored again, [Q] int64.

    The candidates come before everything else, ordered by their new scores; the others follow in the order of
    `scores`. A right answer that is no candidate therefore has a rank above k.

    Args:
        scores: [Q, C] first scores.
        candidates: [Q, k] indices into C, no index twice in a row.
        candidate_scores: [Q, k] new scores.
        right: for each query the indices of its right answers.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for q, answers in enumerate(right):
        among = np.flatnonzero(np.isin(candidates[q], answers))
        if len(among):
            ranks[q] = _rank(candidate_scores[q], among)
        else:
            others = np.delete(np.arange(scores.shape[1]), candidates[q])
            ranks[q] = candidates.shape[1] + _rank(
                scores[q][others], np.flatnonzero(np.isin(others, answers))
            )
    return ranks


def _rank(row: Floats, answers: Ints) -> int:
    """Rank of the best of `answers` in one row of scores."""
    if not len(answers):
        return len(row) + 1
    before = ~(row < row[answers].max())  # not `>=`, so that NaN counts against us on either side
    before[answers] = False
    return 1 + int(before.sum())


def top_candidates(scores: Floats, k: int) -> Ints:
    """Return the k best of each query, best first, [Q, min(k, C)]; equal scores in the order of the index."""
    rows = max(1, SORTED_AT_ONCE // scores.shape[1])
    best = np.empty((len(scores), min(k, scores.shape[1])), dtype=np.int64)
    for start in range(0, len(scores), rows):
        order = np.argsort(-scores[start : start + rows], axis=1, kind="stable")
        best[start : start + rows] = order[:, :k]
    return best


def summarise(ranks: Ints) -> dict[str, float]:
    """Return `R@1`, `R@5`, `R@10` (fractions) and `median_rank` of ranks [Q]."""
    recalls = {f"R@{k}": float((ranks <= k).mean()) for k in RECALLS}
    return {**recalls, "median_rank": float(np.median(ranks))}


def candidate_recall(candidates: Ints, right: Sequence[Ints]) -> float:
    """Return the share of queries with a right answer among their candidates [Q, k]: re-ranking's ceiling."""
    found = [np.isin(row, answers).any() for row, answers in zip(candidates, right, strict=True)]
    return float(np.mean(found))


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


def filled_matrix(shape: tuple[int, int], candidates: Ints, candidate_scores: Floats) -> Floats:
    """Return the published re-ranked matrix [Q, C]: new scores at the candidates, `NOT_RANKED` elsewhere."""
    matrix = np.full(shape, NOT_RANKED, dtype=candidate_scores.dtype)
    np.put_along_axis(matrix, candidates, candidate_scores, axis=1)
    return matrix

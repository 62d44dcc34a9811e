"""Captioning metrics on runs of words: BLEU, ROUGE-L, CIDEr-D.

Captions are words with blanks between (`caption_words` makes them). Every function returns the figure of the
whole set and that of each picture; callers check their input with `captioning.check_captions`.
"""

import math
from collections import Counter
from collections.abc import Sequence

Words = tuple[str, ...]

_ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9
"""Added to counts above and below the line of BLEU, so that nothing is divided by 0."""
_BETA = 1.2
_SIGMA = 6.0


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[float], list[list[float]]]:
    """Return BLEU-1 to BLEU-4 (Papineni et al., 2002), 0 to 1.

    An n-gram of a candidate counts as often as in the reference that has it most often. A candidate is
    compared in length with the reference whose length is closest (the shorter of two equally close); counts
    and lengths are summed over the set before they are divided. A caption shorter than n words has no
    n-grams: its own BLEU-n is close to 0 or, by the small constants of pycocoevalcap, not quite.

    Returns:
        BLEU-n of the set, [4], and of each picture, [4][N].
    """
    correct, guesses = [0] * _ORDERS, [0] * _ORDERS
    said = closest = 0
    each: list[list[float]] = [[] for _ in range(_ORDERS)]
    for candidate, several in zip(candidates, references, strict=True):
        words = candidate.split()
        counts = ngrams(words)
        most: Counter[Words] = Counter()
        for reference in several:
            most |= ngrams(reference.split())
        hits = [0] * _ORDERS
        for ngram, count in counts.items():
            hits[len(ngram) - 1] += min(count, most[ngram])
        possible = [max(0, len(words) - n) for n in range(_ORDERS)]
        length = min((abs(len(r.split()) - len(words)), len(r.split())) for r in several)[1]
        for scores, score in zip(each, _bleu(hits, possible, len(words), length), strict=True):
            scores.append(score)
        correct = [a + b for a, b in zip(correct, hits, strict=True)]
        guesses = [a + b for a, b in zip(guesses, possible, strict=True)]
        said, closest = said + len(words), closest + length
    return _bleu(correct, guesses, said, closest), each


def _bleu(correct: Sequence[int], guesses: Sequence[int], said: int, closest: int) -> list[float]:
    ratio = (said + _TINY) / (closest + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    found, product = [], 1.0
    for n in range(_ORDERS):
        product *= (correct[n] + _TINY) / (guesses[n] + _SMALL)
        found.append(product ** (1 / (n + 1)) * brevity)
    return found


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return ROUGE-L (Lin, 2004), 0 to 1: the F-measure, beta 1.2, of the longest common subsequence.

    Precision and recall are each the best over the references. The figure of the set is the mean.
    """
    each = []
    for candidate, several in zip(candidates, references, strict=True):
        said = candidate.split(" ")  # an empty caption is one empty word, as in pycocoevalcap
        given = [reference.split(" ") for reference in several]
        common = [longest_common(words, said) for words in given]
        precision = max(common) / len(said)
        recall = max(count / len(words) for count, words in zip(common, given, strict=True))
        above = (1 + _BETA**2) * precision * recall
        each.append(above / (recall + _BETA**2 * precision) if above else 0.0)
    return math.fsum(each) / len(each), each


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return CIDEr-D (Vedantam et al., 2015), 0 to 10, as the evaluation of COCO captions prints it.

    Captions are vectors of n-grams, n = 1 to 4, weighted by how often they are said and by log(pictures /
    pictures with such a reference). A candidate's weights are cut to those of the reference, and captions of
    different length lose by a Gaussian (sigma 6) of the difference. Of a single picture all weights are 0.
    """
    cooked = [[ngrams(reference.split()) for reference in several] for several in references]
    frequency = Counter(ngram for several in cooked for ngram in {key for one in several for key in one})
    pictures = math.log(len(references))
    each = []
    for candidate, several in zip(candidates, cooked, strict=True):
        said = _Weighted(ngrams(candidate.split()), frequency, pictures)
        given = [_Weighted(one, frequency, pictures) for one in several]
        total = sum(said.likeness(one) for one in given)
        each.append(10.0 * total / len(given))
    return math.fsum(each) / len(each), each


class _Weighted:
    """A caption as a vector of weights for each n."""

    def __init__(self, counts: Counter[Words], frequency: Counter[Words], pictures: float) -> None:
        self.weights: list[dict[Words, float]] = [{} for _ in range(_ORDERS)]
        self.length = 0
        """Pairs of neighbours, which stand for the length, as in pycocoevalcap."""
        for ngram, count in counts.items():
            weight = count * (pictures - math.log(max(1, frequency[ngram])))
            self.weights[len(ngram) - 1][ngram] = weight
            self.length += count if len(ngram) == 2 else 0
        self.norms = [math.sqrt(sum(w * w for w in weights.values())) for weights in self.weights]

    def likeness(self, reference: "_Weighted") -> float:
        """Return how like this candidate is to a reference, 0 to 1."""
        total = 0.0
        for n in range(_ORDERS):
            theirs = reference.weights[n]
            common = sum(min(w, theirs[k]) * theirs[k] for k, w in self.weights[n].items() if k in theirs)
            norm = self.norms[n] * reference.norms[n]
            total += common / norm if norm else common
        gap = self.length - reference.length
        return total / _ORDERS * math.exp(-(gap**2) / (2 * _SIGMA**2))


def ngrams(words: Sequence[str]) -> Counter[Words]:
    """Count the runs of 1 to 4 words."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _ORDERS + 1) for start in range(len(words) - n + 1)
    )


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words the longest subsequence that both have has; words between may be left out."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for at, other in enumerate(second, 1):
            above = row[at]
            row[at] = before + 1 if word == other else max(above, row[at - 1])
            before = above
    return row[-1]

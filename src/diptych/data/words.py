"""Ranking the words of a corpus by how often they carry meaning (SNP-S3's significant words).

Counting is done in `diptych words mine`; here is what follows from the counts. Words are those of a
tokenizer's vocabulary, V of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("verb", "noun", "adj")
"""Kinds of words that count; numerals are counted, and left out of the ranking."""
ABANDONED = ("be", "is", "was", "were", "are")
"""Words that are never significant; for WebVid published with `background` and `backgrounds` as well."""

Counts = Mapping[str, Mapping[str, int]]
"""Kind in capitals (VERB, NOUN, ADJ, NUM) -> word as it stands -> number."""


@dataclass(frozen=True)
class Ranked:
    """Counts and ranks of all words of a vocabulary; every list has V entries."""

    names: Sequence[str]
    totals: list[int]
    counts: dict[str, list[int]]
    """Kind -> numbers."""
    ranks: list[int]
    """Place of the first word with the same total, most frequent first; words without any share the last."""
    shares: dict[str, list[float]]
    """Kind -> share of the word's total."""

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of the published files, in their order."""
        return {
            "id": list(range(len(self.names))),
            "name": list(self.names),
            "total_count": self.totals,
            **{f"{kind}_count": self.counts[kind] for kind in KINDS},
            "rank": self.ranks,
            **{f"{kind}_percentage": self.shares[kind] for kind in KINDS},
        }


def rank_words(counts: Counts, vocabulary: Sequence[str], abandoned: Collection[str] = ABANDONED) -> Ranked:
    """Rank a vocabulary by how often its words occur as verb, noun or adjective (second published stage).

    Counted words that are no entry of the vocabulary, have a single letter, or are abandoned do not count.
    """
    ids = {name: i for i, name in enumerate(vocabulary)}
    found = {kind: [0] * len(vocabulary) for kind in KINDS}
    for kind in KINDS:
        for word, number in counts.get(kind.upper(), {}).items():
            if word in ids and len(word) > 1 and word not in abandoned:
                found[kind][ids[word]] += number
    totals = [sum(column) for column in zip(*found.values(), strict=True)]
    first: dict[int, int] = {}
    for place, total in enumerate(sorted(totals, reverse=True)):
        first.setdefault(total, place)
    shares = {
        kind: [n / max(total, 0.1) for n, total in zip(numbers, totals, strict=True)]
        for kind, numbers in found.items()
    }
    return Ranked(vocabulary, totals, found, [first[total] for total in totals], shares)


def keep_main_kinds(ranked: Ranked, threshold: float = 0.25) -> Ranked:
    """Take from every word the kinds that it seldom is (third published stage); ranks and totals stay.

    Args:
        ranked: what `rank_words` returned.
        threshold: kinds with a smaller share of a word's total go; the shares left add up to 1.
    """
    counts = {kind: list(numbers) for kind, numbers in ranked.counts.items()}
    shares = {kind: list(values) for kind, values in ranked.shares.items()}
    for i in range(len(ranked.names)):
        for kind in KINDS:
            if shares[kind][i] < threshold:
                counts[kind][i], shares[kind][i] = 0, 0.0
        total = sum(shares[kind][i] for kind in KINDS)
        for kind in KINDS:
            shares[kind][i] = shares[kind][i] / total if total else 0.0
    return Ranked(ranked.names, ranked.totals, counts, ranked.ranks, shares)


def group_words(ranked: Ranked, top: int, thresholds: Sequence[int]) -> dict[str, Any]:
    """Return the published auxiliary file: shares of frequent words, and words by how often they occur.

    Args:
        ranked: what `keep_main_kinds` returned.
        top: words up to this rank are looked at.
        thresholds: falling numbers; the j-th group of a kind holds the words that occur at least so often,
            those of the groups before it too.
    """
    frequent = [i for i, rank in enumerate(ranked.ranks) if rank <= top]
    shares: list[dict[str, float]] = [{} for _ in ranked.names]
    for i in frequent:
        shares[i] = {kind: ranked.shares[kind][i] for kind in KINDS if ranked.shares[kind][i] > 0}
    result: dict[str, Any] = {"percentage_all": shares}
    for kind in KINDS:
        numbers = ranked.counts[kind]
        known = {numbers[i] for i in frequent if numbers[i] > 0}
        proper = [i for i, number in enumerate(numbers) if number in known]
        groups = [[i for i in proper if numbers[i] >= least] for least in thresholds]
        result[f"{kind}_choice"] = {"proper_choice_list": proper, "group_num_lists": groups}
    return result

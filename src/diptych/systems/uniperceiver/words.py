"""Masked words: lines of text joined to sequences, and whole words hidden."""

from collections.abc import Iterable, Sequence
from random import Random

IGNORED = -1
"""Label of tokens that are not to be said."""
_HIDDEN, _REPLACED = 0.8, 0.9


def mask_words(
    words: Iterable[Sequence[int]], random: Random, *, slot: int, vocabulary: int, ratio: float = 0.15
) -> tuple[list[int], list[int]]:
    """Hide whole words as published: of `ratio` of them, 80% become slots, 10% other tokens, 10% stay.

    Draws are one uniform number a word, then one token a piece where pieces are replaced (any token of the
    vocabulary, special ones included).

    Args:
        words: ids of the pieces of each word.
        random: of this sequence.
        slot: id that hidden pieces get.
        vocabulary: number of tokens.
        ratio: share of words, 0 to 1.

    Returns:
        The ids to show and, as many, the labels: the id that was there, or -1.
    """
    shown: list[int] = []
    labels: list[int] = []
    for pieces in words:
        fate = random.random()
        if fate >= ratio:
            shown += pieces
            labels += [IGNORED] * len(pieces)
            continue
        fate /= ratio
        if fate < _HIDDEN:
            shown += [slot] * len(pieces)
        elif fate < _REPLACED:
            shown += [random.choice(range(vocabulary)) for _ in pieces]
        else:
            shown += pieces
        labels += pieces
    return shown, labels


def cut_words(
    lines: Sequence[Sequence[Sequence[int]]], end: int, least: int = 128
) -> list[list[Sequence[int]]]:
    """Return all lines as sequences of at least `least` words (the last one may have fewer), each line once.

    Args:
        lines: words of each line, as ids of their pieces.
        end: id of the end token, which stands behind each line and counts as a word.
        least: words.
    """
    found: list[list[Sequence[int]]] = [[]]
    for line in lines:
        if len(found[-1]) >= least:
            found.append([])
        found[-1] += [*line, (end,)]
    return [words for words in found if words]


def gather_words(
    lines: Sequence[Sequence[Sequence[int]]], start: int, end: int, least: int = 128
) -> list[Sequence[int]]:
    """Return the words of a line and of those behind it until there are `least`; an end token ends each.

    Behind the last line comes the first one; no line is taken twice.

    Args:
        lines: words of each line, as ids of their pieces.
        start: the first line.
        end: id of the end token, which counts as a word and may be hidden like one.
        least: words.
    """
    found: list[Sequence[int]] = []
    for step in range(len(lines)):
        if len(found) >= least:
            break
        found += [*lines[(start + step) % len(lines)], (end,)]
    return found


def fit_words(ids: Sequence[int], labels: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Return ids and labels of exactly `length` tokens: cut in front of the last one, or filled up.

    Filling is id 0 with label -1 and, as published, no mask that would hide it.
    """
    missing = length - len(ids)
    if missing >= 0:
        return [*ids, *[0] * missing], [*labels, *[IGNORED] * missing]
    return [*ids[: length - 1], ids[-1]], [*labels[: length - 1], labels[-1]]

"""Answers of VQA v2: the rules of the official evaluation, published scores, lists to choose from."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from diptych.errors import DataError

LEAST = 9
"""Questions that have the same answer before it is one to choose from."""

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_SPELLED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_SOFT = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}


def _misspelled(words: Sequence[str]) -> dict[str, str]:
    """Return each word without one of its apostrophes -> the word."""
    return {
        word[:i] + word[i + 1 :]: word for word in words for i, letter in enumerate(word) if letter == "'"
    }


# I'm, I've and I'd've stand in capitals in the official table, where lower-cased words never find them, and
# one of its rows is the wrong way round.
_CONTRACTIONS = _misspelled(_SPELLED.split()) | {"somebody'd": "somebodyd"}


def strip_answer(answer: str) -> str:
    """Return the answer with line breaks and tabs as spaces, without spaces around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 16)
def normalise_answer(answer: str) -> str:
    """Return an answer by the rules of the official evaluation.

    Punctuation goes (it becomes a space between letters), number words become digits, articles go, words get
    their apostrophes back, everything is in lower case. May be empty.
    """
    text = out = strip_answer(answer)
    joined = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if joined or beside_space else " ")
    # The official code takes away the first 32 periods only; answers do not have more.
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", out, count=32).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def canonical_answer(answer: str) -> str:
    """Return the normalised answer; where nothing is left of it ("a"), the answer itself in lower case."""
    return normalise_answer(answer) or strip_answer(answer).lower()


def soft_score(count: int) -> float:
    """Return the published score of an answer that so many people gave: 0.3, 0.6, 0.9, then 1."""
    return _SOFT.get(count, 1.0)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Return the published training target of each answer that people gave to a question."""
    return {answer: soft_score(count) for answer, count in Counter(answers).items()}


def vocabulary_answer(answer: str) -> str:
    """Return an answer as lists of answers have it: by the rules of the evaluation, and without commas."""
    return normalise_answer(answer).replace(",", "")


def answer_list(answers: Iterable[str], least: int = LEAST) -> list[str]:
    """Return the answers to choose from: those that enough questions have, by the published rule.

    The most frequent comes first; equally frequent ones are in the order of the alphabet. The published list
    of VQA v2 has the same answers in another order, which only its file tells.

    Args:
        answers: the principal answer (`multiple_choice_answer`) of each question.
        least: questions that have to share an answer.
    """
    counts = Counter(map(vocabulary_answer, answers))
    kept = [(answer, count) for answer, count in counts.items() if count >= least]
    return [answer for answer, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))]


def as_answer_list(content: Any, where: str) -> list[str]:
    """Return the list of answers that a published file holds: a list, or a table from answers to numbers.

    Args:
        content: what was read.
        where: names the file in messages.

    Raises:
        DataError: it is neither, an answer is there twice, or the numbers are not 0, 1, 2, ...
    """
    if isinstance(content, dict):
        numbers = list(content.values())
        if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
            raise DataError(f"{where}: expected a table from answers to the numbers 0, 1, 2, ...")
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not content or not all(isinstance(text, str) for text in content):
        raise DataError(f"{where}: expected a list of texts, or a table from texts to numbers")
    twice = [answer for answer, count in Counter(content).items() if count > 1]
    if twice:
        raise DataError(f"{where}: the answer {twice[0]!r} is there twice; each has to be there once")
    return list(content)

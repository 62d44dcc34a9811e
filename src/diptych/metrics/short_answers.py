"""Scores of answers that a language model writes: options of a choice, numbers read off a chart.

MVBench's rules and ChartQA's. What short answers to VQA questions score is in `metrics/vqa.py`.
"""

import math
import re
from collections.abc import Sequence
from string import ascii_uppercase

_FIRST = re.compile(r"[\s(\[\"'*]*([A-Za-z])(?![A-Za-z0-9'])")
_NAMED = re.compile(r"\(([A-Z])\)")


def option_letter(answer: str, count: int) -> int | None:
    """Return which of the options an answer names, 0 for the first; None: none, or not one alone.

    The letter must come first: in brackets, before a full stop, colon, comma or bracket, or all by itself. A
    capital in brackets further on that is another option ("(A) or (C)") makes the answer no answer.

    Args:
        answer: what the model wrote, with or without the opening bracket of a forced beginning.
        count: number of options.
    """
    found = _FIRST.match(answer)
    if found is None:
        return None
    letter, behind = found.group(1).upper(), answer[found.end() :]
    opened = "(" in answer[: found.start(1)] or "[" in answer[: found.start(1)]
    # "a red ball" begins with a word, and so does "(a red ball": only what closes the letter counts.
    if behind.strip() and behind[0] not in ").:,]*\n" and not (opened and found.group(1).isupper()):
        return None
    if any(other != letter for other in _NAMED.findall(behind)):
        return None
    place = ascii_uppercase.index(letter)
    return place if place < count else None


def published_choice(answer: str, truth: str) -> bool:
    """Return MVBench's published verdict, with its defect: an empty answer is right.

    The first words are compared in lower case: one must be part of the other, a full stop removed. An answer
    that is the forced opening bracket alone is part of every truth.

    Args:
        answer: with its opening bracket, as `(A) text`.
        truth: the right option, as `(A) text`.
    """
    said, right = (text.lower().split(" ")[0] for text in (answer, truth))
    return said.replace(".", "") in right or right in said


def option_line(place: int, text: str) -> str:
    """Return an option as MVBench writes it: `(A) text`."""
    return f"({ascii_uppercase[place]}) {text}"


def relaxed_match(answer: str, truth: str, tolerance: float = 0.05) -> bool:
    """Return ChartQA's relaxed verdict: numbers may be off by 5% of the truth, other answers by their case.

    A truth of zero must be written alike. `5%` is 0.05; a number with a comma is none (published).
    """
    said, right = _number(answer), _number(truth)
    if said is not None and right:
        return abs(said - right) / abs(right) <= tolerance
    return answer.strip().lower() == truth.strip().lower()


def relaxed_accuracy(answer: str, truths: Sequence[str], tolerance: float = 0.05) -> float:
    """Return 1 where an answer matches any of several truths (`relaxed_match`), else 0."""
    return float(any(relaxed_match(answer, truth, tolerance) for truth in truths))


def _number(text: str) -> float | None:
    """Read a number; a percent sign divides by 100."""
    text = text.strip()
    try:
        found = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None

"""Visual question answering: the official accuracy, its rules for answers, and published soft scores."""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

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


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the official accuracy of an answer, 0 to 1.

    Each reference is left out once; an answer that n of the others give scores min(1, n / 3); the scores are
    averaged. As in the official code, answers are normalised only where the references differ.

    Args:
        answer: what the model says.
        references: of several people (ten in VQA v2). With one there is nothing to leave out: 1 if both are
            equal once normalised, else 0.
    """
    given = [strip_answer(reference) for reference in references]
    said = strip_answer(answer)
    if len(given) == 1:
        return float(equal_answers(said, given[0]))
    if len(set(given)) > 1:
        given, said = [normalise_answer(reference) for reference in given], normalise_answer(said)
    equal = sum(reference == said for reference in given)
    scores = [min(1.0, (equal - (reference == said)) / 3) for reference in given]
    return sum(scores) / max(len(scores), 1)


def equal_answers(first: str, second: str) -> bool:
    """Return whether two answers are equal once normalised."""
    return canonical_answer(first) == canonical_answer(second)


def canonical_answer(answer: str) -> str:
    """Return the normalised answer; where nothing is left of it ("a"), the answer itself in lower case."""
    return normalise_answer(answer) or strip_answer(answer).lower()


def soft_score(count: int) -> float:
    """Return the published score of an answer that so many people gave: 0.3, 0.6, 0.9, then 1."""
    return _SOFT.get(count, 1.0)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Return the published training target of each answer that people gave to a question."""
    return {answer: soft_score(count) for answer, count in Counter(answers).items()}


def entry_scores(entry: Mapping[str, object]) -> dict[str, float]:
    """Return the training targets of an entry of `meta.questions`: answer -> score; empty without answers.

    Answers of several people score by their number, a single `answer` (and every answer of Visual Genome and
    GQA, which have one each) scores 1.
    """
    answers = entry_answers(entry)
    single = "answers" not in entry or entry.get("dataset") in ("vg", "gqa")
    return dict.fromkeys(answers, 1.0) if single else soft_scores(answers)


def entry_answers(entry: Mapping[str, object]) -> list[str]:
    """Return the right answers of an entry of `meta.questions`; empty where it has none (test splits)."""
    found = entry.get("answers", entry.get("answer"))
    if found is None:
        return []
    return [str(answer) for answer in found] if isinstance(found, list | tuple) else [str(found)]

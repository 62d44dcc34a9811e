"""Visual question answering: the official accuracy, and what an entry of `meta.questions` is right for."""

from collections.abc import Mapping, Sequence

from diptych.data.vqa_answers import canonical_answer, normalise_answer, soft_scores, strip_answer


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


def entry_scores(entry: Mapping[str, object]) -> dict[str, float]:
    """Return the training targets of an entry of `meta.questions`: answer -> score; empty without answers.

    Answers of several people score by their number, a single `answer` (and every answer of Visual Genome and
    GQA, which have one each) scores 1. An entry from published targets has its `scores` already.
    """
    scores = entry.get("scores")
    if isinstance(scores, Mapping):
        return {str(answer): float(score) for answer, score in scores.items()}
    answers = entry_answers(entry)
    single = "answers" not in entry or entry.get("dataset") in ("vg", "gqa")
    return dict.fromkeys(answers, 1.0) if single else soft_scores(answers)


def entry_accuracy(answer: str, entry: Mapping[str, object]) -> float | None:
    """Return the accuracy of an answer to an entry of `meta.questions`, 0 to 1; None: nobody has answered it.

    That is `vqa_accuracy`, or, of an entry from published targets, the score that they give the answer.
    """
    scores = entry.get("scores")
    if isinstance(scores, Mapping):
        return max(
            (float(score) for name, score in scores.items() if equal_answers(answer, name)), default=0.0
        )
    references = entry_answers(entry)
    return vqa_accuracy(answer, references) if references else None


def entry_answers(entry: Mapping[str, object]) -> list[str]:
    """Return the right answers of an entry of `meta.questions`; empty where it has none (test splits)."""
    found = entry.get("answers", entry.get("answer"))
    if found is None:
        return []
    return [str(answer) for answer in found] if isinstance(found, list | tuple) else [str(found)]

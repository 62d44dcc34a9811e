"""The answers that a model chooses from: where their list comes from, and what they are right for.

A answers, B questions.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.vqa_answers import canonical_answer
from diptych.errors import DataError
from diptych.metrics.vqa import entry_answers, entry_scores


class Answers:
    """A list of answers; class i is the i-th.

    An answer of a dataset is looked up as it stands, then by the rules of the official evaluation, so that
    "Two" finds "2".
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._exact = {name: i for i, name in reversed(list(enumerate(names)))}
        self._canonical = {canonical_answer(name): i for i, name in reversed(list(enumerate(names)))}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, answer: str) -> int | None:
        """Return the class of an answer, or None."""
        found = self._exact.get(answer)
        return found if found is not None else self._canonical.get(canonical_answer(answer))

    def targets(self, entries: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the soft targets [B, A] float32 of questions; a row of zeros where no answer is in the list.

        Args:
            entries: what `meta.questions` says of each question.
        """
        targets = torch.zeros(len(entries), len(self))
        for row, entry in enumerate(entries):
            for answer, score in entry_scores(entry).items():
                column = self.find(answer)
                if column is not None:
                    targets[row, column] = max(float(targets[row, column]), score)
        return targets


def read_answers(path: str | Path, key: str = "task.answers") -> list[str]:
    """Read a JSON list of different texts.

    Raises:
        DataError: no such file, or something else in it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{key} = {path}: cannot be read ({error.strerror}); expected a JSON list of answers, or `auto`"
        ) from error
    except ValueError as error:
        raise DataError(f"{key} = {path}: no JSON ({error}); expected a list of answers") from error
    return checked_answers(content, f"{key} = {path}")


def checked_answers(content: Any, where: str) -> list[str]:
    """Return the content if it is a list of different texts.

    Raises:
        DataError: it is not; the message names `where` it is from.
    """
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise DataError(f"{where}: expected a JSON list of texts, one an answer")
    repeated = [name for name, count in Counter(content).items() if count > 1]
    if repeated:
        raise DataError(f"{where}: answers that are there twice: {', '.join(map(repr, repeated[:5]))}")
    return list(content)


def frequent_answers(entries: Iterable[Mapping[str, Any]], count: int) -> list[str]:
    """Return the most frequent answers, at most `count`, by the rules of the official evaluation.

    The most frequent comes first; equally frequent ones are in the order of the alphabet.

    Raises:
        DataError: no question has an answer.
    """
    found: Counter[str] = Counter()
    for entry in entries:
        found.update(map(canonical_answer, entry_answers(entry)))
    if not found:
        raise DataError(
            "task.answers = auto: none of the questions of the training data has an answer; set task.answers "
            "to a JSON list of answers"
        )
    return [name for name, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]]

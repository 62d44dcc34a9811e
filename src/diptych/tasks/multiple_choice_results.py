"""Evaluation of multiple choice: figures, predictions, and the file for a test server."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diptych.data.batch import Batch
from diptych.errors import RunError
from diptych.metrics.accuracy import (
    best_constant,
    best_constant_by_kind,
    by_kind,
    by_order,
    mean,
    shared_accuracy,
)
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.multiple_choice import MultipleChoiceTask


def evaluate_choices(
    task: "MultipleChoiceTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return accuracies over all rows and by kind, a row for each, and a submission file.

    Raises:
        DataError: the split has no such row.
        RunError: the scores are not finite (the model diverged).
    """
    found = collect_rows(task, data, progress, "choice", lambda batch: _chosen(task, batch))
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "questions": len(found.rows),
        "skipped": found.skipped,
        **figures(found.rows),
        "cpu_seconds": found.cpu_seconds,
    }
    return Evaluation(metrics, found.rows, {"submission": submission(found.rows), **found.layers})


def _chosen(task: "MultipleChoiceTask", batch: Batch) -> list[dict[str, Any]]:
    """Return the rows of a batch."""
    from diptych.tasks.multiple_choice import UNKNOWN, choices_of, right_option

    scores = task.logits(batch.to(task.device))[0].cpu()
    if not scores.isfinite().all():
        raise RunError(
            "scores of options are not finite: the weights of this model are damaged or its training diverged"
        )
    rows = []
    for key, entry, found in zip(batch.keys, choices_of(batch), scores.tolist(), strict=True):
        options, right, place = entry["options"], right_option(entry), found.index(max(found))
        known = right != UNKNOWN
        rows.append(
            {
                "key": key,
                "question_id": entry.get("question_id", f"{key}/{entry.get('question', '')}"),
                "question": entry.get("question", ""),
                "kind": str(entry.get("kind") or ""),
                "ordered": entry.get("ordered"),
                "options": options,
                "scores": found,
                "choice": place,
                "answer": options[place],
                "right": [options[right]] if known else [],
                "right_choice": right if known else None,
                "accuracy": shared_accuracy(found, right) if known else None,
            }
        )
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of metrics.json; without right options (test splits) there is no accuracy.

    `chance`: what a guess reaches, and the most frequent place of the right option, overall and by kind.
    """
    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        return {"scored": 0}
    accuracies, kinds = [row["accuracy"] for row in scored], [row["kind"] for row in scored]
    places = [row["right_choice"] for row in scored]
    return {
        "scored": len(scored),
        "headline": "accuracy",
        "accuracy": mean(accuracies),
        "kinds": by_kind(accuracies, kinds),
        **by_order(accuracies, [row["ordered"] for row in scored]),
        "chance": {
            "most_frequent": best_constant(places),
            "most_frequent_by_kind": best_constant_by_kind(places, kinds),
            "random": mean([1 / len(row["options"]) for row in scored]),
        },
    }


def submission(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the choices as a list of `question_id` and `answer`, the place of the chosen option."""
    return [{"question_id": row["question_id"], "answer": row["choice"]} for row in rows]

"""Evaluation of statements about two pictures: figures, predictions, and the file for a test server."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diptych.data.batch import Batch
from diptych.errors import DataError, RunError
from diptych.metrics.accuracy import best_constant, best_constant_by_kind, by_kind, mean
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.nlvr import NlvrTask


def label_of(entry: Mapping[str, Any]) -> bool | None:
    """Return the label of an entry of `meta.statements` (true, false, "True" or "False"); None without one.

    Raises:
        DataError: something else.
    """
    label = entry.get("label")
    if label is None or isinstance(label, bool):
        return label
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(label).lower() not in known:
        raise DataError(f"label of a statement: expected true or false, got {label!r}")
    return known[str(label).lower()]


def evaluate_nlvr(task: "NlvrTask", data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
    """Return accuracies over all statements and by kind, a row for each, and a submission file.

    Raises:
        DataError: the split has no statement.
        RunError: the scores are not finite (the model diverged).
    """
    found = collect_rows(task, data, progress, "statement", lambda batch: _judged(task, batch))
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "statements": len(found.rows),
        "skipped": found.skipped,
        **figures(found.rows),
        "cpu_seconds": found.cpu_seconds,
    }
    return Evaluation(metrics, found.rows, {"submission": submission(found.rows), **found.layers})


def _judged(task: "NlvrTask", batch: Batch) -> list[dict[str, Any]]:
    """Return the rows of a batch."""
    from diptych.tasks.nlvr import statements_of

    logits, _ = task.read(batch.to(task.device))
    scores = logits.softmax(1)[:, 1].cpu()
    if not scores.isfinite().all():
        raise RunError(
            "scores of statements are not finite: the weights of this model are damaged or its training "
            "diverged"
        )
    rows = []
    for key, entry, score in zip(batch.keys, statements_of(batch), scores.tolist(), strict=True):
        label = label_of(entry)
        rows.append(
            {
                "key": key,
                "identifier": entry.get("identifier", f"{key}/{entry.get('statement', '')}"),
                "statement": entry.get("statement", ""),
                "kind": str(entry.get("kind") or ""),
                "answer": score > 0.5,
                "score": score,
                "label": label,
                "right": None if label is None else label == (score > 0.5),
            }
        )
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of metrics.json; without labels (test splits) there is no accuracy.

    `consistency`: of the statements made about several pairs of pictures, the share judged rightly for all of
    them (as the authors of NLVR2 report it). `chance`: what the more frequent label reaches, overall and by
    kind.
    """
    scored = [row for row in rows if row["label"] is not None]
    if not scored:
        return {"scored": 0}
    right = [float(row["right"]) for row in scored]
    kinds = [row["kind"] for row in scored]
    labels = [row["label"] for row in scored]
    groups: dict[str, list[bool]] = {}
    for row in scored:
        groups.setdefault(row["statement"], []).append(row["right"])
    several = [float(all(group)) for group in groups.values() if len(group) > 1]
    return {
        "scored": len(scored),
        "headline": "accuracy",
        "accuracy": mean(right),
        **({"consistency": mean(several)} if several else {}),
        "kinds": by_kind(right, kinds),
        "chance": {
            "most_frequent": best_constant(labels),
            "most_frequent_by_kind": best_constant_by_kind(labels, kinds),
            "random": 0.5,
        },
    }


def submission(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the judgements for a test server: `identifier` and `label` ("True" or "False")."""
    return [{"identifier": row["identifier"], "label": str(row["answer"])} for row in rows]

"""Evaluation of visual question answering: figures, predictions, and the file for a test server."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diptych.data.batch import Batch
from diptych.data.vqa_answers import canonical_answer
from diptych.errors import RunError
from diptych.metrics.accuracy import best_constant, best_constant_by_kind, by_kind, by_order, mean
from diptych.metrics.vqa import entry_accuracy, entry_answers, entry_scores
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.vqa import VqaTask
    from diptych.tasks.vqa_answers import Answers


def evaluate_vqa(task: "VqaTask", data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
    """Return accuracies over all questions and by kind, a row for each question, and a submission file.

    Raises:
        DataError: the split has no question.
        RunError: the scores are not finite (the model diverged).
    """
    found = collect_rows(task, data, progress, "question", lambda batch: _answered(task, batch))
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "questions": len(found.rows),
        "skipped": found.skipped,
        "answers": len(task.answers),
        **figures(found.rows, task.answers),
        "cpu_seconds": found.cpu_seconds,
    }
    return Evaluation(metrics, found.rows, {"submission": submission(found.rows), **found.layers})


def _answered(task: "VqaTask", batch: Batch) -> list[dict[str, Any]]:
    """Return the rows of a batch."""
    from diptych.tasks.vqa import questions_of

    scores = task.probabilities(task.logits(batch.to(task.device))).cpu()
    if not scores.isfinite().all():
        raise RunError(
            "scores of answers are not finite: the weights of this model are damaged or its training diverged"
        )
    best = scores.topk(min(task.config.top, scores.shape[1]), dim=1)
    names, rows = task.answers.names, []
    for i, entry in enumerate(questions_of(batch)):
        top = [
            {"answer": names[c], "score": score}
            for c, score in zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
        ]
        given = entry_scores(entry) if isinstance(entry.get("scores"), Mapping) else None
        right = entry_answers(entry) if given is None else sorted(given, key=lambda a: -given[a])
        rows.append(
            {
                "key": batch.keys[i],
                "question_id": entry.get("question_id", f"{batch.keys[i]}/{entry.get('question', '')}"),
                "question": entry.get("question", ""),
                "kind": str(entry.get("kind") or ""),
                **({"ordered": entry["ordered"]} if "ordered" in entry else {}),
                "answer": top[0]["answer"],
                "right": right,
                "accuracy": entry_accuracy(top[0]["answer"], entry),
                "top": top,
                # What published targets give each answer.
                **({} if given is None else {"scores": given}),
            }
        )
    return rows


def figures(rows: Sequence[dict[str, Any]], answers: "Answers") -> dict[str, Any]:
    """Return the figures of metrics.json; without right answers (test splits) there is no accuracy.

    `top_accuracy` is that of the best of the answers listed, `reachable` what always choosing the best answer
    of the whole list would reach; `chance` what the most frequent answer of this split reaches, overall and
    by kind, and what a random one does.
    """
    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        return {"scored": 0}
    kinds = [row["kind"] for row in scored]
    accuracies = [row["accuracy"] for row in scored]
    # Published targets may have no right answer at all.
    counts = (Counter(map(canonical_answer, row["right"])) for row in scored)
    usual = [count.most_common(1)[0][0] if count else "" for count in counts]
    best = [max((_accuracy(name, row) for name in _known(row, answers)), default=0.0) for row in scored]
    return {
        "scored": len(scored),
        "headline": "accuracy",
        "accuracy": mean(accuracies),
        "kinds": by_kind(accuracies, kinds),
        **by_order(accuracies, [row.get("ordered") for row in scored]),
        "top_accuracy": mean([max(_accuracy(said["answer"], row) for said in row["top"]) for row in scored]),
        "reachable": mean(best),
        "chance": {
            "most_frequent": best_constant(usual),
            "most_frequent_by_kind": best_constant_by_kind(usual, kinds),
            "random": 1 / len(answers),
        },
    }


def _accuracy(answer: str, row: dict[str, Any]) -> float:
    """Return the accuracy of another answer to the question of a row that is scored."""
    entry = {"scores": row["scores"]} if "scores" in row else {"answers": row["right"]}
    return entry_accuracy(answer, entry) or 0.0


def _known(row: dict[str, Any], answers: "Answers") -> list[str]:
    """Return the right answers of a row as the list spells them."""
    found = {answers.find(answer) for answer in row["right"]}
    return [answers.names[i] for i in found if i is not None]


def submission(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the file that test servers take: `question_id` and `answer`, each question once."""
    once = {str(row["question_id"]): row for row in reversed(rows)}
    return [
        {"question_id": row["question_id"], "answer": row["answer"]} for row in reversed(list(once.values()))
    ]

"""Evaluation of instruction tuning: generated answers to questions, or how well answers are foretold."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from diptych.data.batch import Batch
from diptych.data.conversations import question_turn, with_turns
from diptych.data.vqa_answers import canonical_answer
from diptych.metrics.accuracy import best_constant, best_constant_by_kind, by_kind, mean
from diptych.metrics.vqa import entry_accuracy, entry_answers
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.instruct_data import conversations_of, media_of, rows_about
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.instruct import InstructTask


def evaluate_instruct(
    task: "InstructTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return accuracies of generated answers by kind of question, and of foretold tokens in conversations.

    Raises:
        DataError: the split has nothing to talk about.
    """
    found = collect_rows(task, data, progress, "answer", lambda batch: _rows(task, batch.to(task.device)))
    asked = [row for row in found.rows if "answer" in row]
    told = [row for row in found.rows if "tokens" in row]
    metrics: dict[str, Any] = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "blind": task.config.blind,
        "skipped": found.skipped,
        "cpu_seconds": found.cpu_seconds,
    }
    if asked:
        metrics |= _of_questions(asked)
    if told:
        tokens = sum(row["tokens"] for row in told)
        metrics |= {
            "conversations": len(told),
            "token_loss": sum(row["loss"] for row in told) / max(tokens, 1),
            "token_accuracy": sum(row["right"] for row in told) / max(tokens, 1),
        }
        metrics.setdefault("headline", "token_accuracy")
    return Evaluation(metrics, found.rows)


def _rows(task: "InstructTask", batch: Batch) -> list[dict[str, Any]]:
    questions = rows_about(batch)
    talked = batch.extra.get("conversations") or [None] * len(batch)
    rows: list[dict[str, Any]] = []
    asked = [(i, entry) for i, entries in enumerate(questions) for entry in entries if not talked[i]]
    if asked:
        rows += _answered(task, batch, asked)
    others = [i for i in range(len(batch)) if talked[i] or not questions[i]]
    if others:
        rows += _foretold(task, batch.take(torch.tensor(others)))
    return rows


def _answered(task: "InstructTask", batch: Batch, asked: list[tuple[int, Any]]) -> list[dict[str, Any]]:
    """Ask every question by itself."""
    shown = batch.take(torch.tensor([i for i, _ in asked]))
    wording = task.config.wording
    chats = [
        with_turns([(question_turn(entry, wording)[0], "")], wording, media_of(batch, i))
        for i, entry in asked
    ]
    said = task.answers(shown, chats)
    return [
        {
            "key": batch.keys[i],
            "question": entry.get("question", ""),
            "kind": str(entry.get("kind") or ""),
            "answer": answer,
            "right": entry_answers(entry),
            "accuracy": entry_accuracy(answer, entry),
        }
        for (i, entry), answer in zip(asked, said, strict=True)
    ]


def _foretold(task: "InstructTask", batch: Batch) -> list[dict[str, Any]]:
    """Measure each conversation by itself."""
    chats = conversations_of(batch, task.config.wording, 0)
    rows = []
    for i, chat in enumerate(chats):
        loss, right, count = task.predict(batch.take(torch.tensor([i])), [chat])
        rows.append({"key": batch.keys[i], "tokens": int(count), "loss": float(loss), "right": int(right)})
    return rows


def _of_questions(rows: list[dict[str, Any]]) -> dict[str, Any]:
    scored = [row for row in rows if row["accuracy"] is not None]
    figures: dict[str, Any] = {"questions": len(rows), "scored": len(scored)}
    if not scored:
        return figures
    kinds = [row["kind"] for row in scored]
    accuracies = [row["accuracy"] for row in scored]
    usual = [canonical_answer(row["right"][0]) if row["right"] else "" for row in scored]
    return figures | {
        "headline": "accuracy",
        "accuracy": mean(accuracies),
        "kinds": by_kind(accuracies, kinds),
        "chance": {
            "most_frequent": best_constant(usual),
            "most_frequent_by_kind": best_constant_by_kind(usual, kinds),
        },
    }

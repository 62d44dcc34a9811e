"""Figures and predictions of generated answers: choices, short answers, captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from diptych.data.batch import Batch
from diptych.metrics.accuracy import best_constant, best_constant_by_kind, by_kind, by_order, mean
from diptych.metrics.short_answers import option_letter, option_line, published_choice, relaxed_accuracy
from diptych.metrics.vqa import entry_accuracy, entry_answers
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.captioning_results import figures as caption_figures
from diptych.tasks.captioning_results import number_of, one_each
from diptych.tasks.captioning_results import submission as caption_submission
from diptych.tasks.rows import Rows, collect_rows

if TYPE_CHECKING:
    from diptych.tasks.mllm_eval import MllmEvalTask

Progress = Callable[[str, int, int], None]
Entry = Mapping[str, Any]


def evaluate_choices(task: "MllmEvalTask", data: EvalData, progress: Progress) -> Evaluation:
    """Return accuracies over all questions and by kind (task of MVBench), a row for each question.

    Raises:
        DataError: the split has no question with options.
    """
    found = collect_rows(task, data, progress, "question", lambda batch: _chosen(task, batch))
    rows = found.rows
    metrics = _about(task, data, found) | choice_figures(
        rows, published=task.config.choice_scoring == "published"
    )
    return Evaluation(_with_overall(metrics, task.config.overall), rows)


def _chosen(task: "MllmEvalTask", batch: Batch) -> list[dict[str, Any]]:
    from diptych.tasks.mllm_eval import entries_of

    asked = entries_of(batch, options=True)
    if not asked:
        return []
    shown = batch.take(torch.tensor([i for i, _ in asked])).to(task.device)
    said = task.choose(shown, [entry for _, entry in asked])
    return [choice_row(batch.keys[i], entry, text) for (i, entry), text in zip(asked, said, strict=True)]


def choice_row(key: str, entry: Entry, said: str) -> dict[str, Any]:
    """Return the row of a question with options and what was said to it."""
    options = [str(option) for option in entry["options"]]
    right = right_option(entry, options)
    choice = option_letter(said, len(options))
    known = right is not None
    return {
        "key": key,
        "question": str(entry.get("question", "")),
        "kind": str(entry.get("kind") or ""),
        "ordered": entry.get("ordered"),
        "options": options,
        "said": said,
        "choice": choice,
        "answer": "" if choice is None else options[choice],
        "right": [] if right is None else [options[right]],
        "right_choice": right,
        "accuracy": float(choice == right) if known else None,
        "published_accuracy": None
        if right is None
        else float(published_choice(said, option_line(right, options[right]))),
    }


def right_option(entry: Entry, options: Sequence[str]) -> int | None:
    """Return the place of the right option, which an entry names by its place or its text; None: unknown."""
    answer = entry.get("answer")
    if isinstance(answer, int) and 0 <= answer < len(options):
        return answer
    return options.index(answer) if isinstance(answer, str) and answer in options else None


def choice_figures(rows: Sequence[dict[str, Any]], *, published: bool = False) -> dict[str, Any]:
    """Return the figures of metrics.json.

    `unreadable`: share of answers that name no option, or not one alone; they are wrong. `tasks` has all
    figures of each kind, `published_accuracy` is by MVBench's own rule.

    Args:
        rows: of `choice_row`.
        published: whether `accuracy` and `kinds` are by that rule, too.
    """
    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        return {"questions": len(rows), "scored": 0}
    name = "published_accuracy" if published else "accuracy"
    kinds = [row["kind"] for row in scored]
    places = [row["right_choice"] for row in scored]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in scored:
        groups.setdefault(row["kind"], []).append(row)
    return {
        "questions": len(rows),
        "scored": len(scored),
        "headline": "accuracy",
        "scoring": "published" if published else "strict",
        "accuracy": mean([row[name] for row in scored]),
        "strict_accuracy": mean([row["accuracy"] for row in scored]),
        "published_accuracy": mean([row["published_accuracy"] for row in scored]),
        "unreadable": mean([float(row["choice"] is None) for row in scored]),
        "kinds": by_kind([row[name] for row in scored], kinds),
        "tasks": {
            kind: {
                "questions": len(own),
                "strict": mean([row["accuracy"] for row in own]),
                "published": mean([row["published_accuracy"] for row in own]),
                "unreadable": mean([float(row["choice"] is None) for row in own]),
                "random": mean([1 / len(row["options"]) for row in own]),
            }
            for kind, own in sorted(groups.items())
            if kind
        },
        **by_order([row[name] for row in scored], [row["ordered"] for row in scored]),
        "chance": {
            "most_frequent": best_constant(places),
            "most_frequent_by_kind": best_constant_by_kind(places, kinds),
            "random": mean([1 / len(row["options"]) for row in scored]),
        },
    }


def evaluate_short(task: "MllmEvalTask", data: EvalData, progress: Progress) -> Evaluation:
    """Return accuracies of short answers, a row for each question, and a submission file.

    Raises:
        DataError: the split has no question.
    """
    found = collect_rows(task, data, progress, "question", lambda batch: _replied(task, batch))
    metrics = _about(task, data, found) | {"score": task.config.score} | short_figures(found.rows)
    answers = [{"question_id": row["question_id"], "answer": row["answer"]} for row in found.rows]
    return Evaluation(_with_overall(metrics, task.config.overall), found.rows, {"submission": answers})


def _replied(task: "MllmEvalTask", batch: Batch) -> list[dict[str, Any]]:
    from diptych.tasks.mllm_eval import entries_of

    asked = entries_of(batch, options=False)
    if not asked:
        return []
    shown = batch.take(torch.tensor([i for i, _ in asked])).to(task.device)
    said = task.reply(shown, [entry for _, entry in asked])
    return [
        {
            "key": batch.keys[i],
            "question_id": entry.get("question_id", f"{batch.keys[i]}/{entry.get('question', '')}"),
            "question": str(entry.get("question", "")),
            "kind": str(entry.get("kind") or ""),
            "answer": answer,
            "right": entry_answers(entry),
            "accuracy": short_accuracy(answer, entry, task.config.score),
        }
        for (i, entry), answer in zip(asked, said, strict=True)
    ]


def short_accuracy(answer: str, entry: Entry, score: str) -> float | None:
    """Return how right an answer is, 0 to 1; None: nobody knows (test splits)."""
    if score == "vqa":
        return entry_accuracy(answer, entry)
    truths = entry_answers(entry)
    if not truths:
        return None
    if score == "relaxed":
        return relaxed_accuracy(answer, truths)
    said = " ".join(answer.lower().split())
    return float(any(said == " ".join(truth.lower().split()) for truth in truths))


def short_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of metrics.json; `chance` is what the most frequent answers reach."""
    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        return {"questions": len(rows), "scored": 0}
    kinds, accuracies = [row["kind"] for row in scored], [row["accuracy"] for row in scored]
    usual = [row["right"][0].strip().lower() if row["right"] else "" for row in scored]
    return {
        "questions": len(rows),
        "scored": len(scored),
        "headline": "accuracy",
        "accuracy": mean(accuracies),
        "kinds": by_kind(accuracies, kinds),
        "chance": {
            "most_frequent": best_constant(usual),
            "most_frequent_by_kind": best_constant_by_kind(usual, kinds),
        },
    }


def evaluate_mllm_captions(task: "MllmEvalTask", data: EvalData, progress: Progress) -> Evaluation:
    """Return the figures of captions, a row for each picture or clip, and a submission file.

    Raises:
        DataError: the split is empty, or a picture has no caption to compare with.
    """
    found = collect_rows(task, data, progress, "picture", lambda batch: _described(task, batch))
    rows = one_each(found.rows)
    figures = caption_figures(rows, meteor=task.config.meteor)
    metrics = _about(task, data, found) | {"pictures": len(rows), **figures}
    return Evaluation(metrics, rows, {"submission": caption_submission(rows)})


def _described(task: "MllmEvalTask", batch: Batch) -> list[dict[str, Any]]:
    captions = batch.captions or [()] * len(batch)
    said = task.describe(batch.to(task.device))
    return [
        {"key": key, "image_id": number_of(key), "caption": text, "references": list(captions[i])}
        for i, (key, text) in enumerate(zip(batch.keys, said, strict=True))
    ]


def _about(task: "MllmEvalTask", data: EvalData, found: Rows) -> dict[str, Any]:
    """Return what was asked of what, and how: figures depend on the prompt and on how words are chosen."""
    config = task.config
    prompt: dict[str, Any] = {"system_text": config.system_text, "short": config.short}
    if config.kind == "captions":
        prompt = {"system_text": config.system_text, "caption": config.caption}
    elif config.kind == "choices":
        prompt = {"prompt": config.prompt, "system_text": config.system_text, "choice": config.choice}
        if config.prompt == "mvbench":
            prompt = {"prompt": config.prompt, "system_text": config.choice_system, "begin": config.begin}
    return {
        "task": task.name,
        "kind": config.kind,
        "dataset": data.dataset,
        "split": data.split,
        "blind": config.blind,
        "asked": prompt,
        "generation": config.answer.model_dump(mode="json"),
        "skipped": found.skipped,
        "cpu_seconds": found.cpu_seconds,
    }


def _with_overall(metrics: dict[str, Any], overall: str) -> dict[str, Any]:
    """Add the mean over kinds; where it is the headline it becomes `accuracy`."""
    kinds = metrics.get("kinds") or {}
    if not kinds:
        return metrics
    over_kinds = mean([entry["accuracy"] for entry in kinds.values()])
    metrics = metrics | {"over_kinds": over_kinds, "over_questions": metrics["accuracy"]}
    return metrics | ({"accuracy": over_kinds} if overall == "kinds" else {})

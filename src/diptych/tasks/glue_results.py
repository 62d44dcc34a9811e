"""Evaluation of GLUE: figures, predictions, and the files that the site takes. C classes."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diptych.data.batch import Batch
from diptych.data.cards.glue import TASKS
from diptych.errors import RunError
from diptych.metrics.glue import RULES, Rule, glue_scores
from diptych.systems.task import EvalData, Evaluation
from diptych.systems.uniperceiver.glue import similarity_scores
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.glue import GlueTask, GlueTaskFacts


def evaluate_glue(task: "GlueTask", data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
    """Return the figures of the task, a row for each example, and its file for the site.

    Raises:
        DataError: the split is empty.
        RunError: the model gives numbers that are not finite.
    """
    found = collect_rows(task, data, progress, "example", lambda batch: _answered(task, batch))
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "glue": task.about.task,
        "examples": len(found.rows),
        "skipped": found.skipped,
        **figures(found.rows, task.about),
        "cpu_seconds": found.cpu_seconds,
    }
    name, text = submission(found.rows, task.about, data.split)
    return Evaluation(metrics, found.rows, found.layers, {name: text})


def _answered(task: "GlueTask", batch: Batch) -> list[dict[str, Any]]:
    """Return the rows of a batch."""
    assert batch.captions is not None  # evaluation batches have them
    logits = task.logits(batch.captions).cpu()
    if not logits.isfinite().all():
        raise RunError(
            "scores of words are not finite: the weights of this model are damaged or its training diverged"
        )
    about = task.about
    scores = similarity_scores(logits).tolist() if about.scores else None
    shares, best = logits.softmax(1).tolist(), logits.argmax(1).tolist()
    told = batch.extra["score" if about.scores else "label"]
    rows: list[dict[str, Any]] = []
    for i, key in enumerate(batch.keys):
        row = {"key": key, "index": batch.extra["index"][i], "sentences": list(batch.captions[i])}
        if scores is not None:
            rows.append({**row, "prediction": scores[i], "right": told[i]})
            continue
        known = None if told[i] is None else {"right": told[i], "right_word": about.classes[told[i]]}
        answer = {"prediction": best[i], "word": about.classes[best[i]], "probabilities": shares[i]}
        rows.append({**row, **answer, **(known or {"right": None})})
    return rows


def figures(rows: Sequence[dict[str, Any]], about: "GlueTaskFacts") -> dict[str, Any]:
    """Return the figures of metrics.json; without right answers (test files) there are none.

    `chance` is what saying the most frequent class everywhere gets.
    """
    scored = [row for row in rows if row["right"] is not None]
    if not scored:
        return {"scored": 0}
    rule = RULES.get(about.like, Rule())
    right = [row["right"] for row in scored]
    scores = glue_scores(rule, [row["prediction"] for row in scored], right)
    found: dict[str, Any] = {
        "scored": len(scored),
        "headline": rule.headline,
        "figures": list(scores),
        **scores,
    }
    if not about.scores:
        usual = Counter(right).most_common(1)[0][0]
        found["chance"] = {"most_frequent": glue_scores(rule, [usual] * len(right), right)}
    return found


def submission(rows: Sequence[dict[str, Any]], about: "GlueTaskFacts", split: str) -> tuple[str, str]:
    """Return name and content of the file that the site takes: `index` and `prediction`, tab-separated.

    Classes are written as the training files write them. Rows that the dataset left out get the most frequent
    answer (of scores 0), since the site wants all of them.
    """
    numbers: dict[int, Any] = {}
    for place, row in enumerate(rows):
        numbers.setdefault(place if row["index"] is None else int(row["index"]), row["prediction"])
    if about.scores:
        said, usual = {i: f"{score:.3f}" for i, score in numbers.items()}, "0.000"
    else:
        known = TASKS[about.task].labels if about.task in TASKS else None
        names = {number: text for text, number in (known or {}).items()}
        said = {i: names.get(label, str(label)) for i, label in numbers.items()}
        usual = Counter(said.values()).most_common(1)[0][0]
    lines = (f"{i}\t{said.get(i, usual)}\n" for i in range(max(said) + 1))
    return file_name(about.task, split), "index\tprediction\n" + "".join(lines)


def file_name(task: str, split: str) -> str:
    """Return what the site calls the file of a task: MNLI has one of each set."""
    if task == "mnli":
        return f"MNLI-{'mm' if split.endswith('mismatched') else 'm'}.tsv"
    folder = TASKS[task].folder if task in TASKS else task
    return f"{'AX' if task == 'ax' else folder}.tsv"

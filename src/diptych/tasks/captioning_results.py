"""Evaluation of captioning: figures, predictions, and the file for a test server."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diptych.data.batch import Batch, views
from diptych.errors import RunError
from diptych.metrics.captioning import caption_scores
from diptych.metrics.captioning_words import caption_words
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.captioning import CaptioningTask

EACH = ("bleu_4", "rouge_l", "cider")
"""Figures of each picture in predictions.jsonl."""
_NUMBER = re.compile(r"\d+")


def evaluate_captioning(
    task: "CaptioningTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return the figures, a row for each picture, and a submission file (COCO's result format).

    Raises:
        DataError: the split is empty, or a picture has no caption to compare with.
        RunError: the model gives numbers that are not finite.
    """
    found = collect_rows(task, data, progress, "picture", lambda batch: _written(task, batch, data.frames))
    rows = one_each(found.rows)
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "pictures": len(rows),
        "repeated": len(found.rows) - len(rows),
        "skipped": found.skipped,
        **figures(rows, meteor=task.config.meteor),
        "beams": task.config.beams,
        "cpu_seconds": found.cpu_seconds,
    }
    return Evaluation(metrics, rows, {"submission": submission(rows), **found.layers})


def _written(task: "CaptioningTask", batch: Batch, frames: int) -> list[dict[str, Any]]:
    """Return the rows of a batch; of clips in several views the first is described."""
    moved = batch.to(task.device)
    assert moved.images is not None  # the engine checks `batch_fields`
    images, sizes = moved.images, moved.image_sizes
    if images.ndim == 5 and frames and images.shape[1] > frames:
        each = images.shape[1] // frames
        images, sizes = views(images, frames)[::each], None if sizes is None else sizes[:, :frames]
    found = task.write(images, sizes)
    log_probs = found.log_probs[:, 0].sum(1).cpu()
    if not log_probs.isfinite().all():
        raise RunError(
            "scores of words are not finite: the weights of this model are damaged or its training diverged"
        )
    ids = batch.extra.get(task.config.image_id) or [None] * len(batch)
    captions = batch.captions or [()] * len(batch)
    return [
        {
            "key": key,
            "image_id": number_of(key if ids[i] is None else ids[i]),
            "caption": task.say(found.ids[i, 0]),
            "log_prob": float(log_probs[i]),
            "references": list(captions[i]),
        }
        for i, key in enumerate(batch.keys)
    ]


def number_of(name: Any) -> Any:
    """Return a picture's name as test servers want it: the number that it is or ends with, else itself."""
    if isinstance(name, str) and (found := re.fullmatch(r"(?:COCO_\w+_)?(\d+)", name)):
        return int(found[1])
    return name


def one_each(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a picture: the first caption of it, beside the references of all its rows."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        first = found.setdefault(row["image_id"], row)
        if first is not row:
            more = [text for text in row["references"] if text not in first["references"]]
            found[row["image_id"]] = {**first, "references": [*first["references"], *more]}
    return list(found.values())


def figures(rows: Sequence[dict[str, Any]], *, meteor: bool = True) -> dict[str, Any]:
    """Return the figures of metrics.json, and put those of each picture into its row.

    `chance` is what saying the most frequent reference of the split of every picture gets. Without any
    references (test sets) there are no figures.
    """
    scored = [row for row in rows if row["references"]]
    if not scored:
        return {"scored": 0}
    references = [row["references"] for row in scored]
    found = caption_scores([row["caption"] for row in scored], references, java="java" if meteor else "")
    unavailable = (
        dict(found.unavailable) if meteor else {**found.unavailable, "meteor": "task.meteor is false"}
    )
    for name in EACH:
        for row, figure in zip(scored, found.each[name], strict=True):
            row[name] = figure
    usual = Counter(text for several in references for text in several).most_common(1)[0][0]
    chance = caption_scores([usual] * len(scored), references, java="").overall
    words = [caption_words(row["caption"]) for row in scored]
    return {
        "scored": len(scored),
        "headline": "cider",
        "figures": list(found.overall),
        **found.overall,
        "unavailable": unavailable,
        "words": sum(map(len, words)) / len(words),
        "different": len({tuple(each) for each in words}) / len(words),
        "chance": {"most_frequent": {"caption": usual, **chance}},
    }


def submission(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what COCO's evaluation and test server take: `image_id` and `caption` of each picture."""
    return [{"image_id": row["image_id"], "caption": row["caption"]} for row in rows]

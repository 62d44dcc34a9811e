"""Evaluation of classification: figures and predictions. V views of a clip, C classes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diptych.data.batch import Batch, views
from diptych.errors import RunError
from diptych.metrics.accuracy import best_constant, mean
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.classes import UNKNOWN
from diptych.tasks.rows import collect_rows

if TYPE_CHECKING:
    from diptych.tasks.classification import ClassificationTask


def evaluate_classification(
    task: "ClassificationTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return accuracies and a row for each picture or clip.

    Raises:
        DataError: the split is empty, or a label is none of the classes.
        RunError: the scores are not finite.
    """
    found = collect_rows(task, data, progress, "picture", lambda batch: _classified(task, batch, data.frames))
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "pictures": len(found.rows),
        "skipped": found.skipped,
        "classes": len(task.classes),
        "target": task.assets()["target"],
        **figures(found.rows, len(task.classes)),
        "cpu_seconds": found.cpu_seconds,
    }
    return Evaluation(metrics, found.rows, found.layers)


def probabilities(
    task: "ClassificationTask", images: Tensor, sizes: Tensor | None = None, frames: int = 0
) -> Tensor:
    """Return probabilities [B, C] of pictures, or of clips whose rows hold several views of `frames` frames.

    Args:
        task: with its classes.
        images: [B, 3, H, W], or [B, V * N, 3, H, W].
        sizes: `Batch.image_sizes`.
        frames: N; 0: all frames of a row are one clip.
    """
    if images.ndim < 5 or frames in (0, images.shape[1]):
        return task.logits(images, sizes).softmax(1)
    count = images.shape[1] // frames
    clips = views(images, frames)
    own = None if sizes is None else sizes.reshape(-1, frames, 2)
    return task.logits(clips, own).softmax(1).view(-1, count, len(task.classes)).mean(1)


def _classified(task: "ClassificationTask", batch: Batch, frames: int) -> list[dict[str, Any]]:
    """Return the rows of a batch."""
    moved = batch.to(task.device)
    assert moved.images is not None
    scores = probabilities(task, moved.images, moved.image_sizes, frames).cpu()
    if not scores.isfinite().all():
        raise RunError(
            "scores of classes are not finite: the weights of this model are damaged or its training diverged"
        )
    names, rows = task.classes.names, []
    best = scores.topk(min(task.config.top, scores.shape[1]), dim=1)
    for i, label in enumerate(task.labels_of(batch).tolist()):
        top = [
            {"class": c, "name": names[c][0], "score": score}
            for c, score in zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
        ]
        rank = None if label == UNKNOWN else int((scores[i] > scores[i, label]).sum()) + 1
        rows.append(
            {
                "key": batch.keys[i],
                "answer": top[0]["name"],
                "right": None if label == UNKNOWN else names[label][0],
                "class": None if label == UNKNOWN else label,
                "rank": rank,
                "correct": None if rank is None else top[0]["class"] == label,
                "top": top,
            }
        )
    return rows


def figures(rows: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    """Return the figures of metrics.json; without labels there is no accuracy.

    `accuracy` and `top5` are shares of the samples, `mean_per_class` the mean of the accuracies of those
    classes that occur; `chance` what the most frequent class of this split reaches, and a random one.
    """
    scored = [row for row in rows if row["class"] is not None]
    if not scored:
        return {"scored": 0}
    right: dict[int, list[float]] = {}
    for row in scored:
        right.setdefault(row["class"], []).append(float(row["correct"]))
    return {
        "scored": len(scored),
        "headline": "accuracy",
        "accuracy": mean([float(row["correct"]) for row in scored]),
        "top5": mean([float(row["rank"] <= 5) for row in scored]),
        "mean_per_class": mean([mean(found) for found in right.values()]),
        "kinds": {},
        "chance": {
            "most_frequent": best_constant([row["class"] for row in scored]),
            "random": 1 / classes,
        },
    }

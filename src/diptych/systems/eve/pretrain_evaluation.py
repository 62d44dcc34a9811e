"""How well masked pre-training rebuilds the hidden signals of a split."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.image import normalise
from diptych.errors import DataError
from diptych.objectives.mlm import mlm_loss
from diptych.systems.eve.hiding import trim
from diptych.systems.task import EvalData, Evaluation

if TYPE_CHECKING:
    from diptych.systems.eve.pretrain import EvePretrainTask

SEED = 0
"""Decides what is hidden, so that figures of one model repeat."""


@torch.no_grad()
def evaluate_pretraining(
    task: "EvePretrainTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return masked-word accuracy and loss, painting error, and what blind guesses would reach.

    `masked_token_accuracy`: share of hidden words guessed rightly. `masked_token_loss`: nats a word.
    `reconstruction_error`: mean squared error a value, of normalised patches if the task's targets are.
    Baselines: always the most frequent hidden word; every patch painted in its expected mean (0).
    Which signals of a sample are hidden depends on a fixed seed and its position.
    """
    training = task.training
    task.eval()
    task.model.reset_routing()
    words: Counter[int] = Counter()
    rows: list[dict[str, Any]] = []
    nats = blind = 0.0
    for batch in data.batches():
        ids, mask = _texts(task, batch)
        assert batch.images is not None
        pixels = normalise(batch.images, task.model.image_spec)
        masked = task.hide(pixels, ids, mask, Draws(SEED, batch.positions))
        rebuilt = task.rebuild(masked)
        targets = masked.ids[masked.selected]
        words.update(targets.tolist())
        nats += float(mlm_loss(rebuilt.words, targets)) * len(targets)
        right = torch.zeros_like(masked.selected)
        right[masked.selected] = rebuilt.words.argmax(1) == targets
        errors = (rebuilt.patches.float() - rebuilt.target).square().flatten(1).mean(1)
        blind += float(rebuilt.target.square().flatten(1).mean(1).sum())
        rows += [
            {"key": key, "masked_tokens": n, "right_tokens": r, "reconstruction_error": e}
            for key, n, r, e in zip(
                batch.keys,
                masked.selected.sum(1).tolist(),
                right.sum(1).tolist(),
                errors.tolist(),
                strict=True,
            )
        ]
        progress("rebuild", len(rows), data.size)
    task.train(training)
    hidden, samples = sum(words.values()), max(len(rows), 1)
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "samples": len(rows),
        "masked_tokens": hidden,
        "masked_token_accuracy": sum(row["right_tokens"] for row in rows) / max(hidden, 1),
        "masked_token_loss": nats / max(hidden, 1),
        "reconstruction_error": sum(row["reconstruction_error"] for row in rows) / samples,
        "baseline": {
            "masked_token_accuracy": max(words.values(), default=0) / max(hidden, 1),
            "reconstruction_error": blind / samples,
        },
    }
    routing = [{"layer": s.layer, "image": s.image, "text": s.text} for s in task.model.routing()]
    return Evaluation(metrics, rows, {"experts": {"layers": routing}} if routing else {})


def _texts(task: "EvePretrainTask", batch: Batch) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, L] of the batch: its own, or its first captions."""
    if batch.text_ids is not None and batch.text_mask is not None:
        return trim(batch.text_ids, batch.text_mask)
    if batch.captions is None or not all(batch.captions):
        raise DataError(
            "masked pre-training is evaluated on pictures with captions, but some samples have none"
        )
    assert batch.images is not None
    first = [captions[0] for captions in batch.captions]
    ids, mask = task.tokenizer.encode(first, task.model.text_spec.max_tokens)
    return trim(ids.to(batch.images.device), mask.to(batch.images.device))

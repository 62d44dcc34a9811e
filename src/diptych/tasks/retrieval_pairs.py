"""Evaluation of retrieval over all pairs: a split is gone through twice, for its texts and for its pictures.

Legend: N pictures, M texts, P image tokens, L text tokens. Memory holds the N x M scores, the texts, and the
pictures of one batch; of several ranks each scores its pictures with all texts.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.errors import DataError, RunError
from diptych.metrics.retrieval import Floats
from diptych.systems.protocol import Visual, tokens_of
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.fused import embed_pictures, visible_text
from diptych.tasks.retrieval_encoding import (
    Pictures,
    Progress,
    Texts,
    add_up,
    check_readable,
    chunks,
    collect_texts,
    join_pictures,
)
from diptych.tasks.retrieval_ranking import CPU_TOKENS
from diptych.tasks.retrieval_results import Ranking, figures, predictions
from diptych.tasks.routing import routing_layers

if TYPE_CHECKING:
    from diptych.tasks.retrieval_matching import RetrievalMatchingTask


@torch.no_grad()
def evaluate_pairs(task: "RetrievalMatchingTask", data: EvalData, progress: Progress) -> Evaluation:
    """Return metrics and predictions of both directions; what is right for what is as in `retrieval`.

    Raises:
        DataError: the split has no readable picture or no caption.
        RunError: scores are not finite (the model diverged).
    """
    started, world = time.process_time(), data.world
    training = task.training
    task.eval()
    task.model.reset_routing()
    try:
        pictures = list_pictures(data, progress)
        texts = collect_texts(task, pictures, data)
        scores = score_pairs(task, data, pictures, texts, progress)
        experts = routing_layers(task.model, world)
    finally:
        task.train(training)
    to_text, to_image = Ranking(scores, texts.right_texts), Ranking(scores.T, texts.right_images)
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "images": len(pictures.keys),
        "texts": len(texts.texts),
        "pairs": scores.size,
        "skipped": pictures.skipped,
        **figures(to_text, to_image, ("matching", ""), task.config.dual_softmax),
        "cpu_seconds": round(sum(world.collect([time.process_time() - started])), 3),
    }
    return Evaluation(metrics, predictions(to_text, to_image, pictures.keys, texts.texts), experts)


def list_pictures(data: EvalData, progress: Progress) -> Pictures:
    """Return keys, match ids and captions of a split, without features.

    Raises:
        DataError: no picture can be read.
    """
    found = Pictures()
    for batch in data.mine.batches():
        for cause, count in batch.skipped.items():
            found.skipped[cause] = found.skipped.get(cause, 0) + count
        if len(batch):
            assert batch.captions is not None  # evaluation batches hold captions
            found.keys += batch.keys
            found.match_ids += batch.match_ids.tolist()
            found.captions += batch.captions
        progress("texts", len(found.keys) + sum(found.skipped.values()), data.mine.size)
    join_pictures(found, [], data.world)
    check_readable(found, data)
    return found


def score_pairs(
    task: "RetrievalMatchingTask", data: EvalData, pictures: Pictures, texts: Texts, progress: Progress
) -> Floats:
    """Return the scores of all pairs, [N, M] float32, the same on all ranks.

    Raises:
        DataError: the pictures are not those of `pictures`.
        RunError: scores are not finite.
    """
    scores = np.zeros((len(pictures.keys), len(texts.texts)), np.float32)
    # Texts of one length beside each other: padding that they share is cut off.
    order = texts.mask.sum(1).argsort(stable=True)
    at, done, total = pictures.own.start, 0, (pictures.own.stop - pictures.own.start) * len(order)
    for batch in data.mine.batches():
        if not len(batch):
            continue
        if batch.keys != pictures.keys[at : at + len(batch)]:
            raise DataError(
                f"{data.dataset}/{data.split}: pictures can be read at one time and not at another "
                f"(around '{batch.keys[0]}')"
            )
        visual = _embed(task, batch)
        limit = _pairs_at_once(task, visual, texts.ids.shape[1])
        for rows in chunks(slice(0, len(batch)), limit):
            count = rows.stop - rows.start
            for columns in chunks(slice(0, len(order)), max(1, limit // count)):
                part = order[columns]
                found = _score(task, visual, torch.arange(rows.start, rows.stop), texts, part)
                scores[at + rows.start : at + rows.stop, part.numpy()] = found
                done += found.size
                progress("pairs", done, total)
        at += len(batch)
    add_up(scores, data.world)
    return scores


def _embed(task: "RetrievalMatchingTask", batch: Batch) -> Tensor | Visual:
    assert batch.images is not None
    sizes = None if batch.image_sizes is None else batch.image_sizes.to(task.device)
    return embed_pictures(task.model, batch.images.to(task.device), task.config.blind, sizes)


def _pairs_at_once(task: "RetrievalMatchingTask", visual: Tensor | Visual, text_tokens: int) -> int:
    tokens = tokens_of(visual)
    if task.device.type != "cpu" or tokens.dim() != 3:
        return task.config.pair_batch
    return min(task.config.pair_batch, max(1, CPU_TOKENS // (tokens.shape[1] + text_tokens)))


def _score(
    task: "RetrievalMatchingTask", visual: Tensor | Visual, rows: Tensor, texts: Texts, part: Tensor
) -> Floats:
    """Score some pictures [n] of a batch with some texts [m]: [n, m] float32."""
    ids, mask = visible_text(texts.ids[part], texts.mask[part], task.tokenizer, task.config.blind)
    keep = int(mask.sum(1).max())
    ids, mask = ids[:, :keep].to(task.device), mask[:, :keep].to(task.device)
    n, m = len(rows), len(part)
    pairs = visual[rows.repeat_interleave(m).to(task.device)]
    fused = task.model.fuse(pairs, ids.repeat(n, 1), mask.repeat(n, 1))
    logits = task.itm(fused.pooled).float()
    score = logits[:, 1] if task.config.score == "itm" else logits[:, 1] - logits[:, 0]
    result: Floats = score.view(n, m).cpu().numpy()
    if not np.isfinite(result).all():
        raise RunError(
            "matching scores are not finite: the weights of this model are damaged or its training diverged"
        )
    return result

"""Evaluation of retrieval: encode a split once, rank by similarity, score the best candidates again.

Legend: N pictures, M texts, P image tokens, L text tokens, D width, k candidates a query. Nothing is larger
than the N x M matrix of similarities: features, candidates and their scores are linear in N and M.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.errors import DataError, RunError
from diptych.metrics.retrieval import Floats, Ints, top_candidates
from diptych.objectives.contrastive import contrastive_logits
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.retrieval_results import Candidates, Ranking, figures, predictions

if TYPE_CHECKING:
    from diptych.tasks.retrieval import RetrievalTask

Progress = Callable[[str, int, int], None]


@dataclass
class Pictures:
    """The pictures of a split, encoded; what re-ranking needs of them stays in `store`."""

    keys: list[str] = field(default_factory=list)
    match_ids: list[int] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    """[N, D] unit vectors on the CPU."""
    store: Tensor = field(default_factory=lambda: torch.empty(0))
    """[N, P, D] embedded pictures, or [N, 3, H, W] pixels where those would need too much memory."""
    embedded: bool = True
    skipped: dict[str, int] = field(default_factory=dict)

    def embedding(self, task: "RetrievalTask", rows: Ints) -> Tensor:
        """Return the embedded pictures of `rows` on the task's device; a repeated row is embedded once."""
        distinct, where = np.unique(rows, return_inverse=True)
        chosen = self.store[torch.from_numpy(distinct)].to(task.device)
        visual = chosen if self.embedded else task.embed(chosen)
        return visual[torch.from_numpy(where).to(task.device)]


@dataclass(frozen=True)
class Texts:
    """The texts of a split, and which pictures they are right for."""

    texts: list[str]
    right_images: list[Ints]
    """For each text the pictures it is right for."""
    right_texts: list[Ints]
    """For each picture the texts that are right for it."""
    ids: Tensor
    """[M, L] int64"""
    mask: Tensor
    """[M, L] bool, padding on the right"""

    def rows(self, task: "RetrievalTask", chosen: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and mask of some texts on the task's device, without the padding they all share.

        The published batching keeps it: there, experts may spend capacity on padding.
        """
        ids, mask = self.ids[chosen], self.mask[chosen]
        keep = ids.shape[1] if task.config.rerank_batching == "queries" else int(mask.sum(1).max())
        return ids[:, :keep].to(task.device), mask[:, :keep].to(task.device)


@torch.no_grad()
def evaluate_retrieval(task: "RetrievalTask", data: EvalData, progress: Progress) -> Evaluation:
    """Return metrics and predictions of both directions; see `docs/evaluation.md` for the rules.

    Raises:
        DataError: the split has no readable picture or no caption.
        RunError: the similarities are not finite (the model diverged).
    """
    started = time.process_time()
    training = task.training
    task.eval()
    task.model.reset_routing()
    try:
        pictures = encode_pictures(task, data, progress)
        texts = collect_texts(task, pictures, data)
        similarity = similarities(task, pictures, encode_texts(task, texts, progress))
        by_image = by_text = None
        if task.itm is not None:
            by_image, by_text = rerank(task, pictures, texts, similarity, progress)
        layers = [{"layer": s.layer, "image": s.image, "text": s.text} for s in task.model.routing()]
    finally:
        task.train(training)
    to_text = Ranking(similarity, texts.right_texts, by_image)
    to_image = Ranking(similarity.T, texts.right_images, by_text)
    metrics = {
        "task": task.name,
        "dataset": data.dataset,
        "split": data.split,
        "images": len(pictures.keys),
        "texts": len(texts.texts),
        "skipped": pictures.skipped,
        **figures(to_text, to_image),
        "cpu_seconds": round(time.process_time() - started, 3),
    }
    rows = predictions(to_text, to_image, pictures.keys, texts.texts)
    return Evaluation(metrics, rows, {"experts": {"layers": layers}} if layers else {})


def encode_pictures(task: "RetrievalTask", data: EvalData, progress: Progress) -> Pictures:
    """Run over the split once; each picture is embedded once and its embedding (or its pixels) kept."""
    found = Pictures()
    features: list[Tensor] = []
    for batch in data.batches():
        for cause, count in batch.skipped.items():
            found.skipped[cause] = found.skipped.get(cause, 0) + count
        if len(batch):
            features.append(_encode_batch(task, batch, found, data.size, done=len(found.keys)))
        progress("pictures", len(found.keys) + sum(found.skipped.values()), data.size)
    if not found.keys:
        causes = f" ({found.skipped})" if found.skipped else ""
        raise DataError(f"{data.dataset}/{data.split}: no readable picture in this selection{causes}")
    found.features = torch.cat(features)
    found.store = found.store[: len(found.keys)]
    return found


def _encode_batch(task: "RetrievalTask", batch: Batch, found: Pictures, size: int, done: int) -> Tensor:
    """Encode one batch, note its keys and captions, and keep what re-ranking needs; features [B, D]."""
    assert batch.images is not None  # evaluation batches hold pictures and captions
    assert batch.captions is not None
    visual = task.embed(batch.images.to(task.device))
    if task.itm is not None:
        if not done:
            needed = visual[0].numel() * visual.element_size() * size
            found.embedded = needed <= task.config.embedding_memory_mb * 2**20
            kept = visual if found.embedded else batch.images
            found.store = torch.empty((size, *kept.shape[1:]), dtype=kept.dtype)
        found.store[done : done + len(batch)] = visual.cpu() if found.embedded else batch.images.cpu()
    found.keys += batch.keys
    found.match_ids += batch.match_ids.tolist()
    found.captions += batch.captions
    encoded = task.model.encode_visual(visual)
    return task.itc.project_visual(task.evaluation_token(encoded)).cpu()


def collect_texts(task: "RetrievalTask", pictures: Pictures, data: EvalData) -> Texts:
    """Collect the captions and work out what is right for what.

    A text is right for a picture if a picture of the same match id has that caption. With `eval_texts:
    distinct` equal captions are one text, right for the pictures of all match ids that have it.
    """
    number: dict[object, int] = {}
    texts: list[str] = []
    ids_of_text: list[set[int]] = []
    for i, captions in enumerate(pictures.captions):
        for c, caption in enumerate(captions):
            name: object = caption if task.config.eval_texts == "distinct" else (i, c)
            if name not in number:
                number[name] = len(texts)
                texts.append(caption)
                ids_of_text.append(set())
            ids_of_text[number[name]].add(pictures.match_ids[i])
    if not texts:
        raise DataError(
            f"{data.dataset}/{data.split}: no picture of this selection has a caption; retrieval needs them"
        )
    images_of_id: dict[int, list[int]] = {}
    for i, match_id in enumerate(pictures.match_ids):
        images_of_id.setdefault(match_id, []).append(i)
    right_images = [sorted(i for m in ids for i in images_of_id[m]) for ids in ids_of_text]
    right_texts: list[list[int]] = [[] for _ in pictures.keys]
    for j, images in enumerate(right_images):
        for i in images:
            right_texts[i].append(j)
    ids, mask = task.tokenizer.encode(texts, data.max_tokens or task.model.text_spec.max_tokens)
    return Texts(texts, _arrays(right_images), _arrays(right_texts), ids, mask)


def _arrays(lists: list[list[int]]) -> list[Ints]:
    return [np.asarray(indices, dtype=np.int64) for indices in lists]


def encode_texts(task: "RetrievalTask", texts: Texts, progress: Progress) -> Tensor:
    """Return the unit vectors of all texts, [M, D] on the CPU."""
    features = []
    for rows in _chunks(len(texts.texts), task.config.text_batch):
        encoded = task.model.encode_text(*texts.rows(task, rows))
        features.append(task.itc.project_text(task.evaluation_token(encoded)).cpu())
        progress("texts", rows.stop, len(texts.texts))
    return torch.cat(features)


def _chunks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def similarities(task: "RetrievalTask", pictures: Pictures, text_features: Tensor) -> Floats:
    """Return the cosine similarities [N, M] float32 (no temperature)."""
    result: Floats = contrastive_logits(pictures.features, text_features, 1.0).numpy()
    if not np.isfinite(result).all():
        raise RunError(
            f"{int((~np.isfinite(result)).sum())} of {result.size} similarities are not finite: the weights "
            "of this model are damaged or its training diverged"
        )
    return result


def score_pairs(task: "RetrievalTask", pictures: Pictures, texts: Texts, image: Ints, text: Ints) -> Floats:
    """Return the matching scores of pairs given as indices [K], in one pass, [K] float32.

    The logit of class 1, or the log-odds where `rerank_score` asks for them.
    """
    assert task.itm is not None
    visual = pictures.embedding(task, image)
    fused = task.model.fuse(visual, *texts.rows(task, torch.from_numpy(text)))
    logits = task.itm(fused.pooled)
    score = logits[:, 1] if task.config.rerank_score == "itm" else logits[:, 1] - logits[:, 0]
    result: Floats = score.float().cpu().numpy()
    return result


def rerank(
    task: "RetrievalTask", pictures: Pictures, texts: Texts, similarity: Floats, progress: Progress
) -> tuple[Candidates, Candidates]:
    """Score the best `k_test` texts of each picture and pictures of each text again."""
    by_image = top_candidates(similarity, task.config.k_test)
    by_text = top_candidates(similarity.T, task.config.k_test)
    score = _score_queries if task.config.rerank_batching == "queries" else _score_union
    image_scores, text_scores = score(task, pictures, texts, by_image, by_text, progress)
    if task.config.rerank_score == "sum":
        scale, weight = 1 / task.itc.current_temperature().item(), task.config.rerank_weight
        image_scores = weight * image_scores + scale * np.take_along_axis(similarity, by_image, 1)
        text_scores = weight * text_scores + scale * np.take_along_axis(similarity.T, by_text, 1)
    return Candidates(by_image, image_scores), Candidates(by_text, text_scores)


def _score_union(
    task: "RetrievalTask", pictures: Pictures, texts: Texts, by_image: Ints, by_text: Ints, progress: Progress
) -> tuple[Floats, Floats]:
    """Score each pair that is a candidate in any direction once; pair (i, j) has the number i * M + j."""
    count = len(texts.texts)
    image_codes = np.arange(len(by_image))[:, None] * count + by_image
    text_codes = by_text * count + np.arange(count)[:, None]
    codes = np.union1d(image_codes, text_codes)
    # Texts of one length beside each other save padding; but where pictures must be embedded again for every
    # batch, the pairs of one picture stay together.
    lengths = (
        texts.mask.sum(1).numpy()[codes % count] if pictures.embedded else np.zeros(len(codes), np.int64)
    )
    order = np.argsort(lengths, kind="stable")
    scores = np.empty(len(codes), dtype=np.float32)
    for part in _chunks(len(codes), task.config.pair_batch):
        pairs = codes[order[part]]
        scores[order[part]] = score_pairs(task, pictures, texts, pairs // count, pairs % count)
        progress("re-ranking", part.stop, len(codes))
    return scores[np.searchsorted(codes, image_codes)], scores[np.searchsorted(codes, text_codes)]


def _score_queries(
    task: "RetrievalTask", pictures: Pictures, texts: Texts, by_image: Ints, by_text: Ints, progress: Progress
) -> tuple[Floats, Floats]:
    """Score as published: one batch for each query of each direction."""
    total = len(by_image) + len(by_text)
    image_scores = np.empty(by_image.shape, dtype=np.float32)
    for i, row in enumerate(by_image):
        image_scores[i] = score_pairs(task, pictures, texts, np.full(len(row), i), row)
        progress("re-ranking", i + 1, total)
    text_scores = np.empty(by_text.shape, dtype=np.float32)
    for j, row in enumerate(by_text):
        text_scores[j] = score_pairs(task, pictures, texts, row, np.full(len(row), j))
        progress("re-ranking", len(by_image) + j + 1, total)
    return image_scores, text_scores

"""Evaluation of retrieval: encode a split once, rank by similarity, score the best candidates again.

Legend: N pictures, M texts, P image tokens, D width, k candidates a query. Nothing is larger than the N x M
matrices of similarities and of new scores, whatever k is.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.errors import RunError
from diptych.metrics.retrieval import Cut, Floats, Ints, top_cut
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.retrieval_base import RankingTask
from diptych.tasks.retrieval_encoding import (
    Pictures,
    Progress,
    Texts,
    add_up,
    collect_texts,
    encode_pictures,
    encode_texts,
    similarities,
)
from diptych.tasks.retrieval_results import Candidates, Ranking, figures, predictions
from diptych.tasks.routing import routing_layers

BATCHES_SORTED = 16
"""So many batches of pairs are sorted by the length of their texts together."""
CPU_TOKENS = 4096
"""Tokens of a batch of pairs on a CPU: beyond its caches larger batches are slower."""


@torch.no_grad()
def evaluate_retrieval(task: RankingTask, data: EvalData, progress: Progress) -> Evaluation:
    """Return metrics and predictions of both directions; see `docs/evaluation.md` for the rules.

    Of several ranks (`data.world`) each encodes and scores its part; all return the same.

    Raises:
        DataError: the split has no readable picture or no caption.
        RunError: similarities or matching scores are not finite (the model diverged).
    """
    started, world = time.process_time(), data.world
    training = task.training
    task.eval()
    task.model.reset_routing()
    try:
        pictures = encode_pictures(task, data, progress)
        texts = collect_texts(task, pictures, data)
        similarity = similarities(task, pictures, encode_texts(task, texts, progress, world), world)
        if task.published_batches and not world.is_main:
            task.model.reset_routing()  # every rank has encoded everything
        by_image = by_text = None
        if task.reads_pairs:
            by_image, by_text = rerank(task, pictures, texts, similarity, progress, world)
        experts = routing_layers(task.model, world)
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
        **figures(to_text, to_image, task.rankings, task.config.dual_softmax),
        "cpu_seconds": round(sum(world.collect([time.process_time() - started])), 3),
    }
    rows = predictions(to_text, to_image, pictures.keys, texts.texts)
    return Evaluation(metrics, rows, experts)


def rerank(
    task: RankingTask,
    pictures: Pictures,
    texts: Texts,
    similarity: Floats,
    progress: Progress,
    world: World = ALONE,
) -> tuple[Candidates, Candidates]:
    """Score the best texts of each picture and the best pictures of each text again.

    Returns:
        Candidates of the pictures, with scores [N, M], and of the texts, with scores [M, N].
    """
    config = task.config
    by_image, by_text = (
        top_cut(scores, k or config.k_test or scores.shape[1])
        for scores, k in ((similarity, config.k_texts), (similarity.T, config.k_images))
    )
    scorer = _Scorer(task, pictures, texts, similarity, progress, world)
    if task.published_batches:
        image_scores, text_scores = scorer.queries(by_image, by_text)
    else:
        image_scores = scorer.union(by_image, by_text)
        text_scores = image_scores.T
    scored = sum(world.collect([scorer.done]))
    return Candidates(by_image, image_scores, scored), Candidates(by_text, text_scores, scored)


class _Scorer:
    """Scores pairs, this rank's share of them, and adds up what the ranks have scored."""

    def __init__(
        self,
        task: RankingTask,
        pictures: Pictures,
        texts: Texts,
        similarity: Floats,
        progress: Progress,
        world: World,
    ) -> None:
        self.task, self.pictures, self.texts, self.similarity = task, pictures, texts, similarity
        self.progress, self.world = progress, world
        self.done = self.total = 0
        """Pairs that this rank has scored, and has to."""

    def union(self, by_image: Cut, by_text: Cut) -> Floats:
        """Score each pair that is a candidate in any direction once: [N, M], NaN elsewhere.

        The pictures of a rank are done block by block: a block is embedded once, and its pairs are batched
        with texts of one length beside each other, which saves padding.
        """
        every_text = np.arange(len(self.texts.texts))
        own = self.pictures.own

        def texts_of(picture: int) -> Ints:
            row = self.similarity[picture]
            chosen = by_image.has(picture, every_text, row) | by_text.has(every_text, picture, row)
            return np.flatnonzero(chosen)

        scores = self._empty(self.similarity.shape, own)
        counts = [len(texts_of(i)) for i in range(own.start, own.stop)]
        self.total = sum(counts)
        lengths = self.texts.mask.sum(1).numpy()
        batch = self._pair_batch()
        for rows in _blocks(counts, own.start, batch):
            chosen = [texts_of(i) for i in range(rows.start, rows.stop)]
            image = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
            text = np.concatenate(chosen)
            order = np.lexsort((image, lengths[text]))
            visual = self.pictures.embedding(self.task, rows)
            for part in np.array_split(order, math.ceil(len(order) / batch)):
                i, j = image[part], text[part]
                pairs = visual[torch.from_numpy(i).to(visual.device)]
                scores[rows.start + i, j] = self._score(pairs, j, self.similarity[rows.start + i, j])
        add_up(scores, self.world)
        return scores

    def _pair_batch(self) -> int:
        """Return how many pairs are scored at once."""
        pairs, image = self.task.config.pair_batch, self.task.model.image_spec.tokens
        if self.task.device.type != "cpu" or not image:
            return pairs
        return min(pairs, max(1, CPU_TOKENS // (image + self.texts.ids.shape[1])))

    def queries(self, by_image: Cut, by_text: Cut) -> tuple[Floats, Floats]:
        """Score as published, each query with its candidates (best first) as one batch: [N, M], [M, N]."""
        directions = ((self.similarity, by_image), (self.similarity.T, by_text))
        shares = [self.world.slice_of(len(similarity)) for similarity, _ in directions]
        self.total = sum(
            cut.k * (own.stop - own.start) for own, (_, cut) in zip(shares, directions, strict=True)
        )
        found = []
        for own, (similarity, cut) in zip(shares, directions, strict=True):
            scores = self._empty(similarity.shape, own)
            for query in range(own.start, own.stop):
                row = similarity[query]
                chosen = cut.candidates(query, row)
                chosen = chosen[np.argsort(-row[chosen], kind="stable")]
                if cut is by_image:
                    one = self.pictures.embedding(self.task, slice(query, query + 1))
                    visual, text = one.expand(len(chosen), *one.shape[1:]), chosen
                else:
                    visual, text = self.pictures.embedding(self.task, chosen), np.full(len(chosen), query)
                scores[query, chosen] = self._score(visual, text, row[chosen])
            add_up(scores, self.world)
            found.append(scores)
        return found[0], found[1]

    def _score(self, visual: Tensor, text: Ints, similarity: Floats) -> Floats:
        """Score pairs of embedded pictures [K, P, D] and texts [K] in one pass: [K] float32."""
        fused = self.task.model.fuse(visual, *self.texts.rows(self.task, torch.from_numpy(text)))
        result: Floats = self.task.pair_scores(fused, torch.from_numpy(similarity)).numpy()
        self.done += len(text)
        self.progress("re-ranking", self.done, self.total)
        if not np.isfinite(result).all():
            raise RunError(
                "matching scores are not finite: the weights of this model are damaged or its training "
                "diverged"
            )
        return result

    @staticmethod
    def _empty(shape: tuple[int, ...], own: slice) -> Floats:
        """Return a matrix [Q, C] whose rows other ranks fill: 0 there, NaN where nothing is scored yet."""
        scores = np.zeros(shape, np.float32)
        scores[own] = np.nan
        return scores


def _blocks(counts: list[int], first: int, batch: int) -> Iterator[slice]:
    """Cut pictures (`first` and those after it, with so many pairs each) into blocks.

    A block has pairs for some batches, so that there are many texts to sort by length, but no more pictures
    than one batch of pairs may have.
    """
    start, pairs = 0, 0
    for i, count in enumerate(counts):
        pairs += count
        if pairs >= BATCHES_SORTED * batch or i + 1 - start == batch or i + 1 == len(counts):
            yield slice(first + start, first + i + 1)
            start, pairs = i + 1, 0

"""Encoding a split for retrieval: features of all pictures and texts, what is right for what, similarities.

Legend: N pictures, M texts, P image tokens, L text tokens, D width. Of several ranks each encodes its part;
afterwards all know all features, and each keeps what re-ranking needs of its own pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.errors import DataError, RunError
from diptych.metrics.retrieval import Floats, Ints
from diptych.objectives.contrastive import contrastive_logits
from diptych.systems.task import EvalData
from diptych.tasks.fused import visible_text
from diptych.tasks.retrieval_base import RankingTask

if TYPE_CHECKING:
    from diptych.tasks.retrieval_matching import RetrievalMatchingTask

Progress = Callable[[str, int, int], None]

SENT_AT_ONCE = 2**22
"""Numbers that ranks send each other at once."""


@dataclass
class Pictures:
    """The pictures of a split, encoded; what re-ranking needs of this rank's stays in `store`."""

    keys: list[str] = field(default_factory=list)
    match_ids: list[int] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    """[N, D] unit vectors on the CPU, or [N, n, D] of n parts of each picture (clips of a video)."""
    store: Tensor = field(default_factory=lambda: torch.empty(0))
    """[own, P, D] embedded pictures, or [own, 3, H, W] pixels where those would need too much memory."""
    embedded: bool = True
    own: slice = field(default_factory=lambda: slice(0, 0))
    """Which of the N pictures this rank has encoded, and has in `store`."""
    skipped: dict[str, int] = field(default_factory=dict)

    def embedding(self, task: RankingTask, rows: slice | Ints) -> Tensor:
        """Return embedded pictures of this rank, by their numbers among all, on the task's device."""
        if isinstance(rows, slice):
            chosen = self.store[rows.start - self.own.start : rows.stop - self.own.start]
        else:
            chosen = self.store[torch.from_numpy(rows - self.own.start)]
        chosen = chosen.to(task.device)
        return chosen if self.embedded else task.embed(chosen)


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

    def rows(self, task: RankingTask, chosen: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and mask of some texts on the task's device, without the padding they all share.

        The published batching keeps it: there, experts may spend capacity on padding.
        """
        ids, mask = visible_text(self.ids[chosen], self.mask[chosen], task.tokenizer, task.config.blind)
        keep = ids.shape[1] if task.published_batches else int(mask.sum(1).max())
        return ids[:, :keep].to(task.device), mask[:, :keep].to(task.device)


def encode_pictures(task: RankingTask, data: EvalData, progress: Progress) -> Pictures:
    """Run over the split once; each picture is embedded once and its embedding (or its pixels) kept.

    Of several ranks each reads its part. With the published batches each reads everything: how the parts
    would be batched is not how the split is, and a text needs all its pictures at one place.
    """
    source, world = (data, ALONE) if task.published_batches else (data.mine, data.world)
    found = Pictures()
    features: list[Tensor] = []
    for batch in source.batches():
        for cause, count in batch.skipped.items():
            found.skipped[cause] = found.skipped.get(cause, 0) + count
        if len(batch):
            features.append(_encode_batch(task, batch, found, source.size, done=len(found.keys)))
        progress("pictures", len(found.keys) + sum(found.skipped.values()), source.size)
    found.store = found.store[: len(found.keys)]
    join_pictures(found, features, world)
    check_readable(found, data)
    return found


def check_readable(found: Pictures, data: EvalData) -> None:
    """Check that a split has pictures.

    Raises:
        DataError: it has none that can be read.
    """
    if not found.keys:
        causes = f" ({found.skipped})" if found.skipped else ""
        raise DataError(f"{data.dataset}/{data.split}: no readable picture in this selection{causes}")


def join_pictures(found: Pictures, features: list[Tensor], world: World) -> None:
    """Make known on all ranks what each has found; the store stays where it is."""
    counts = world.collect([len(found.keys)])
    start = sum(counts[: world.rank])
    found.own = slice(start, start + counts[world.rank])
    found.keys, found.captions = world.collect(found.keys), world.collect(found.captions)
    found.match_ids = world.collect(found.match_ids)
    skipped: dict[str, int] = {}
    for cause, count in world.collect(list(found.skipped.items())):
        skipped[cause] = skipped.get(cause, 0) + count
    found.skipped = skipped
    parts = world.collect(features)
    found.features = torch.cat(parts) if parts else torch.empty(0)


def _encode_batch(task: RankingTask, batch: Batch, found: Pictures, size: int, done: int) -> Tensor:
    """Encode one batch, note its keys and captions, and keep what re-ranking needs; features [B, D]."""
    assert batch.images is not None  # evaluation batches hold pictures and captions
    assert batch.captions is not None
    sizes = None if batch.image_sizes is None else batch.image_sizes.to(task.device)
    visual = task.embed(batch.images.to(task.device), sizes)
    if task.reads_pairs:
        if not done:
            needed = visual[0].numel() * visual.element_size() * size
            # Pictures of several shapes have no common frame to be kept in.
            found.embedded = sizes is not None or needed <= task.config.embedding_memory_mb * 2**20
            kept = visual if found.embedded else batch.images
            found.store = torch.empty((size, *kept.shape[1:]), dtype=kept.dtype)
        found.store[done : done + len(batch)] = visual.cpu() if found.embedded else batch.images.cpu()
    found.keys += batch.keys
    found.match_ids += batch.match_ids.tolist()
    found.captions += batch.captions
    return task.picture_features(task.model.encode_visual(visual)).float().cpu()


def collect_texts(task: "RankingTask | RetrievalMatchingTask", pictures: Pictures, data: EvalData) -> Texts:
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


def encode_texts(task: RankingTask, texts: Texts, progress: Progress, world: World = ALONE) -> Tensor:
    """Return the unit vectors of all texts, [M, D] on the CPU; of several ranks each encodes a part."""
    share = ALONE if task.published_batches else world
    own = share.slice_of(len(texts.texts))
    features = []
    for rows in chunks(own, task.config.text_batch):
        encoded = task.model.encode_text(*texts.rows(task, rows))
        features.append(task.text_features(encoded).float().cpu())
        progress("texts", rows.stop - own.start, own.stop - own.start)
    return torch.cat(share.collect(features))


def chunks(rows: slice, size: int) -> Iterator[slice]:
    """Cut rows into pieces of at most `size`."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def similarities(
    task: RankingTask, pictures: Pictures, text_features: Tensor, world: World = ALONE
) -> Floats:
    """Return the similarities [N, M] float32 (cosines without temperature), the same bits on all ranks."""
    own = world.slice_of(len(pictures.keys))
    with torch.autocast("cpu", enabled=False):
        result = _cosines(pictures.features[own], text_features, task.parts_by)
    if world.size > 1:
        part, result = result, np.zeros((len(pictures.keys), len(text_features)), np.float32)
        result[own] = part
        add_up(result, world)
    if not np.isfinite(result).all():
        raise RunError(
            f"{int((~np.isfinite(result)).sum())} of {result.size} similarities are not finite: the weights "
            "of this model are damaged or its training diverged"
        )
    return result


def _cosines(features: Tensor, texts: Tensor, parts_by: str = "exponentials") -> Floats:
    """Return similarities [N, M] of pictures [N, D], or [N, n, D] in parts, and texts [M, D].

    Those of parts are the logarithm of the sum of their exponentials (published for clips of a video), or
    the `best`.
    """
    if features.dim() == 2:
        whole: Floats = contrastive_logits(features, texts, 1.0).numpy()
        return whole
    result = np.empty((len(features), len(texts)), np.float32)
    for rows in chunks(
        slice(0, len(features)), max(1, SENT_AT_ONCE // max(1, features.shape[1] * len(texts)))
    ):
        scores = torch.einsum("nkd,md->nkm", features[rows], texts)
        result[rows] = (scores.amax(1) if parts_by == "best" else scores.logsumexp(1)).numpy()
    return result


def add_up(matrix: Floats, world: World) -> None:
    """Add the matrices [Q, C] of all ranks up, in place and some rows at a time."""
    if world.size == 1:
        return
    for rows in chunks(slice(0, len(matrix)), max(1, SENT_AT_ONCE // max(1, matrix.shape[1]))):
        matrix[rows] = world.sum(torch.from_numpy(matrix[rows])).numpy()

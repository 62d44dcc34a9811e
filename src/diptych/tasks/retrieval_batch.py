"""The texts of a training batch: which are encoded, and which are right for which pictures, over all ranks.

Legend: B samples of this rank, M texts it encodes (M = B, or the distinct ones), N samples of all ranks, T
texts of all ranks, L text tokens, D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.blocks.collective import Joiner
from diptych.objectives.relation import Relation, picture_text_relation


@dataclass(frozen=True)
class BatchTexts:
    """The texts of a rank's batch as they are encoded."""

    ids: Tensor
    """[M, L] int64"""
    mask: Tensor
    """[M, L] bool"""
    of_sample: Tensor
    """[B] int64: which of the M texts belongs to each sample."""
    match_ids: Tensor
    """[B] int64"""
    distinct: bool
    """Whether equal texts are there once."""

    def relation(self, *, soft: bool) -> Relation:
        """Return which of the M texts are right for the B pictures: by match id (soft), or the own."""
        everybody = slice(0, len(self.match_ids))
        return _relation(self.match_ids, self.of_sample, len(self.ids), everybody, self.distinct, soft)


def batch_texts(ids: Tensor, mask: Tensor, match_ids: Tensor, *, distinct: bool) -> BatchTexts:
    """Arrange the texts of a batch (ids, mask [B, L]; match_ids [B]), equal ones once if `distinct`."""
    if not distinct:
        return BatchTexts(ids, mask, torch.arange(len(ids), device=ids.device), match_ids, distinct)
    first, of_sample = distinct_rows(ids)
    return BatchTexts(ids[first], mask[first], of_sample, match_ids, distinct)


def distinct_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each different row of [B, L] comes first [M] int64, and which of them each row is [B]."""
    different, which = torch.unique(x, dim=0, return_inverse=True)
    numbers = torch.arange(len(x), device=x.device)
    first = torch.full((len(different),), len(x), device=x.device)
    return first.scatter_reduce_(0, which, numbers, "amin"), which


def join_texts(
    texts: BatchTexts, features: Tensor, join: Joiner, max_tokens: int, *, soft: bool
) -> tuple[Tensor, Relation]:
    """Return the features [T, D] of the texts of all ranks, and which are right for this rank's pictures.

    A text that several ranks have is there once if texts are distinct, as in one process.

    Args:
        texts: of this rank.
        features: [M, D] of these texts.
        join: of the samples of the ranks.
        max_tokens: no text is longer, on any rank.
        soft: as in `BatchTexts.relation`.
    """
    if join.world.size == 1:
        return features, texts.relation(soft=soft)
    match_ids = join(texts.match_ids)
    if not texts.distinct:
        numbers = torch.arange(len(match_ids), device=features.device)
        return join(features), _relation(match_ids, numbers, len(numbers), join.own, False, soft)
    # Ranks pad to different lengths, and -1 is no token.
    ids = F.pad(texts.ids.masked_fill(~texts.mask, -1), (0, max_tokens - texts.ids.shape[1]), value=-1)
    first, of_sample = distinct_rows(join(ids[texts.of_sample]))
    joined = join(features[texts.of_sample])[first]
    return joined, _relation(match_ids, of_sample, len(joined), join.own, True, soft)


def _relation(
    match_ids: Tensor, of_sample: Tensor, texts: int, own: slice, distinct: bool, soft: bool
) -> Relation:
    if not soft:
        return Relation(of_sample[own], torch.arange(texts, device=of_sample.device))
    if not distinct:
        return Relation(match_ids[own], match_ids)
    return picture_text_relation(match_ids, of_sample, texts, own)

"""Contrast of clips seen by several queries with texts, and captions word by word (BLIP-2, VideoChat2).

Legend: N clips, M texts, Q queries, E feature width, B captions, L tokens, V words.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.blocks.collective import ALONE, World

Aggregate = Literal["mean", "max"]


def query_similarity(parts: Tensor, texts: Tensor, how: Aggregate) -> Tensor:
    """Return how alike clips and texts are, [N, M] float32: mean or best of the queries' cosines.

    Args:
        parts: [N, Q, E] unit vectors.
        texts: [M, E] unit vectors.
        how: `mean` or `max`.
    """
    with torch.autocast(parts.device.type, enabled=False):
        if how == "mean":
            return parts.float().mean(1) @ texts.float().t()
        return torch.einsum("nqe,me->nmq", parts.float(), texts.float()).amax(2)


def query_contrast(v2t: Tensor, t2v: Tensor, matching: Tensor, world: World = ALONE) -> tuple[Tensor, Tensor]:
    """Return the mean of both soft cross-entropies, and the share of clips whose best text is right.

    Targets are spread evenly over everything that matches.

    Args:
        v2t: [N, M] similarities over temperature of this rank's clips with the texts of all ranks.
        t2v: [N, M] the same of this rank's texts with the clips of all ranks.
        matching: [N, M] bool, True where sample n of this rank and sample m of all are one.
        world: the ranks.
    """
    target = matching.float() / matching.sum(1, keepdim=True)
    terms = [-(target * logits.log_softmax(1)).sum(1) for logits in (v2t, t2v)]
    total = (terms[0] + terms[1]).sum() / 2
    right = matching.gather(1, v2t.detach().argmax(1, keepdim=True)).float()
    return world.mean(total, len(v2t)), world.mean(right.sum(), len(v2t))


def caption_loss(
    logits: Tensor, ids: Tensor, mask: Tensor, smoothing: float = 0.0, world: World = ALONE
) -> Tensor:
    """Return the mean cross-entropy (nats) of each next word of captions; padding does not count.

    Args:
        logits: [B, L, V] at each word.
        ids: [B, L] int64, the words; the first one is never asked for.
        mask: [B, L] bool, True at real tokens.
        smoothing: share of the target that is spread over all words.
        world: the ranks.
    """
    asked = mask[:, 1:].bool()
    total = F.cross_entropy(
        logits[:, :-1][asked].float(), ids[:, 1:][asked], label_smoothing=smoothing, reduction="sum"
    )
    return world.mean(total, asked.sum())

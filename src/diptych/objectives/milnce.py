"""Contrastive losses of video and text: MIL-NCE over clips, and words against clips (LVWM of SNP-S3).

Legend: B texts and videos (text i belongs to video i), n clips of a video, W words of a text, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mil_nce(scores: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the loss of scores [B, B, n] (text, video, clip), a scalar; there is no temperature.

    For each video its middle clip is compared with all texts, and its text with all clips of other videos.
    What stands for the middle clip counts n times, as published. Zero where texts and videos are not equally
    many.

    Args:
        scores: of every text with every clip.
        weights: [B] of the videos; they multiply each video's loss before the mean.
    """
    B, videos, n = scores.shape
    if videos != B:
        return scores.sum() * 0.0
    return mil_nce_pairs(scores.flatten(1).repeat_interleave(n, 0), n, weights)


def mil_nce_pairs(scores: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """Return the loss where every clip has a text of its own: scores [B n, B n] (text, clip).

    A video's texts all belong to each of its clips (Miech et al., MIL-NCE); its middle clip and the text with
    that number are asked about.
    """
    B = len(scores) // n
    asked = torch.arange(B, device=scores.device) * n + n // 2
    video = torch.arange(B * n, device=scores.device) // n
    own = video[asked][:, None] == video  # [B, B n]
    texts = scores[:, asked].t()  # [B, B n]: every text with the middle clip
    clips = scores[asked].masked_fill(own, float("-inf"))
    right = texts.masked_fill(~own, float("-inf"))
    losses = torch.cat([texts, clips], 1).logsumexp(1) - right.logsumexp(1)
    return (losses if weights is None else losses * weights).mean()


def word_clip_scores(words: Tensor, clips: Tensor) -> Tensor:
    """Return [B, B, n]: log of the summed exponentials of a text's words with each clip.

    Args:
        words: [B, W, D] as they are.
        clips: [B, n, D] unit vectors.
    """
    return torch.einsum("iwd,jkd->ijkw", words, clips).logsumexp(3)


def video_scores(scores: Tensor) -> Tensor:
    """Return [B, B] of scores [B, B, n]: log of the summed exponentials over the clips of a video."""
    return scores.logsumexp(2)


def queue_loss(positive: Tensor, negative: Tensor, temperature: float, hardest: int = 0) -> Tensor:
    """Return the mean of -log(share of the positives) of rows of cosines (momentum contrast).

    Args:
        positive: [R, P] with what belongs together.
        negative: [R, K] with a queue.
        temperature: what cosines are divided by.
        hardest: only so many of the largest negatives of each row count; 0: all.
    """
    if hardest:
        negative = negative.topk(hardest, dim=1).values
    both = torch.cat([positive, negative], 1) / temperature
    return (both.logsumexp(1) - (positive / temperature).logsumexp(1)).mean()


def diagonal_ranks(scores: Tensor) -> Tensor:
    """Return how many candidates of each row of [N, N] score above the right one, [N] int64 from 0."""
    right = scores.diagonal()[:, None]
    return (scores > right).sum(1)


def mean_cross_entropy(logits: Tensor, targets: Tensor, ignored: int = -1) -> Tensor:
    """Return the mean cross-entropy of logits [..., V] over targets that are not `ignored`; 0 without any."""
    flat, wanted = logits.flatten(0, -2).float(), targets.flatten()
    total = F.cross_entropy(flat, wanted, ignore_index=ignored, reduction="sum")
    return total / (wanted != ignored).sum().clamp(min=1)

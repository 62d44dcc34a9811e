"""Heads of SNP-S3, and the losses of its levels.

Legend: B samples (text i belongs to video i), n clips, L text tokens, W words, D width.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diptych.blocks.collective import ALONE, World
from diptych.blocks.queue import FeatureQueue, Wrap, follow
from diptych.errors import UsageError
from diptych.objectives.milnce import mil_nce, queue_loss, video_scores, word_clip_scores
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.visual import Clips

CHUNK = 5
"""Texts that are read together with all videos at a time."""


@dataclass(frozen=True)
class Level:
    """A contrastive loss and the scores it comes from."""

    loss: Tensor
    scores: Tensor
    """[B, B] (text, video)."""


def clip_scores(texts: Tensor, clips: Tensor) -> Tensor:
    """Return cosines [B, B, n] of text features [B, D] and clip features [B, n, D]."""
    return torch.einsum("id,jkd->ijk", texts, clips)


def first_level(texts: Tensor, clips: Tensor) -> Level:
    """Compare texts and clips by their features alone (MIL-NCE, without a temperature)."""
    scores = clip_scores(texts, clips)
    return Level(mil_nce(scores), video_scores(scores))


def joint_scores(
    model: SnpS3Model, scorer: PairScorer, words: Tensor, mask: Tensor, tokens: Tensor
) -> Tensor:
    """Score every text with every video by reading them together, [B, B'] (text, video).

    Args:
        model: the network.
        scorer: the head.
        words: [B, L, D] embedded texts.
        mask: [B, L] bool.
        tokens: [B', n, D] clip tokens.
    """
    clips = model.embed_clips(tokens)
    rows = []
    for start in range(0, len(words), CHUNK):
        some, seen = words[start : start + CHUNK], mask[start : start + CHUNK]
        pooled = model.join(
            some.repeat_interleave(len(clips), 0),
            seen.repeat_interleave(len(clips), 0),
            clips.repeat(len(some), 1, 1),
        ).pooled
        rows.append(scorer(pooled).view(len(some), len(clips)))
    return torch.cat(rows)


def second_level(scores: Tensor, weights: Tensor | None = None) -> Level:
    """Compare texts and videos by reading them together; `scores` [B, B]."""
    return Level(mil_nce(scores[..., None], weights), scores)


def word_level(words: Tensor, clips: Tensor) -> Level:
    """Compare significant words [B, W, D] with clip features [B, n, D] (LVWM)."""
    scores = word_clip_scores(words, clips)
    return Level(mil_nce(scores), video_scores(scores))


class Momentum(nn.Module):
    """Slowly following copies of both encoders, and queues of what they made of earlier batches (MoCo).

    Copies and queues are the same on all ranks: parameters that they follow are, and queues take the features
    of every rank.

    Attributes:
        world: the ranks, which share a step.
    """

    def __init__(
        self,
        model: SnpS3Model,
        places: int = 16384,
        momentum: float = 0.9999,
        temperature: float = 0.05,
        wrap: Wrap = "published",
    ) -> None:
        super().__init__()
        self.world: World = ALONE
        self.momentum, self.temperature = momentum, temperature
        self.keys = copy.deepcopy(model)
        del self.keys.cross_pooler
        self.keys.requires_grad_(False)
        self.visual_queue = FeatureQueue(places, model.width, wrap)
        self.text_queue = FeatureQueue(places, model.width, wrap)

    @torch.no_grad()
    def start(self, model: SnpS3Model) -> None:
        """Make the copies equal to the live encoders, which may have been filled after this was built."""
        live = _without_pooler(model).state_dict()
        for name, mine in self.keys.state_dict(keep_vars=True).items():
            mine.data.copy_(live[name])

    def forward(
        self,
        model: SnpS3Model,
        frames: tuple[Tensor, Tensor | None, int],
        raw: tuple[Tensor, Tensor],
        texts: Tensor,
        clips: Tensor,
    ) -> Tensor:
        """Return the loss of text features [B, D] and clip features [B, n, D]; move copies and queues.

        With several ranks: this rank's share of the loss (`World.mean`).

        Args:
            model: the live network.
            frames: what `SnpS3Model.see` takes.
            raw: ids and mask [B, L] of the texts with nothing hidden.
            texts: features of the live network.
            clips: the same.

        Raises:
            UsageError: the ranks hold parts of the weights, which copies cannot follow.
        """
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            raise UsageError(
                "task.level1 = queue keeps copies of the encoders, which do not follow weights that are cut "
                "over ranks; set train.parallel=ddp, or task.level1=batch"
            )
        follow(self.keys, _without_pooler(model), self.momentum)
        with torch.no_grad():
            seen: Clips = self.keys.see(*frames)
            read = self.keys.encode_text(*raw).pooled
        with torch.autocast(texts.device.type, enabled=False):
            loss = self._loss(texts.float(), clips.float(), read.float(), seen.features.float())
        # What the loss was computed with stays as it was: autograd holds on to it.
        self.text_queue.features = self.text_queue.features.clone()
        self.visual_queue.features = self.visual_queue.features.clone()
        self.text_queue.put(read)
        self.visual_queue.put(seen.features.flatten(0, 1))
        return loss

    def _loss(self, texts: Tensor, clips: Tensor, read: Tensor, seen: Tensor) -> Tensor:
        """Compare live features with those of the copies, `read` [B, D] and `seen` [B, n, D]."""
        B, n, D = clips.shape
        visual = (clips * read[:, None]).sum(2).view(B * n, 1)  # each clip with its text
        to_text = queue_loss(visual, clips.view(B * n, D) @ self.text_queue.features.t(), self.temperature)
        text = (texts[:, None] * seen).sum(2)  # each text with the clips of its video
        to_visual = queue_loss(text, texts @ self.visual_queue.features.t(), self.temperature)
        return self.world.mean((to_text + to_visual) / 2 * B, B)


def _without_pooler(model: SnpS3Model) -> nn.Module:
    """Return the parts of a network that have a momentum copy, under the same names."""
    parts = nn.Module()
    for name in ("visual", "text", "layers", "text_pooler"):
        parts.add_module(name, getattr(model, name))
    return parts

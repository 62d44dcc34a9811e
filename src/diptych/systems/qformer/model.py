"""Clips and texts through one Q-Former. Legend: B samples, T frames, N patches, Q queries, L text tokens,
C width of patches, D width of queries, E of the shared features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.qformer import Keys, QFormer
from diptych.blocks.video_vit import VideoVit
from diptych.errors import UsageError
from diptych.systems.protocol import (
    Encoded,
    Fused,
    ImageSpec,
    TextSpec,
    VisionLanguageModel,
    Visual,
    tokens_of,
)
from diptych.systems.qformer.config import CLIP_MEAN, CLIP_STD, MEAN, STD, QFormerSystemConfig

EPS = 1e-12


@dataclass(frozen=True)
class Queried:
    """What the queries saw in clips."""

    states: Tensor
    """[B, Q, D]"""
    parts: Tensor
    """[B, Q, E] float32 unit vectors, one a query."""
    keys: list[Keys]
    """Of each layer: what words of a caption read."""


class QFormerModel(VisionLanguageModel):
    """A video transformer, and a Q-Former that reads its tokens and texts."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"embed_visual", "encode_visual", "encode_text", "fuse"}
    )
    aligned: ClassVar[bool] = True

    def __init__(self, config: QFormerSystemConfig) -> None:
        super().__init__()
        self.config = config
        own, seen = config.qformer, config.video.width
        self.width, self.heads = own.width, own.heads
        mean, std = (MEAN, STD) if config.normalise == "imagenet" else (CLIP_MEAN, CLIP_STD)
        tokens = (config.image_size // config.video.patch_size) ** 2
        self.image_spec = ImageSpec(config.image_size, mean, std, tokens=tokens, frames=config.frames)
        # The last row of the word table starts captions ([DEC]); no text has it.
        self.text_spec = TextSpec(own.max_text_tokens, own.vocab_size - 1)
        self.visual = VideoVit(config.video)
        self.temporal = nn.Parameter(torch.empty(1, config.frames, 1, seen))
        self.visual_norm = nn.LayerNorm(seen, eps=EPS)
        self.qformer = QFormer(own, seen)
        self.visual_projection = nn.Linear(own.width, config.embed_dim)
        self.text_projection = nn.Linear(own.width, config.embed_dim)
        nn.init.trunc_normal_(self.temporal, std=0.02)

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Turn normalised clips [B, T, 3, H, W], or pictures [B, 3, H, W], into tokens [B, T * N, C].

        Raises:
            UsageError: a clip has more frames than there are temporal embeddings.
        """
        clips = images if images.dim() == 5 else images[:, None]
        T, most = clips.shape[1], self.config.frames
        if most < T:
            raise UsageError(f"a clip of {T} frames: system.frames = {most}; set both to the same number")
        seen = self.visual(clips)  # [B, T, N, C]
        repeated = T == 1 and self.config.stills == "published"
        seen = seen + (self.temporal if repeated else self.temporal[:, :T])
        out: Tensor = self.visual_norm(seen.flatten(1, 2))
        return out

    def query(self, tokens: Tensor) -> Queried:
        """Let the queries look at tokens [B, T * N, C]."""
        found = self.qformer(tokens)
        parts = F.normalize(self.visual_projection(found.queries).float(), dim=-1)
        return Queried(found.queries, parts, found.keys)

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Encode clips or their tokens; `pooled` is the mean of the queries, `parts` are their features."""
        tokens = tokens_of(visual)
        tokens = tokens if tokens.dim() == 3 else self.embed_visual(tokens)
        found = self.query(tokens)
        mask = torch.ones(found.states.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(found.states, found.states.mean(1), mask, parts=found.parts)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [B, L]; `pooled` is the feature [B, E] of the first token, a unit vector."""
        states = self.qformer(None, ids, mask).text
        pooled = F.normalize(self.text_projection(states[:, 0]).float(), dim=-1)
        return Encoded(states, pooled, mask.bool(), pooled_raw=states[:, 0])

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Let queries and words read each other; `pooled` is the mean of the queries."""
        tokens = tokens_of(visual)
        tokens = tokens if tokens.dim() == 3 else self.embed_visual(tokens)
        found = self.qformer(tokens, ids, mask)
        full = torch.ones(found.queries.shape[:2], dtype=torch.bool, device=ids.device)
        return Fused(found.queries, found.text, found.queries.mean(1), full, mask.bool())

    def caption_states(self, keys: list[Keys], ids: Tensor, mask: Tensor) -> Tensor:
        """Read captions word by word behind what the queries saw, [B, L, D].

        Args:
            keys: of `query`.
            ids: [B, L] int64; the first is replaced by the token that starts captions.
            mask: [B, L] bool, True at real tokens.
        """
        begun = ids.clone()
        begun[:, 0] = self.config.qformer.vocab_size - 1
        states: Tensor = self.qformer(None, begun, mask, mode="caption", past=keys).text
        return states

    def words(self) -> Tensor:
        """Return the word table [V, D]; its last row starts captions."""
        assert self.qformer.words is not None
        return self.qformer.words.weight

    def fsdp_units(self) -> list[nn.Module]:
        """Return the layers of both networks."""
        return [*self.visual.blocks, *self.qformer.layers]

    def undecayed(self) -> set[str]:
        """Return the queries and the temporal embedding, as published."""
        return {"qformer.query_tokens", "temporal"}

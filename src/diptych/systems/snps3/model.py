"""The SNP-S3 model: the same layers read texts alone, and texts with clips.

Legend: B samples, N frames, n clips, L text tokens, D width.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.bert import BertEmbedding, BertLayer, draw_bert
from diptych.systems.protocol import (
    Encoded,
    Fused,
    ImageSpec,
    TextSpec,
    VisionLanguageModel,
    Visual,
    tokens_of,
)
from diptych.systems.snps3.config import MEAN, STD, SnpS3Config
from diptych.systems.snps3.visual import Clips, VisualTower

STRIDE = 32
"""Pixels along the side of a cell, for every encoder."""
_CLIP = 1
"""Type of clip tokens; words have type 0."""


class SnpS3Model(VisionLanguageModel):
    """A visual tower beside one text network, which is text encoder and joint encoder.

    A clip is one token of the joint encoder; a picture is a video of one frame.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"embed_visual", "encode_visual", "encode_text", "fuse"}
    )
    aligned: ClassVar[bool] = True

    def __init__(self, config: SnpS3Config) -> None:
        super().__init__()
        self.config = config
        self.width, self.heads = config.width, config.heads
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        self.visual = VisualTower(config)
        size = 0 if config.sizes == "any" else config.image_size
        self.image_spec = ImageSpec(
            size, MEAN, STD, config.frames, sizes=config.sizes, multiple=STRIDE, frames=config.frames
        )
        self.text = BertEmbedding(config.vocab_size, config.max_text_tokens, 2, config.width, config.dropout)
        self.layers = nn.ModuleList(
            BertLayer(config.width, config.heads, config.hidden, config.dropout, config.attention_dropout)
            for _ in range(config.layers)
        )
        self.text_pooler = nn.Linear(config.width, config.width)
        self.cross_pooler = nn.Linear(config.width, config.width)
        for part in (self.text, self.layers, self.text_pooler):
            draw_bert(part.modules(), config.init_std)
        # Published: a copy of the text's at the start, trained by itself from then on.
        self.cross_pooler.load_state_dict(self.text_pooler.state_dict())

    def see(self, frames: Tensor, padding: Tensor | None = None, clips: int = 0) -> Clips:
        """See normalised frames [B, N, 3, H, W] or pictures [B, 3, H, W]; see `VisualTower.forward`."""
        if frames.dim() == 4:
            frames = frames[:, None]
        seen: Clips = self.visual(frames, padding, clips)
        return seen

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Turn normalised frames [B, N, 3, H, W], or pictures, into clip tokens [B, N, D].

        Args:
            images: those of other shapes than the frame are padded at the bottom and on the right with zeros.
            sizes: [B, 2] or [B, N, 2] int64, height and width of the pictures; None: all fill the frame.
        """
        frames = images if images.dim() == 5 else images[:, None]
        if sizes is None:
            return self.see(frames).tokens
        return self.see(frames, self.padded(frames, sizes)).tokens

    def padded(self, frames: Tensor, sizes: Tensor) -> Tensor:
        """Return which pixels of frames [B, N, 3, H, W] count as padding, [B, N, H, W] bool.

        Pictures [B, 3, H, W] are one frame each; `sizes` as `embed_visual` takes them.
        """
        N = frames.shape[1] if frames.dim() == 5 else 1
        H, W = frames.shape[-2:]
        each = sizes if sizes.dim() == 3 else sizes[:, None].expand(-1, N, -1)
        return self.padding(each.flatten(0, 1), H, W).view(-1, N, H, W)

    def padding(self, sizes: Tensor, height: int, width: int) -> Tensor:
        """Return which pixels [R, height, width] of padded pictures of `sizes` [R, 2] count as padding."""
        rows = torch.arange(height, device=sizes.device) >= sizes[:, :1]
        columns = torch.arange(width, device=sizes.device) >= sizes[:, 1:]
        below, beside = rows[:, :, None], columns[:, None]
        return below & beside if self.config.mask == "published" else below | beside

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Return clip tokens [B, n, D], their mean as `pooled`, their features [B, n, D] as `parts`."""
        tokens = self._clip_tokens(visual)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(tokens, tokens.mean(1), mask, parts=self.visual.features(tokens))

    def _clip_tokens(self, visual: Tensor | Visual) -> Tensor:
        given = tokens_of(visual)
        return given if given.dim() == 3 else self.embed_visual(given)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Read texts [B, L]; `pooled` are unit vectors [B, D] float32."""
        hidden = self.run(self.text(ids), mask.bool())
        return Encoded(hidden, self.text_feature(hidden), mask.bool())

    def text_feature(self, hidden: Tensor) -> Tensor:
        """Return the unit vectors [B, D] float32 of texts from their states [B, L, D]."""
        return F.normalize(torch.tanh(self.text_pooler(hidden[:, 0])).float(), dim=-1)

    def run(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the layers over [B, S, D]; `mask` [B, S] bool."""
        for layer in self.layers:
            x = layer(x, mask)
        return x

    @torch.no_grad()
    def word_importance(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L] float32: the attention each token gets, of all tokens and layers, mean over heads."""
        x, mask = self.text(ids), mask.bool()
        total = torch.zeros(ids.shape, device=ids.device)
        for layer in self.layers:
            assert isinstance(layer, BertLayer)
            total += layer.attention(x, mask).mean(1).sum(1)
            x = layer(x, mask)
        return total

    def embed_clips(self, tokens: Tensor) -> Tensor:
        """Turn clip tokens [B, n, D] into inputs of the layers [B, n + 1, D]: places, type, an end token."""
        end = self.text.words.weight[self.config.separator].expand(len(tokens), 1, -1)
        return self.text.place(torch.cat([tokens, end.to(tokens.dtype)], 1), _CLIP)

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Read clips (frames, or tokens [B, n, D]) and texts [B, L] together."""
        clips = self.embed_clips(self._clip_tokens(visual))
        return self.join(self.text(ids), mask.bool(), clips)

    def join(self, words: Tensor, mask: Tensor, clips: Tensor) -> Fused:
        """Run the layers over embedded texts [B, L, D] and embedded clips [B, n + 1, D]."""
        seen = torch.ones(clips.shape[:2], dtype=torch.bool, device=clips.device)
        x = self.run(torch.cat([words, clips], 1), torch.cat([mask, seen], 1))
        L = words.shape[1]
        pooled = torch.tanh(self.cross_pooler(x[:, 0]))
        return Fused(x[:, L:-1], x[:, :L], pooled, seen[:, :-1], mask)

    def fsdp_units(self) -> list[nn.Module]:
        """Return the layers of the text network."""
        return list(self.layers)

"""The SOHO model.

Legend: B batch, P image tokens, L text tokens, D width.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.bert import BertEmbedding, BertLayer, draw_bert
from diptych.blocks.resnet import ResNet
from diptych.blocks.tied import TiedTable
from diptych.systems.protocol import Fused, ImageSpec, TextSpec, VisionLanguageModel, Visual
from diptych.systems.soho.config import MEAN, STD, SohoConfig
from diptych.systems.soho.neck import Neck, Seen


class SohoModel(VisionLanguageModel):
    """A CNN with a neck, and a transformer over text and visual tokens together."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"embed_visual", "fuse"})

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.heads = config.width, config.heads
        self.image_spec = ImageSpec(0, MEAN, STD, sizes="any", multiple=config.backbone.stride)
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        self.backbone = ResNet(config.backbone)
        self.neck = Neck(config, self.backbone.out_channels)
        self.text = BertEmbedding(
            config.vocab_size, config.max_text_tokens, config.token_types, config.width, config.dropout
        )
        self.layers = nn.ModuleList(
            BertLayer(config.width, config.heads, config.hidden, config.dropout, config.attention_dropout)
            for _ in range(config.layers)
        )
        draw_bert(self.text.modules(), config.init_std)
        draw_bert(self.layers.modules(), config.init_std)

    def see(self, images: Tensor, sizes: Tensor | None = None, times: int = 1) -> Seen:
        """Turn normalised pictures [B, 3, H, W] into visual tokens.

        Args:
            images: padded at the bottom and on the right with zeros.
            sizes: [B, 2] int64: height and width of each picture; None: they fill their frames.
            times: how many rows of a batch show each picture; batch statistics count it so often.
        """
        if sizes is None:
            sizes = torch.tensor([images.shape[-2:]], device=images.device).expand(len(images), 2)
        # There is one token at least (64 pixels as published): very thin pictures get more padding.
        missing = [max(0, self.config.cell - side) for side in images.shape[-2:]]
        if any(missing):
            images = F.pad(images, (0, missing[1], 0, missing[0]))
        H, W = images.shape[-2:]
        seen: Seen = self.neck(self.backbone(images), sizes, (H, W), times)
        return seen

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Visual:
        """Turn normalised pictures [B, 3, H, W] of `sizes` [B, 2] into visual tokens and their mask."""
        seen = self.see(images, sizes)
        return Visual(seen.tokens, seen.mask)

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Read pictures (or their tokens) and texts [B, L] together; the first text token is `pooled`."""
        seen = visual if isinstance(visual, Visual) else self.embed_visual(visual)
        mask = mask.bool()
        x, both = self._joined(seen, ids, mask)
        for layer in self.layers:
            x = layer(x, both)
        L = ids.shape[1]
        return Fused(x[:, L:], x[:, :L], x[:, 0], seen.mask, mask)

    def fuse_at(
        self, visual: Visual, ids: Tensor, mask: Tensor, places: Tensor, table: TiedTable | None = None
    ) -> Tensor:
        """Return some of the states of `fuse`, [B, N, D]: the last layer computes no others.

        Args:
            visual: the pictures.
            ids: texts [B, L].
            mask: [B, L], true at their tokens.
            places: [B, N] int64: numbers of tokens, those of the text first.
            table: that of the words, where it is multiplied with in the same step.
        """
        x, both = self._joined(visual, ids, mask.bool(), table)
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, both)
        out: Tensor = last(x, both, places)
        return out

    def _joined(
        self, seen: Visual, ids: Tensor, mask: Tensor, table: TiedTable | None = None
    ) -> tuple[Tensor, Tensor]:
        text = self.text(ids, table=table)
        return torch.cat([text, seen.tokens], 1), torch.cat([mask, seen.mask], 1)

    def fsdp_units(self) -> list[nn.Module]:
        """Return the transformer layers."""
        return list(self.layers)

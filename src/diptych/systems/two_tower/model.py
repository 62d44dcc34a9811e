"""The two-tower model. Legend: B batch, P image tokens (class token first), L text tokens, D width."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from diptych.blocks.embeddings import TextEmbedding, VisualEmbedding
from diptych.blocks.init import draw_linears
from diptych.blocks.positions import fit_positions
from diptych.blocks.stem import build_stem
from diptych.blocks.transformer import TransformerLayer
from diptych.systems.protocol import (
    Encoded,
    ImageSpec,
    TextSpec,
    VisionLanguageModel,
    Visual,
    tokens_of,
)
from diptych.systems.two_tower.config import TwoTowerConfig

EPS = 1e-6


class Tower(nn.Module):
    """Transformer layers and a final norm."""

    def __init__(self, config: TwoTowerConfig, layers: int) -> None:
        super().__init__()
        steps = max(layers - 1, 1)
        self.input_norm = nn.LayerNorm(config.width, eps=EPS)
        self.layers = nn.ModuleList(
            TransformerLayer(
                config.width,
                config.heads,
                config.hidden,
                config.activation,
                layer_scale=config.layer_scale,
                drop_path=config.drop_path * i / steps,
            )
            for i in range(layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        draw_linears(self.layers.modules(), config.init)

    def forward(self, x: Tensor, mask: Tensor | None) -> Encoded:
        """Encode [B, S, D]; `mask` [B, S] bool is False at padding."""
        x = self.input_norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        tokens = self.norm(x)
        full = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        return Encoded(tokens, tokens[:, 0], full, {}, x[:, 0])


class TwoTowerModel(VisionLanguageModel):
    """Separate encoders for pictures and texts, made comparable by a contrastive head."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"embed_visual", "encode_visual", "encode_text"})

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        stem = build_stem(
            config.stem, config.image_size, config.patch_size, config.width, config.conv, config.init
        )
        self.image_spec = ImageSpec(config.image_size, tokens=1 + stem.side**2)
        self.visual = VisualEmbedding(stem, config.width, class_mean=config.class_mean)
        self.text = TextEmbedding(
            config.vocab_size,
            config.max_text_tokens,
            config.width,
            dropout=config.text_dropout,
            eps=EPS,
            word_std=config.word_std,
            class_sum=config.class_sum,
        )
        self.image_tower = Tower(config, config.image_layers)
        self.text_tower = Tower(config, config.text_layers)

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into [B, P, D], positions included."""
        out: Tensor = self.visual(images)
        return out

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Encode pictures [B, 3, H, W] or their embedding [B, P, D]."""
        tokens = tokens_of(visual)
        tokens = self.embed_visual(tokens) if tokens.dim() == 4 else tokens
        encoded: Encoded = self.image_tower(tokens, None)
        return encoded

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [B, L] int64 with their mask [B, L] bool."""
        encoded: Encoded = self.text_tower(self.text(ids, mask), mask.bool())
        return encoded

    def fsdp_units(self) -> list[nn.Module]:
        """Return the transformer layers of both towers."""
        return [*self.image_tower.layers, *self.text_tower.layers]

    def undecayed(self) -> set[str]:
        """Return the position tables (the other undecayed parameters follow from the engine's rule)."""
        return {"visual.positions", "text.positions"}

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights for another picture size with the position table resized to this one's."""
        return fit_positions(state, "visual.positions", self.visual.positions)

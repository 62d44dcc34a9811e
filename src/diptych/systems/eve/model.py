"""The EVE model.

Legend: B batch, P image tokens (class token first), L text tokens, S sequence, D width.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from diptych.blocks.embeddings import TextEmbedding, VisualEmbedding
from diptych.blocks.init import draw_linears, draw_matrix, draw_vector
from diptych.blocks.moe import Mixture
from diptych.blocks.positions import fit_positions
from diptych.blocks.stem import build_stem
from diptych.systems.eve.config import EPS, EveConfig
from diptych.systems.eve.layers import Layout, MultiwayLayer, build_slot
from diptych.systems.protocol import (
    Encoded,
    Fused,
    ImageSpec,
    RoutingStats,
    TextSpec,
    VisionLanguageModel,
    Visual,
    tokens_of,
)


class EveModel(VisionLanguageModel):
    """Multiway transformer for pictures, texts and pairs.

    A visual embedding may hold any subset of a picture's tokens (class token first), since each carries its
    position: that is how masked pre-training reads visible patches only.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"embed_visual", "encode_visual", "encode_text", "fuse"}
    )

    def __init__(self, config: EveConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.heads = config.width, config.heads
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        stem = build_stem(
            config.stem, config.image_size, config.patch_size, config.width, config.conv, config.init
        )
        self.visual = VisualEmbedding(
            stem, config.width, class_mean=config.class_mean, position_std=config.position_std
        )
        self.text = TextEmbedding(
            config.vocab_size,
            config.max_text_tokens,
            config.width,
            dropout=config.text_dropout,
            class_sum=config.class_sum,
            eps=EPS,
            word_std=config.word_std,
            position_std=config.position_std,
        )
        self.input_norm = nn.LayerNorm(config.width, eps=EPS)
        image_tokens = 1 + stem.side**2
        self.image_spec = ImageSpec(config.image_size, tokens=image_tokens)
        steps = max(config.layers - 1, 1)
        self.layers = nn.ModuleList(
            MultiwayLayer(config, build_slot(config, i, image_tokens), config.drop_path * i / steps)
            for i in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self._draw()

    def _draw(self) -> None:
        draw_linears(self.layers.modules(), self.config.init)
        for _, mixture in self._mixtures():
            width, hidden = mixture.experts.fc1_weight.shape[2], mixture.experts.fc1_weight.shape[1]
            draw_matrix(mixture.experts.fc1_weight, self.config.init, width)
            draw_matrix(mixture.experts.fc2_weight, self.config.init, hidden)
            draw_vector(mixture.router.weight)
            for modality in (mixture.image_type, mixture.text_type):
                if modality is not None:
                    draw_vector(modality)

    def _mixtures(self) -> Iterator[tuple[int, Mixture]]:
        for index, layer in enumerate(self.layers):
            yield from ((index, module) for module in layer.modules() if isinstance(module, Mixture))

    @property
    def patch_cell(self) -> int:
        """Pixels along the side of one image token."""
        return self.visual.stem.cell

    @property
    def patch_side(self) -> int:
        """Image tokens along a side of the picture (without the class token)."""
        return self.visual.stem.side

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into [B, P, D], positions included."""
        out: Tensor = self.visual(images)
        return out

    def _visual_tokens(self, visual: Tensor | Visual) -> Tensor:
        tokens = tokens_of(visual)
        return self.embed_visual(tokens) if tokens.dim() == 4 else tokens

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Encode pictures [B, 3, H, W] or their embedding [B, P, D]."""
        x = self._visual_tokens(visual)
        hidden, aux = self._run(x, Layout(x.shape[1], x.shape[1], None))
        tokens = self.norm(hidden)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Encoded(tokens, tokens[:, 0], mask, aux, hidden[:, 0])

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [B, L] int64 with their mask [B, L] bool."""
        x = self.text(ids, mask)
        hidden, aux = self._run(x, Layout(0, x.shape[1], mask.bool()))
        tokens = self.norm(hidden)
        return Encoded(tokens, tokens[:, 0], mask.bool(), aux, hidden[:, 0])

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Read pictures (or embeddings [B, P, D]) and texts [B, L] together.

        The published code splits by a fixed text length (40); here the actual lengths decide, so texts may be
        padded to any length that the position table has.
        """
        image, text = self._visual_tokens(visual), self.text(ids, mask)
        x = torch.cat([image, text], 1)
        P = image.shape[1]
        visual_mask = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
        full = torch.cat([visual_mask, mask.bool()], 1)
        hidden, aux = self._run(x, Layout(P, x.shape[1], full))
        tokens = self.norm(hidden)
        return Fused(tokens[:, :P], tokens[:, P:], tokens[:, P], visual_mask, mask.bool(), aux)

    def _run(self, x: Tensor, layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the states [B, S, D] before the final norm, and the mean balance loss of the layers."""
        x = self.input_norm(x)
        balances = []
        for layer in self.layers:
            x, balance = layer(x, layout)
            if balance is not None:
                balances.append(balance)
        return x, {"routing": torch.stack(balances).mean()} if balances else {}

    def fsdp_units(self) -> list[nn.Module]:
        """Return the transformer layers."""
        return list(self.layers)

    def undecayed(self) -> set[str]:
        """Return the position tables (the other undecayed parameters follow from the engine's rule)."""
        return {"visual.positions", "text.positions"}

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights for another picture size with the position table resized to this one's."""
        return fit_positions(state, "visual.positions", self.visual.positions)

    def routing(self) -> list[RoutingStats]:
        """Return which experts served image and text tokens in eval mode since `reset_routing`."""
        stats = []
        for index, mixture in self._mixtures():
            if mixture.served is not None:
                image, text = mixture.served.tolist()
                stats.append(RoutingStats(index, image, text))
        return stats

    def reset_routing(self) -> None:
        """Forget the counts that `routing` returns."""
        for _, mixture in self._mixtures():
            mixture.reset()

    def expert_load(self) -> dict[int, Tensor]:
        """Return layer -> [E] int64: first choices of this rank's tokens in training since the reset."""
        return {index: mixture.load for index, mixture in self._mixtures() if mixture.load is not None}

    def reset_expert_load(self) -> None:
        """Forget the counts that `expert_load` returns."""
        for _, mixture in self._mixtures():
            mixture.reset_load()

"""A vision encoder, a connector and a causal language model as one network.

Conversations come with as many places as their pictures have tokens; the model writes the projected features
there. So the length of everything is known before the model sees it.

Legend: B samples, N views (tiles) of all pictures, S side of a tile, T tokens of all pictures, R rows, L tokens
of a row, D width of the language model, V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diptych.data.image import normalise
from diptych.errors import UsageError
from diptych.systems.mllm.config import MllmConfig
from diptych.systems.mllm.connector import Connector, Grid
from diptych.systems.mllm.language import LanguageModel
from diptych.systems.mllm.vision import build_encoder, exact_global_views
from diptych.systems.mllm.vision_files import load_weights, read_settings
from diptych.systems.protocol import ImageSpec, TextSpec, VisionLanguageModel


@dataclass(frozen=True)
class Rows:
    """Conversations as the language model reads them, one or several in a row."""

    ids: Tensor
    """[R, L] int64."""
    mask: Tensor
    """[R, L] bool, False at padding."""
    pictures: Tensor
    """[R, L] bool: places of tokens of pictures, which come row after row."""
    positions: Tensor
    """[R, L] int64: place of each token in its own conversation."""
    segments: Tensor | None = None
    """[R, L] int64: number of the conversation that a token belongs to, 0 at padding; None: one a row."""

    def readable(self) -> Tensor | None:
        """Return what each token may read, as `LanguageModel.forward` takes it: nothing of other conversations."""
        if self.segments is None:
            return None if bool(self.mask.all()) else self.mask
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return same.tril() & self.mask[:, None, :]


class MllmModel(VisionLanguageModel):
    """See the module's text."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"converse"})

    def __init__(self, config: MllmConfig) -> None:
        """Build it; parts that come from folders are loaded."""
        super().__init__()
        self.config = config
        seen = read_settings(config.vision)
        self.vision = build_encoder(seen, config.tiling.tile)
        if seen.path and torch.empty(0).device.type != "meta":
            load_weights(self.vision, seen)
        self.language = LanguageModel(config.language)
        self.connector = Connector(
            config.connector, config.tiling, self.vision.side, self.vision.width, self.language.width
        )
        self.width = self.language.width
        self.image_spec = ImageSpec(
            size=config.tiling.tile,
            mean=self.vision.mean,
            std=self.vision.std,
            tokens=self.connector.count(1, 1),
            frames=MOST_FRAMES,
        )
        # One more than the model's own: the token that holds places of pictures.
        self.text_spec = TextSpec(self.language.max_tokens, self.language.vocab_size + 1)

    def see(self, views: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Return the tokens of pictures, [T, D], one picture behind the other.

        Args:
            views: [N, 3, S, S] uint8, or float in 0..1: of all pictures, as `tile_picture` orders them.
            grids: rows and columns of each picture.

        Raises:
            UsageError: views of another size than the encoder reads.
        """
        side = self.image_spec.size
        if views.shape[-2:] != (side, side):
            raise UsageError(
                f"data.image.size: pictures of {views.shape[-2]} x {views.shape[-1]} pixels, but the model reads "
                f"tiles of {side} x {side}; set data.image.size={side}"
            )
        pixels = exact_global_views(normalise(views, self.image_spec), grids, self.config.tiling)
        features: Tensor = self.vision(pixels)
        tokens: Tensor = self.connector(features, grids)
        return tokens

    def inputs(self, ids: Tensor, pictures: Tensor, tokens: Tensor | None) -> Tensor:
        """Return the vectors of rows, [R, L, D]: words, and tokens [T, D] of pictures at their places."""
        words = self.language.embed(ids.masked_fill(pictures, 0))
        if tokens is None:
            return words
        return words.masked_scatter(pictures[..., None], tokens.to(words.dtype))

    def read(self, rows: Rows, tokens: Tensor | None, cache: Any = None) -> Tensor:
        """Return the states behind every token, [R, L, D].

        Args:
            rows: the conversations.
            tokens: [T, D] of `see`, in the order of `rows.pictures`; None: there are no pictures.
            cache: keys and values to read and to add to (`LanguageModel.new_cache`).
        """
        found: Tensor = self.language(
            self.inputs(rows.ids, rows.pictures, tokens),
            mask=rows.readable(),
            positions=rows.positions,
            pictures=rows.pictures if tokens is not None else None,
            cache=cache,
        )
        return found

    def fsdp_units(self) -> list[nn.Module]:
        """Return the blocks of the vision encoder and of the language model."""
        return [*self.vision.blocks(), *self.language.layers]

    def depths(self) -> dict[str, int]:
        """Return the depths in the vision encoder: rates fall there alone, as in 4KHD's training."""
        return {f"vision.{name}": depth for name, depth in self.vision.depths().items()}


MOST_FRAMES = 256
"""Frames of a video that the tiles' connector takes; each is a picture."""

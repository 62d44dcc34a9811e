"""A vision encoder, a connector and a causal language model as one network.

Conversations come with as many places as their pictures have tokens; the model writes the projected features
there. So the length of everything is known before the model sees it.

Legend: B samples, N views (tiles) of all pictures, S side of a tile, T tokens of all pictures, R rows, L
tokens of a row, D width of the language model, V words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.blocks.plora import as_wrapped
from diptych.data.image import normalise
from diptych.errors import UsageError
from diptych.systems.mllm.clips import Asked, ClipEncoder, by_length, clips_of, in_order
from diptych.systems.mllm.config import MllmConfig
from diptych.systems.mllm.connector import Connector, Grid
from diptych.systems.mllm.language import LanguageModel
from diptych.systems.mllm.qformer import QFormerConnector
from diptych.systems.mllm.vision import build_encoder, exact_global_views, most_of_ranks
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
        """Return what each token may read, as `LanguageModel.forward` takes it: its own conversation."""
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
        self.connector: Connector | QFormerConnector
        if config.connector.kind == "qformer":
            self.connector = QFormerConnector(
                config.qformer, self.vision.width, self.language.width, config.tiling
            )
        else:
            self.connector = Connector(
                config.connector, config.tiling, self.vision.side, self.vision.width, self.language.width
            )
        self.width = self.language.width
        self.world: World = ALONE
        self.image_spec = ImageSpec(
            size=config.tiling.tile,
            mean=self.vision.mean,
            std=self.vision.std,
            tokens=self.connector.count(1, 1),
            frames=MOST_FRAMES,
        )
        # One more than the model's own: the token that holds places of pictures.
        self.text_spec = TextSpec(self.language.max_tokens, self.language.vocab_size + 1)

    def places(self, grids: Sequence[Grid], frames: Sequence[int]) -> list[int]:
        """Return how many tokens each medium becomes.

        Args:
            grids: rows and columns of the tiles of each picture, or frame of a video.
            frames: how many of them each medium has: 1 is a picture, more are a video.
        """
        first = [sum(frames[:i]) for i in range(len(frames))]
        if isinstance(self.connector, QFormerConnector):
            return [self.connector.count(*grids[i]) for i in first]
        counts = [self.connector.count(*grid) for grid in grids]
        return [sum(counts[i : i + n]) for i, n in zip(first, frames, strict=True)]

    def see(
        self,
        views: Tensor,
        grids: Sequence[Grid],
        frames: Sequence[int] | None = None,
        asked: Asked | None = None,
    ) -> Tensor:
        """Return the tokens of media, [T, D], one medium behind the other.

        Args:
            views: [N, 3, S, S] uint8, or float in 0..1: of all pictures, as `tile_picture` orders them.
            grids: rows and columns of each picture, or frame of a video.
            frames: how many of them each medium has; None: one. Only queries see frames together.
            asked: what queries should look for; None: nothing in particular.

        Raises:
            UsageError: views of another size than the encoder reads.
        """
        side = self.image_spec.size
        if views.shape[-2:] != (side, side):
            raise UsageError(
                f"data.image.size: pictures of {views.shape[-2]} x {views.shape[-1]} pixels, but the model "
                f"reads tiles of {side} x {side}; set data.image.size={side}"
            )
        pixels = exact_global_views(normalise(views, self.image_spec), grids, self.config.tiling)
        if isinstance(self.connector, QFormerConnector):
            clips, owners = clips_of(pixels, grids, frames or [1] * len(grids), self.config.tiling)
            return self._query(self.connector, clips, owners, asked)
        features: Tensor = self.vision(pixels)
        tokens: Tensor = self.connector(features, grids)
        return tokens

    def anyone_sees(self, seen: bool) -> bool:
        """Tell whether any rank has something to see; all ranks ask at the same time.

        If so in training, every one of them has to run the encoder, whose layers may be cut over ranks.
        """
        return most_of_ranks(self.world, int(seen), next(self.parameters()).device) > 0

    def see_nothing(self, asked: Asked | None = None) -> Tensor:
        """Look at a blank picture and return no tokens, [0, D]: gradients of all parts are zero.

        Args:
            asked: what queries are asked about one medium, where they are asked anything.
        """
        side = self.image_spec.size
        device = next(self.parameters()).device
        views = torch.zeros(self.config.tiling.views(1, 1), 3, side, side, dtype=torch.uint8, device=device)
        return self.see(views, [(1, 1)], [1], asked)[:0]

    def _query(
        self, connector: QFormerConnector, clips: Sequence[Tensor], owners: Sequence[int], asked: Asked | None
    ) -> Tensor:
        """Return the tokens of clips [T, 3, S, S], each with the question about its medium."""
        parts, places = [], []
        groups = list(by_length(clips).values())
        idle = most_of_ranks(self.world, len(groups), clips[0].device) - len(groups)
        for k, numbers in enumerate(groups + [groups[0][:1]] * idle):
            together = torch.stack([clips[i] for i in numbers])
            if isinstance(self.vision, ClipEncoder):
                seen = self.vision(together)
            else:  # frame by frame
                seen = self.vision(together.flatten(0, 1)).unflatten(0, together.shape[:2]).flatten(1, 2)
            ids = mask = None
            if asked is not None:
                rows = torch.tensor([owners[i] for i in numbers], device=asked.ids.device)
                ids, mask = asked.ids[rows], asked.mask[rows]
            found = connector(seen, ids, mask)
            kept = k < len(groups)  # else it was run because another rank has clips of more lengths
            parts.append(found if kept else found[:0])
            places += numbers if kept else []
        return in_order(parts, places).flatten(0, 1)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return another instance's weights under our names.

        That instance may have other adapters, or be VideoChat2's stage 1 (system qformer).
        """
        if isinstance(self.connector, QFormerConnector):
            state = {_after_stage1(name): tensor for name, tensor in state.items()}
        return as_wrapped(state, self.state_dict())

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

    def train(self, mode: bool = True) -> Self:
        """Set the mode; an encoder that is frozen stays as in evaluation (batch norm, dropout)."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.vision.parameters()):
            self.vision.eval()
        return self

    def fsdp_units(self) -> list[nn.Module]:
        """Return the blocks of the vision encoder and of the language model."""
        return [*self.vision.blocks(), *self.language.layers]

    def depths(self) -> dict[str, int]:
        """Return the depths in the vision encoder: rates fall there alone, as in 4KHD's training."""
        return {f"vision.{name}": depth for name, depth in self.vision.depths().items()}


_STAGE1 = {"visual.": "vision.model.", "visual_norm.": "connector.norm.", "qformer.": "connector.qformer."}
"""Names in system qformer -> ours."""


def _after_stage1(name: str) -> str:
    part = next((part for part in _STAGE1 if name.startswith(part)), "")
    return _STAGE1.get(part, "") + name.removeprefix(part)


MOST_FRAMES = 256
"""Frames of a video that the tiles' connector takes; each is a picture."""

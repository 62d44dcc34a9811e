"""Vision encoders: tiles to features, one square grid a tile.

Legend: N tiles, S side of a tile in pixels, s features along a side, C width.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.blocks.collective import ALONE, World
from diptych.config.schema import Section
from diptych.data.tiling import TilingConfig, global_view
from diptych.errors import ConfigError, UsageError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.mllm.hugging_face import quiet, transformers
from diptych.systems.protocol import System, VisionLanguageModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionConfig(Section):
    """Which vision encoder reads the tiles, and which of its features count."""

    kind: Literal["transformers", "timm", "diptych", "umt"] = Field(
        "transformers",
        description="Where the encoder comes from: a vision transformer of `transformers` (CLIP, SigLIP, "
        "DINOv2, ViT, or the vision part of a pair of towers), one of `timm`, a system of Diptych (EVE), or "
        "`umt`, the video transformer of VideoChat2, which sees all frames of a clip together (its "
        "`settings` may stay empty).",
    )
    path: str = Field(
        "",
        description="Its folder: config.json with weights for `transformers`, an export or a run for "
        "`diptych`; for `timm` a .safetensors file. Empty: `settings` alone, with fresh weights.",
    )
    settings: dict[str, Any] = Field(
        {},
        description="Its architecture: the content of config.json for `transformers`, the section `system` "
        "for `diptych`, the arguments of `create_model` (`model_name` among them) for `timm`. Empty: read "
        "from `path`. Exports hold it.",
    )
    layer: int = Field(
        -1, le=-1, description="Which layer's output counts, from the last one (-1; LLaVA: -2)."
    )
    final_norm: bool = Field(
        False, description="Whether the encoder's last norm is applied (nanoVLM); 4KHD: not."
    )
    chunk: int = Field(
        0,
        ge=0,
        description="Encode so many tiles at a time, for less memory; where they are trained, every chunk is "
        "computed again on the way back. 0: all at once.",
    )
    mean: tuple[float, float, float] | None = Field(
        None, description="Mean of pixels in 0..1; none: that of CLIP, or the system's own for `diptych`."
    )
    std: tuple[float, float, float] | None = Field(None, description="Deviation of pixels, as `mean`.")


class VisionEncoder(nn.Module, ABC):
    """Turns normalised tiles [N, 3, S, S] into features [N, s * s, C], row by row, without class tokens."""

    width: int
    """C"""
    side: int
    """s"""
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.chunk = config.chunk
        self.world: World = ALONE

    @abstractmethod
    def encode(self, tiles: Tensor) -> Tensor:
        """Return the features of all tiles, at once."""

    def blocks(self) -> list[nn.Module]:
        """Return the layers, the first one first: units of sharding, and of rates that fall with depth."""
        return []

    def depths(self) -> dict[str, int]:
        """Return how deep parameters lie, for rates that fall with depth (`VisionLanguageModel.depths`).

        0 is what comes before the blocks, i + 1 block i. The last block has no entry: in 4KHD it has the
        whole rate, as what is behind it.
        """
        names = {module: f"{name}." for name, module in self.named_modules()}
        blocks = [names[block] for block in self.blocks()]
        found: dict[str, int] = {}
        met = False
        for name, _ in self.named_parameters():
            depth = next((i + 1 for i, block in enumerate(blocks) if name.startswith(block)), 0)
            met = met or depth > 0
            if 0 < depth < len(blocks) or (blocks and not met):
                found[name] = depth
        return found

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the features, of `chunk` tiles at a time."""
        if not self.chunk:
            return self.encode(tiles)
        pieces = torch.split(tiles, self.chunk)
        # Layers may be cut over ranks, which then have to run them equally often.
        idle = most_of_ranks(self.world, len(pieces), tiles.device) - len(pieces)
        if len(pieces) + idle == 1:
            return self.encode(tiles)
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

        def encode(piece: Tensor) -> Tensor:
            if not trains:
                return self.encode(piece)
            found: Tensor = checkpoint(self.encode, piece, use_reentrant=False)
            return found

        found = [encode(piece) for piece in pieces]
        return torch.cat(found + [encode(tiles[:1])[:0] for _ in range(idle)])


def most_of_ranks(world: World, count: int, device: torch.device) -> int:
    """Return the largest `count` of all ranks, which train together; in evaluations the own one."""
    if world.size == 1 or not torch.is_grad_enabled():
        return count
    return int(world.max(torch.tensor(count, device=device)))


class TransformersEncoder(VisionEncoder):
    """A vision transformer of the library transformers; layers and norms that do not count are left out."""

    def __init__(self, config: VisionConfig, tile: int) -> None:
        super().__init__(config)
        library = transformers()
        settings = library.AutoConfig.for_model(**config.settings)
        settings = getattr(settings, "vision_config", settings)
        for name in ("image_size", "patch_size", "hidden_size"):
            if not isinstance(getattr(settings, name, None), int):
                raise ConfigError(
                    f"system.vision.settings: model_type {settings.model_type} has no {name}; expected a "
                    "vision transformer (CLIP, SigLIP, DINOv2, ViT)"
                )
        with quiet():
            self.model: nn.Module = library.AutoModel.from_config(settings)
        self.resized = settings.image_size != tile
        self.side = tile // settings.patch_size
        self.width = settings.hidden_size
        self.norm = self._cut(config)

    def _cut(self, config: VisionConfig) -> nn.Module | None:
        """Take out what comes after the layer that counts; return the last norm if it is wanted."""
        lists = [(n, m) for n, m in self.model.named_modules() if isinstance(m, nn.ModuleList)]
        if not lists:
            raise ConfigError("system.vision.settings: expected a transformer, found no list of layers")
        name, layers = max(lists, key=lambda found: len(found[1]))
        keep = len(layers) + config.layer + 1
        if keep < 1:
            raise ConfigError(f"system.vision.layer = {config.layer}: the encoder has {len(layers)} layers")
        del layers[keep:]
        self._layers = name
        children = [child for child, _ in self.model.named_children()]
        behind = children[children.index(name.partition(".")[0]) + 1 :]
        norms = [child for child in behind if "norm" in type(getattr(self.model, child)).__name__.lower()]
        if config.final_norm and not norms:
            raise ConfigError(
                "system.vision.final_norm = true, but the encoder has no norm behind its layers"
            )
        found = cast(nn.Module, getattr(self.model, norms[0])) if config.final_norm else None
        for child in behind:
            setattr(self.model, child, nn.Identity())
        return found

    def blocks(self) -> list[nn.Module]:
        """Return the layers."""
        return list(cast(nn.ModuleList, self.model.get_submodule(self._layers)))

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the features; the position table is resized (bicubic) for tiles of another side."""
        weight = next(self.model.parameters())
        more = {"interpolate_pos_encoding": True} if self.resized else {}
        hidden: Tensor = self.model(pixel_values=tiles.to(weight.dtype), **more).last_hidden_state
        hidden = hidden[:, -(self.side**2) :]  # class and register tokens come first
        return hidden if self.norm is None else self.norm(hidden)


class TimmEncoder(VisionEncoder):
    """A network of timm."""

    def __init__(self, config: VisionConfig, tile: int) -> None:
        super().__init__(config)
        arguments = {"num_classes": 0, **config.settings}
        try:
            self.model: nn.Module = _timm().create_model(pretrained=False, img_size=tile, **arguments)
        except TypeError:  # convolutions have no size
            self.model = _timm().create_model(pretrained=False, **arguments)
        info = cast(Sequence[dict[str, Any]], self.model.feature_info)
        at = len(info) + config.layer
        if at < 0:
            raise ConfigError(f"system.vision.layer = {config.layer}: the encoder has {len(info)} layers")
        self.width, self.side = int(info[at]["num_chs"]), tile // int(info[at]["reduction"])
        self._at, self._norm = at, config.final_norm
        cut = cast(Any, self.model.prune_intermediate_layers)
        cut([at], prune_norm=not config.final_norm, prune_head=True)

    def blocks(self) -> list[nn.Module]:
        """Return the layers."""
        found = getattr(self.model, "blocks", None) or getattr(self.model, "stages", None)
        return list(found) if isinstance(found, nn.Sequential) else []

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the features."""
        run = cast(Any, self.model.forward_intermediates)
        dtype = next(self.model.parameters()).dtype
        found = run(
            tiles.to(dtype), indices=[self._at], norm=self._norm, output_fmt="NCHW", intermediates_only=True
        )
        features: Tensor = found[0].flatten(2).transpose(1, 2)
        return features


class DiptychEncoder(VisionEncoder):
    """A system of Diptych that encodes pictures alone (EVE); what it has for texts stays unused."""

    def __init__(self, config: VisionConfig, tile: int) -> None:
        super().__init__(config)
        system: System = look_up(SYSTEMS, str(config.settings.get("name")), "system")
        self.model: VisionLanguageModel = system.build(system.config_class.model_validate(config.settings))
        if "encode_visual" not in self.model.capabilities:
            raise ConfigError(f"system.vision: {system.name} does not encode pictures alone")
        if config.layer != -1:
            raise ConfigError(
                f"system.vision.layer = {config.layer}: of {system.name} only the last counts (-1)"
            )
        spec = self.model.image_spec
        if spec.size != tile:
            raise ConfigError(
                f"system.tiling.tile = {tile}, but the pictures of system.vision have {spec.size} pixels; "
                f"set system.tiling.tile={spec.size}"
            )
        self.width, self.side = self.model.width, math.isqrt(spec.tokens)
        self.mean, self.std = spec.mean, spec.std

    def blocks(self) -> list[nn.Module]:
        """Return the system's own units."""
        return self.model.fsdp_units()

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the features."""
        return self.model.encode_visual(tiles).tokens[:, -(self.side**2) :]


_KINDS: dict[str, type[TransformersEncoder | TimmEncoder | DiptychEncoder]] = {
    "transformers": TransformersEncoder,
    "timm": TimmEncoder,
    "diptych": DiptychEncoder,
}


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(
            f"system.vision.kind = timm needs the library timm ({error}): pip install timm"
        ) from error


def build_encoder(config: VisionConfig, tile: int) -> VisionEncoder:
    """Build the encoder that the settings describe with fresh weights.

    Args:
        config: with `settings` (`vision_files.read_settings` fills them from `path`).
        tile: S.

    Raises:
        ConfigError: settings that describe no encoder, or one that does not go with the tiles.
        UsageError: the library that it is from is not installed.
    """
    if config.kind == "umt":
        from diptych.systems.mllm.clips import ClipEncoder

        eyes = ClipEncoder(config, tile)
        eyes.mean, eyes.std = config.mean or eyes.mean, config.std or eyes.std
        return eyes
    if not config.settings:
        raise ConfigError(
            "system.vision.settings is empty; give system.vision.path or the encoder's architecture"
        )
    encoder = _KINDS[config.kind](config, tile)
    encoder.mean, encoder.std = config.mean or encoder.mean, config.std or encoder.std
    return encoder


def exact_global_views(tiles: Tensor, grids: Sequence[tuple[int, int]], tiling: TilingConfig) -> Tensor:
    """Replace the whole views of `hd` by 4KHD's: of normalised pixels, neither rounded nor clipped.

    Args:
        tiles: [N, 3, S, S] float, normalised, as `tile_picture` orders them.
        grids: rows and columns of each picture.
        tiling: other kinds come back as they are.
    """
    if tiling.kind != "hd" or not tiling.global_view:
        return tiles
    made, at, side = tiles.clone(), 0, tiles.shape[-1]
    for rows, columns in grids:
        own = tiles[at + 1 : at + 1 + rows * columns]
        whole = own.view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4)
        made[at] = global_view(whole.reshape(1, 3, rows * side, columns * side), side)[0]
        at += 1 + rows * columns
    return made

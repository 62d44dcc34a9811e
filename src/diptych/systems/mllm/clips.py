"""Clips as media of one piece: VideoChat2's encoder, and how views of tiles become its clips.

Legend: B clips, T frames, S side of a tile, N patches of a frame, C width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.blocks.video_vit import VideoVit, VideoVitConfig
from diptych.data.tiling_config import TilingConfig
from diptych.errors import ConfigError
from diptych.systems.mllm.vision import VisionConfig, VisionEncoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClipEncoder(VisionEncoder):
    """The video transformer of UMT; a picture is a clip of one frame."""

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, config: VisionConfig, tile: int) -> None:
        """Build it with fresh weights; `config.settings` are those of `VideoVitConfig`.

        Raises:
            ConfigError: a tile is no multiple of a patch.
        """
        super().__init__(config)
        sizes = VideoVitConfig.model_validate(config.settings)
        if tile % sizes.patch_size:
            raise ConfigError(
                f"system.tiling.tile = {tile}: expected a multiple of the patch ({sizes.patch_size} pixels)"
            )
        self.model = VideoVit(sizes)
        self.width, self.side = sizes.width, tile // sizes.patch_size

    def blocks(self) -> list[nn.Module]:
        """Return the layers."""
        return list(self.model.blocks)

    def encode(self, tiles: Tensor) -> Tensor:
        """Return the features [B, T * N, C] of clips [B, T, 3, S, S], or of pictures [B, 3, S, S]."""
        clips = tiles if tiles.dim() == 5 else tiles[:, None]
        found: Tensor = self.model(clips)
        return found.flatten(1, 2)


@dataclass(frozen=True)
class Asked:
    """What the queries should look for in each medium, in the words of the Q-Former."""

    ids: Tensor
    """[M, L] int64, one row a medium."""
    mask: Tensor
    """[M, L] bool."""


def clips_of(
    views: Tensor, grids: Sequence[tuple[int, int]], frames: Sequence[int], tiling: TilingConfig
) -> tuple[list[Tensor], list[int]]:
    """Return the clips that media consist of, [T, 3, S, S] each, and the medium of each clip.

    A medium cut into tiles is one clip a tile, row by row, and one of the whole view, which comes last here
    (published), though views of a picture begin with it.

    Args:
        views: [n, 3, S, S] of all media: frame after frame, each with all its views.
        grids: rows and columns of every frame; those of a medium are equal.
        frames: how many of the frames each medium has.
        tiling: says which views there are.
    """
    clips: list[Tensor] = []
    owners: list[int] = []
    at = seen = 0
    for medium, count in enumerate(frames):
        own = set(grids[seen : seen + count])
        if len(own) != 1:
            raise ValueError(f"frames of one medium have the grids {sorted(own)}: expected one grid")
        grid = next(iter(own))
        size = tiling.views(*grid)
        block = views[at : at + count * size].view(count, size, *views.shape[1:]).transpose(0, 1)
        first = int(tiling.has_global_view(*grid))
        clips += [*block[first:], *block[:first]]
        owners += [medium] * size
        at, seen = at + count * size, seen + count
    return clips, owners


def by_length(clips: Sequence[Tensor]) -> dict[int, list[int]]:
    """Return number of frames -> the clips that have so many, which are encoded together."""
    found: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        found.setdefault(len(clip), []).append(i)
    return found


def in_order(parts: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    """Return tensors [n, ...] joined, their rows at the places [sum of n] that are given."""
    joined = torch.cat(list(parts))
    back = torch.empty(len(places), dtype=torch.int64, device=joined.device)
    back[torch.tensor(places, device=joined.device)] = torch.arange(len(places), device=joined.device)
    return joined[back]

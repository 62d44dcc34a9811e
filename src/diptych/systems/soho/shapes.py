"""The configuration behind the shapes of a published SOHO checkpoint."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import BLOCKS, Depth, ResNetConfig
from diptych.errors import CheckpointError
from diptych.systems.soho.config import SohoConfig

Shapes = Mapping[str, tuple[int, ...]]
_STAGE = re.compile(r"(.*layer(\d+)\.(\d+)\.)conv(\d)\.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.fc1\.weight")
FROZEN_STAGES = 1
"""Stages that both released configurations keep frozen; no shape shows it."""


def read_config(shapes: Shapes, heads: int | None = None) -> SohoConfig:
    """Return the configuration that the shapes of weights (in our names) imply, with published behaviour.

    Args:
        shapes: name -> shape of the model's weights, `model.*`.
        heads: attention heads, which no shape shows; None: one per 64 of width, as released.

    Raises:
        CheckpointError: weights are missing, or there is no such network.
    """
    needed = ("model.backbone.conv1.weight", "model.neck.conv.weight", "model.text.words.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise CheckpointError(f"not a published SOHO checkpoint: {', '.join(missing)} missing (our names)")
    width = shapes["model.neck.conv.weight"][0]
    return SohoConfig.model_validate(
        {
            "backbone": read_backbone(shapes).with_(frozen_stages=FROZEN_STAGES),
            "width": width,
            **read_transformer(shapes, heads),
            **_neck(shapes),
        }
    )


def read_backbone(shapes: Shapes, prefix: str = "model.backbone.") -> ResNetConfig:
    """Return the residual network that weights under `prefix` are of.

    Raises:
        CheckpointError: no depth has as many blocks in its four stages.
    """
    blocks: dict[int, int] = {}
    bottlenecks = False
    for name in shapes:
        found = _STAGE.fullmatch(name)
        if found and name.startswith(prefix):
            stage, block = int(found.group(2)), int(found.group(3))
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
            bottlenecks |= found.group(4) == "3"
    counts = tuple(blocks.get(stage, 0) for stage in (1, 2, 3, 4))
    depths = [depth for depth in get_args(Depth) if BLOCKS[depth] == counts and (depth >= 50) == bottlenecks]
    if len(depths) != 1 or sorted(blocks) != [1, 2, 3, 4]:
        raise CheckpointError(
            f"{prefix}*: stages of {counts} {'bottlenecks' if bottlenecks else 'plain blocks'}; expected a "
            f"ResNet of depth {', '.join(str(depth) for depth in get_args(Depth))}"
        )
    stem = shapes[f"{prefix}conv1.weight"]
    return ResNetConfig(
        depth=depths[0], stem_channels=stem[0], base_channels=shapes[f"{prefix}layer1.0.conv1.weight"][0]
    )


def read_transformer(shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
    """Return the fields of `SohoConfig` that describe embeddings and layers, `width` among them.

    Raises:
        CheckpointError: gaps between the layers, or a width from which the number of heads does not follow.
    """
    numbers = sorted(int(found.group(1)) for found in map(_LAYER.fullmatch, shapes) if found)
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(f"transformer layers {numbers}: expected 0, 1, ... without gaps")
    vocab_size, width = shapes["model.text.words.weight"]
    if heads is None and width % 64:
        raise CheckpointError(
            f"width {width} is no multiple of 64: the number of attention heads must be given"
        )
    return {
        "width": width,
        "layers": len(numbers),
        "heads": heads or width // 64,
        "hidden": shapes["model.layers.0.fc1.weight"][0],
        "vocab_size": vocab_size,
        "max_text_tokens": shapes["model.text.positions.weight"][0],
        "token_types": shapes["model.text.types.weight"][0],
    }


def _neck(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of `SohoConfig` that describe the neck."""
    codes = shapes.get("model.neck.dictionary.codes")
    if codes is None:
        return {"neck": "plain", "dictionary": DictionaryConfig().published()}
    return {
        "neck": "gated" if "model.neck.gate.weight" in shapes else "added",
        "dictionary": DictionaryConfig(codes=codes[0]).published(),
        "align": "model.neck.align.weight" in shapes,
        "align_before": "model.neck.align_before.weight" in shapes,
    }

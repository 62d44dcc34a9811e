"""The configuration behind the shapes of a published SNP-S3 checkpoint."""

import math
import re
from collections.abc import Mapping
from typing import Any

from diptych.blocks.resnet import BLOCKS
from diptych.errors import CheckpointError
from diptych.systems.snps3.config import SnpS3Config

Shapes = Mapping[str, tuple[int, ...]]
_LAYER = re.compile(r"model\.layers\.(\d+)\.fc1\.weight")
_VISUAL = "model.visual.encoder."
_WINDOW = (8, 7, 7)
_PVT_HEADS = (1, 2, 5, 8)


def read_config(shapes: Shapes, heads: int | None = None, positions: int | None = None) -> SnpS3Config:
    """Return the configuration that the shapes of weights (in our names) imply, with published behaviour.

    Args:
        shapes: name -> shape of the model's weights, `model.*`.
        heads: attention heads of the text network, which no shape shows; None: one per 64 of width.
        positions: cells of a window of Video Swin, which tell windows with tables of one size apart (rows of
            the published `relative_position_index`); None: the usual window if it fits.

    Raises:
        CheckpointError: weights are missing, or there is no such network.
    """
    needed = ("model.text.words.weight", "model.visual.fc1.weight", "model.cross_pooler.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise CheckpointError(f"not a published SNP-S3 checkpoint: {', '.join(missing)} missing (our names)")
    values = read_text(shapes, heads) | read_visual(shapes, positions)
    # Published frames are squares for Video Swin, and keep their shape for the others.
    own_shape = values["encoder"] != "swin"
    return SnpS3Config.model_validate(
        {**values, "sizes": "any" if own_shape else "square", "mask": "published"}
    )


def read_text(shapes: Shapes, heads: int | None) -> dict[str, Any]:
    """Return the fields of `SnpS3Config` that describe the text network; arguments as of `read_config`.

    Raises:
        CheckpointError: gaps between the layers, or a width from which the number of heads does not follow.
    """
    numbers = sorted(int(found.group(1)) for found in map(_LAYER.fullmatch, shapes) if found)
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(f"layers {numbers} of the text network: expected 0, 1, ... without gaps")
    vocab_size, width = shapes["model.text.words.weight"]
    if heads is None and width % 64:
        raise CheckpointError(
            f"width {width} is no multiple of 64: the number of attention heads must be given"
        )
    found: dict[str, Any] = {
        "width": width,
        "layers": len(numbers),
        "heads": heads or width // 64,
        "hidden": shapes["model.layers.0.fc1.weight"][0],
        "vocab_size": vocab_size,
        "max_text_tokens": shapes["model.text.positions.weight"][0],
    }
    # The end token of BERT's vocabularies; where there are too few words for it, the last one.
    return found | {"separator": min(102, vocab_size - 1)}


def read_visual(shapes: Shapes, positions: int | None) -> dict[str, Any]:
    """Return the fields of `SnpS3Config` that describe the visual encoder; arguments as of `read_config`.

    Raises:
        CheckpointError: it is none of the known ones.
    """
    own = {name.removeprefix(_VISUAL): shape for name, shape in shapes.items() if name.startswith(_VISUAL)}
    if "patch_embed.proj.weight" in own:
        return {"encoder": "swin", "swin": _read_swin(own, positions)}
    if "patch_embed1.proj.weight" in own:
        return {"encoder": "pvt", "pvt": _read_pvt(own)}
    if "conv1.weight" in own:
        return {"encoder": "resnet", "resnet": _read_resnet(own)}
    raise CheckpointError(
        "visual encoder: expected a Video Swin (patch_embed.*), a PVT (patch_embed1.*) or a ResNet "
        f"(conv1.*), got {', '.join(sorted(own)[:3]) or 'nothing'}"
    )


def _count(own: Shapes, pattern: str) -> int:
    """Return how many numbers from 0 on stand where `pattern` has a group."""
    found = {int(match.group(1)) for name in own if (match := re.match(pattern, name))}
    if found != set(range(len(found))) or not found:
        raise CheckpointError(f"visual encoder: parts {sorted(found)} of {pattern}: expected 0, 1, ...")
    return len(found)


def _read_swin(own: Shapes, positions: int | None) -> dict[str, Any]:
    stages = _count(own, r"layers\.(\d+)\.")
    patch = own["patch_embed.proj.weight"]
    tables = [own[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    hidden = own["layers.0.blocks.0.mlp.fc1.weight"][0]
    return {
        "width": patch[0],
        "patch": patch[2:],
        "depths": tuple(_count(own, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        "heads": tuple(table[1] for table in tables),
        "window": window_of(tables[0][0], positions),
        "mlp_ratio": hidden / patch[0],
    }


def window_of(rows: int, positions: int | None = None) -> tuple[int, int, int]:
    """Return the window with so many rows in its table of biases: frames, and equal sides.

    Raises:
        CheckpointError: there is none.
    """
    sides = range(1, math.isqrt(rows) + 2)
    found = [
        (frames, side, side)
        for side in sides
        for frames in range(1, rows + 1)
        if (2 * frames - 1) * (2 * side - 1) ** 2 == rows and positions in (None, frames * side**2)
    ]
    if not found:
        raise CheckpointError(f"relative_position_bias_table of {rows} rows: no window of equal sides has it")
    return _WINDOW if _WINDOW in found else found[-1]


def _read_pvt(own: Shapes) -> dict[str, Any]:
    stages = _count({f"{int(n[11]) - 1}": s for n, s in own.items() if n.startswith("patch_embed")}, r"(\d+)")
    widths = tuple(own[f"patch_embed{i}.proj.weight"][0] for i in range(1, stages + 1))
    reductions = []
    for i in range(1, stages + 1):
        kernel = own.get(f"block{i}.0.attn.sr.weight")
        reductions.append(1 if kernel is None else kernel[2])
    linear = f"block{stages}.0.attn.sr.weight" in own and set(reductions) == {1}
    return {
        "widths": widths,
        "depths": tuple(_count(own, rf"block{i}\.(\d+)\.") for i in range(1, stages + 1)),
        "heads": _PVT_HEADS[:stages],
        "mlp_ratios": tuple(
            own[f"block{i}.0.mlp.fc1.weight"][0] / widths[i - 1] for i in range(1, stages + 1)
        ),
        "reductions": (8, 4, 2, 1) if linear else tuple(reductions),
        "linear": linear,
    }


def _read_resnet(own: Shapes) -> dict[str, Any]:
    blocks = tuple(_count(own, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    bottlenecks = "layer1.0.conv3.weight" in own
    depths = [depth for depth, counts in BLOCKS.items() if (depth >= 50) == bottlenecks]
    depth = next((depth for depth in depths if BLOCKS[depth] == blocks), 50 if bottlenecks else 18)
    widths = tuple(own[f"layer{stage}.0.conv1.weight"][0] for stage in range(1, 5))
    found: dict[str, Any] = {
        "depth": depth,
        # Published norms are constants; those of models of our own count batches.
        "norm": "batch" if "bn1.num_batches_tracked" in own else "frozen",
        "stem": "small" if own["conv1.weight"][2] == 3 else "published",
        "stem_channels": own["conv1.weight"][0],
        "base_channels": widths[0],
    }
    if blocks != BLOCKS[depth]:
        found["blocks"] = blocks
    if widths != tuple(widths[0] * 2**i for i in range(4)):
        found["widths"] = widths
    return found

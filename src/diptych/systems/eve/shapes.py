"""The configuration behind the shapes of a published checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diptych.blocks.positions import grid_side
from diptych.errors import CheckpointError
from diptych.systems.eve.config import EveConfig

Shapes = Mapping[str, tuple[int, ...]]
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp_moe\.moe\.experts\.experts\.(\d+)\.fc1\.weight")
_GATE = "mlp_moe.moe.gate.wg.weight"


def read_config(state: Mapping[str, Tensor], heads: int | None = None) -> EveConfig:
    """Return the configuration that the shapes of a published checkpoint imply, with published routing.

    Router noise is drawn in training only, so that evaluation is repeatable (the published code always does).

    Args:
        state: published keys, `backbone.*` among them.
        heads: attention heads, which no shape shows; None: one per 64 of width, as both published sizes.

    Raises:
        CheckpointError: keys are missing, or the layers are of kinds that one configuration cannot name.
    """
    shapes = {
        n.removeprefix("backbone."): tuple(t.shape) for n, t in state.items() if n.startswith("backbone.")
    }
    needed = ("patch_embed.weight", "pos_embed_vision", "pos_embed_text", "word_embedding.weight")
    missing = [f"backbone.{n}" for n in needed if n not in shapes]
    if missing:
        raise CheckpointError(f"not a published EVE checkpoint: {', '.join(missing)} missing")
    width, _, patch, _ = shapes["patch_embed.weight"]
    if heads is None and width % 64:
        raise CheckpointError(
            f"width {width} is no multiple of 64: the number of attention heads must be given"
        )
    config = EveConfig.model_validate(
        {
            "image_size": grid_side(shapes["pos_embed_vision"][0]) * patch,
            "patch_size": patch,
            "width": width,
            "heads": heads or width // 64,
            "vocab_size": shapes["word_embedding.weight"][0],
            "max_text_tokens": shapes["pos_embed_text"][0],
            **_read_layers(shapes),
        }
    )
    return config.with_(router=config.router.published().with_(noise="train"), lower_ignores_mode=True)


def _read_layers(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of `EveConfig` that describe the layers."""
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        found = _LAYER.fullmatch(name)
        if found:
            layers.setdefault(int(found.group(1)), {})[found.group(2)] = shape
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise CheckpointError(f"encoder layers {sorted(layers)}: expected 0, 1, ... without gaps")
    upper = {i: layer for i, layer in layers.items() if "norm2_vl.weight" in layer}
    lower = {i: layer for i, layer in layers.items() if i not in upper}
    fields: dict[str, Any] = {"layers": len(layers), "moe_layers": tuple(sorted(upper)), "router": {}}
    if upper:
        fields["upper_ffn"] = _one({"moe" if _GATE in layer else "vl" for layer in upper.values()}, "upper")
        if fields["upper_ffn"] == "moe":
            fields["experts"], fields["router"]["modality"] = _mixture(upper)
    if lower:
        fields["lower_ffn"] = _one({_lower_kind(layer) for layer in lower.values()}, "lower")
        if fields["lower_ffn"] == "moe":
            fields["lower_experts"], fields["lower_modality"] = _mixture(lower)
    return fields | _hidden(layers)


def _one(kinds: set[str], which: str) -> str:
    if len(kinds) > 1:
        raise CheckpointError(f"{which} layers of several kinds: {', '.join(sorted(kinds))}")
    return kinds.pop()


def _lower_kind(layer: Shapes) -> str:
    if _GATE in layer:
        return "moe"
    return "separate" if "norm2_text.weight" in layer else "shared"


def _mixture(layers: Mapping[int, Shapes]) -> tuple[int, bool]:
    """Return experts and whether there are modality vectors, the same in all layers."""
    found = {(layer[_GATE][0], "mlp_moe.moe.vision_embed" in layer) for layer in layers.values()}
    if len(found) > 1:
        raise CheckpointError(f"mixture layers differ in (experts, modality vectors): {sorted(found)}")
    return found.pop()


def _hidden(layers: Mapping[int, Shapes]) -> dict[str, int]:
    """Return `hidden` and, where experts have another width, `expert_hidden`."""
    plain = {
        s[0]
        for layer in layers.values()
        for n, s in layer.items()
        if re.fullmatch(r"mlp_\w+\.fc1\.weight", n)
    }
    expert = {s[0] for layer in layers.values() for n, s in layer.items() if _EXPERT.fullmatch(n)}
    if len(plain) > 1 or len(expert) > 1 or not plain | expert:
        raise CheckpointError(
            f"hidden widths {sorted(plain)} and of experts {sorted(expert)}: expected one each"
        )
    hidden = (plain or expert).pop()
    return {"hidden": hidden, "expert_hidden": expert.pop() if expert and expert != {hidden} else 0}

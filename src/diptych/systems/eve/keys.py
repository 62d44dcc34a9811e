"""Names of weights: the published EVE checkpoints' keys and ours, both ways.

Every rule is a rename of one key, except that a published checkpoint holds experts one by one and ours
hold them stacked, and that lower layers with one network are told apart by what their layer lacks.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.errors import CheckpointError

_TOP = {
    "class_embedding_vision": "visual.class_token",
    "pos_embed_vision": "visual.positions",
    "type_embed_vision": "visual.modality",
    "patch_embed.weight": "visual.stem.projection.weight",
    "patch_embed.bias": "visual.stem.projection.bias",
    "word_embedding.weight": "text.words.weight",
    "layer_norm_text.weight": "text.norm.weight",
    "layer_norm_text.bias": "text.norm.bias",
    "pos_embed_text": "text.positions",
    "type_embed_text": "text.modality",
    "pre_layrnorm.weight": "input_norm.weight",
    "pre_layrnorm.bias": "input_norm.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
POSITION_IDS = ("position_ids_vision", "position_ids_text")
"""Buffers of the published model that only count upwards; made afresh where they are needed."""

_LAYER = {
    "gamma_1": "attention_scale",
    "gamma_2": "ffn_scale",
    "norm1": "norm",
    "attn.qkv": "attention.qkv",
    "attn.q_bias": "attention.q_bias",
    "attn.v_bias": "attention.v_bias",
    "attn.proj": "attention.proj",
    "norm2_imag": "ffn.image_norm",
    "mlp_imag": "ffn.image",
    "norm2_text": "ffn.text_norm",
    "mlp_text": "ffn.text",
    "norm2_vl": "ffn.pair_norm",
    "mlp_vl": "ffn.pair",
}
_MIXTURE = {
    "gate.wg.weight": "router.weight",
    "vision_embed": "image_type",
    "text_embed": "text_type",
}
# A layer's norm2_* and mlp_* mean different things by what else the layer has.
_LONE = {"norm2_imag": "ffn.shared_norm", "mlp_imag": "ffn.shared"}
_UPPER_MIXTURE = {"norm2_vl": "ffn.norm", "mlp_moe.moe": "ffn.moe"}
_LOWER_MIXTURE = {"norm2_imag": "ffn.lower_norm", "mlp_moe.moe": "ffn.lower_moe"}

_PUBLISHED_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_OUR_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_PUBLISHED_EXPERT = re.compile(r"experts\.experts\.(\d+)\.(fc[12])\.(weight|bias)")
_OUR_EXPERT = re.compile(r"experts\.(fc[12])_(weight|bias)")


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    """Rename a key whose beginning (up to a dot or its end) is in the table."""
    for old, new in table.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return None


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def mixture_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys below `moe.` of one mixture layer and stack its experts.

    Raises:
        CheckpointError: an unknown key, or experts with gaps in their numbers.
    """
    ours: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        found = _PUBLISHED_EXPERT.fullmatch(name)
        if found:
            index, layer, part = found.groups()
            experts.setdefault(f"experts.{layer}_{part}", {})[int(index)] = tensor
        elif name in _MIXTURE:
            ours[_MIXTURE[name]] = tensor
        else:
            raise CheckpointError(f"mixture layer: unknown key '{name}'")
    for name, parts in experts.items():
        if sorted(parts) != list(range(len(parts))):
            raise CheckpointError(f"mixture layer: experts {sorted(parts)} of {name} have gaps")
        ours[name] = torch.stack([parts[i] for i in range(len(parts))])
    return ours


def mixture_to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `mixture_from_published`."""
    published: dict[str, Tensor] = {}
    back = _inverse(_MIXTURE)
    for name, tensor in state.items():
        found = _OUR_EXPERT.fullmatch(name)
        if found:
            layer, part = found.groups()
            for index, expert in enumerate(tensor.unbind(0)):
                published[f"experts.experts.{index}.{layer}.{part}"] = expert.clone()
        elif name in back:
            published[back[name]] = tensor
        else:
            raise CheckpointError(f"mixture layer: no published name for '{name}'")
    return published


def _layer_table(names: set[str]) -> dict[str, str]:
    """Return the renames of a published layer with the keys `names`."""
    table = dict(_LAYER)
    first = {name.split(".")[0] for name in names}
    if "mlp_moe" in first:
        table |= _LOWER_MIXTURE if "norm2_imag" in first else _UPPER_MIXTURE
    elif "mlp_text" not in first and "norm2_text" not in first:
        table |= _LONE
    return table


def _group(
    state: Mapping[str, Tensor], pattern: re.Pattern[str]
) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Split a state into keys outside the layers, and the keys of each layer without their prefix."""
    outside: dict[str, Tensor] = {}
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        found = pattern.fullmatch(name)
        if found:
            layers.setdefault(int(found.group(1)), {})[found.group(2)] = tensor
        else:
            outside[name] = tensor
    return outside, layers


def _split(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state into keys under `prefix` (without it) and the others."""
    under = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
    return under, {n: t for n, t in state.items() if not n.startswith(prefix)}


def backbone_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published backbone (keys without `backbone.`) to the weights of `EveModel`.

    Raises:
        CheckpointError: keys without a place in the model; all of them are listed.
    """
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    outside, layers = _group(state, _PUBLISHED_LAYER)
    for name, tensor in outside.items():
        if name in _TOP:
            ours[_TOP[name]] = tensor
        elif name not in POSITION_IDS:
            unknown.append(name)
    for index, layer in layers.items():
        table = _layer_table(set(layer))
        mixture, plain = _split(layer, "mlp_moe.moe.")
        for name, tensor in plain.items():
            new = _renamed(name, table)
            if new is None:
                unknown.append(f"encoder.layers.{index}.{name}")
            else:
                ours[f"layers.{index}.{new}"] = tensor
        for name, tensor in mixture_from_published(mixture).items():
            ours[f"layers.{index}.{table['mlp_moe.moe']}.{name}"] = tensor
    if unknown:
        raise CheckpointError(f"keys that EVE's model has no place for: {', '.join(sorted(unknown))}")
    return ours


def backbone_to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of `EveModel` to the published backbone's keys, position counters included.

    Raises:
        CheckpointError: weights that the published model has no place for (a convolutional stem).
    """
    published: dict[str, Tensor] = {}
    unknown: list[str] = []
    outside, layers = _group(state, _OUR_LAYER)
    top, back = _inverse(_TOP), _inverse(_LAYER)
    back |= _inverse(_LONE) | _inverse(_UPPER_MIXTURE) | _inverse(_LOWER_MIXTURE)
    for name, tensor in outside.items():
        if name in top:
            published[top[name]] = tensor
        else:
            unknown.append(name)
    for index, layer in layers.items():
        rest = layer
        for slot in ("ffn.moe.", "ffn.lower_moe."):
            mixture, rest = _split(rest, slot)
            for name, tensor in mixture_to_published(mixture).items():
                published[f"encoder.layers.{index}.mlp_moe.moe.{name}"] = tensor
        for name, tensor in rest.items():
            old = _renamed(name, back)
            if old is None:
                unknown.append(f"layers.{index}.{name}")
            else:
                published[f"encoder.layers.{index}.{old}"] = tensor
    if unknown:
        raise CheckpointError(
            f"weights that the published EVE has no place for: {', '.join(sorted(unknown))}"
        )
    if "pos_embed_vision" in published:
        published["position_ids_vision"] = torch.arange(len(published["pos_embed_vision"]))[None]
    if "pos_embed_text" in published:
        published["position_ids_text"] = torch.arange(len(published["pos_embed_text"]))
    return published

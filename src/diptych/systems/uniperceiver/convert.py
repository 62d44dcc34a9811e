"""Names of weights: the published Uni-Perceiver checkpoints' keys (current format) and ours, both ways."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.importing import names_in_published

_TOP = {
    "token_embed.embeddings.weight": "text.words.weight",
    "token_embed.embeddings_norm.weight": "text.norm.weight",
    "token_embed.embeddings_norm.bias": "text.norm.bias",
    "token_embed.embeddings_pos.position_embeddings.weight": "text.positions.weight",
    "token_embed.embeddings_token_type.weight": "text.types.weight",
    "video_embed.embeddings.weight": "visual.patches.weight",
    "video_embed.embeddings.bias": "visual.patches.bias",
    "video_embed.embeddings_norm.weight": "visual.norm.weight",
    "video_embed.embeddings_norm.bias": "visual.norm.bias",
    "video_embed.embeddings_type.weight": "visual.types.weight",
    "video_embed.embeddings_st_pos.spatial_pos_embed.weight": "visual.spatial",
    "video_embed.embeddings_st_pos.temporal_pos_embed.weight": "visual.temporal.weight",
    "loss_prepare.ln_post.weight": "likelihood.norm.weight",
    "loss_prepare.ln_post.bias": "likelihood.norm.bias",
    "loss_prepare.proj.weight": "likelihood.projection.weight",
    "loss_prepare.proj.bias": "likelihood.projection.bias",
    "s_token_bias": "text.slot_bias",
    "similarity_weight": "similarity",
    "fc_prompt.weight": "classifier.weight",
    "fc_prompt.bias": "classifier.bias",
    "prompt_embed.target_embedding": "label_prompt",
}
_SCALE, _OUR_SCALE = "loss_prepare.logit_scale_", "likelihood.scales."
_ALIAS = "token_embed.s_token_bias"
_LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "self_attn.qkv_proj": "qkv",
    "self_attn.dense": "out",
    "self_attn.out_proj": "out",
    "linear1": "fc1",
    "linear2": "fc2",
}
_WHOLE = {
    "gamma_1": "scale1",
    "gamma_2": "scale2",
    "self_attn.in_proj_weight": "qkv.weight",
    "self_attn.in_proj_bias": "qkv.bias",
    "deep_prompt_embedding.embedding.weight": "prompt",
    "deep_prompt_embedding.target_embedding.weight": "target_prompt",
}
_GATE = {
    "gate.tag_transform.0.weight": "gate.tag.weight",
    "gate.tag_transform.0.bias": "gate.tag.bias",
    "gate.tag_transform.1.weight": "gate.norm.weight",
    "gate.tag_transform.1.bias": "gate.norm.bias",
    "gate.wg.weight": "gate.weight",
}
_PUBLISHED_LAYER = re.compile(r"fused_encoder\.layers\.(\d+)\.(.+)")
_OUR_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"(.+)\.experts\.deepspeed_experts\.(\d+)\.(weight|bias)")


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that have no place with us, sorted."""


def from_published(state: Mapping[str, Tensor]) -> Imported:
    """Turn a published state dict into ours (`model.*`); experts are stacked.

    Where words and patches share their norm it is read once.

    Raises:
        CheckpointError: it is none, or experts are missing.
    """
    ours: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    ignored = []
    for name, tensor in state.items():
        found = _EXPERT.fullmatch(name)
        if found:
            module = our_name(f"{found.group(1)}.weight")
            if module is None:
                ignored.append(name)
                continue
            key = f"{module.removesuffix('weight')}{found.group(3)}"
            experts.setdefault(key, {})[int(found.group(2))] = tensor.float()
            continue
        own = our_name(name)
        if own is None:
            if name != _ALIAS:
                ignored.append(name)
            continue
        ours[own] = tensor.float() if tensor.is_floating_point() else tensor
    for key, parts in experts.items():
        if sorted(parts) != list(range(len(parts))):
            raise CheckpointError(f"experts {sorted(parts)} of {key} have gaps")
        ours[key] = torch.stack([parts[i] for i in range(len(parts))])
    if "model.text.words.weight" not in ours and not any(n.startswith("model.layers.") for n in ours):
        raise CheckpointError(
            f"no token_embed.* or fused_encoder.*: expected a published Uni-Perceiver checkpoint, got "
            f"{sorted(state)[:3]}"
        )
    _share_norm(ours)
    return Imported(ours, sorted(ignored))


def _share_norm(ours: dict[str, Tensor]) -> None:
    """Drop the patches' norm where it is that of the words."""
    pairs = [(f"model.visual.norm.{part}", f"model.text.norm.{part}") for part in ("weight", "bias")]
    if all(a in ours and b in ours and torch.equal(ours[a], ours[b]) for a, b in pairs):
        for name, _ in pairs:
            del ours[name]


def our_name(name: str) -> str | None:
    """Return our name of a published key; None: it has none. Experts are no business of this function."""
    if name in _TOP:
        return f"model.{_TOP[name]}"
    if name.startswith(_SCALE):
        return f"model.{_OUR_SCALE}{name.removeprefix(_SCALE)}"
    found = _PUBLISHED_LAYER.fullmatch(name)
    if found is None:
        return None
    number, rest = found.groups()
    own = _layer_name(rest)
    return None if own is None else f"model.layers.{number}.{own}"


def _layer_name(rest: str) -> str | None:
    if rest in _WHOLE:
        return _WHOLE[rest]
    for theirs, ours in _LAYER.items():
        if rest.startswith(f"{theirs}."):
            part = rest.removeprefix(f"{theirs}.")
            if part in ("weight", "bias"):
                return f"{ours}.{part}"
            return f"{ours}.{_GATE[part]}" if part in _GATE else None
    return None


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn our state dict (`model.*`) into published keys.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    conditional = {name.rpartition(".gate.")[0] for name in state if ".gate." in name}
    split = bool(conditional)
    published: dict[str, Tensor] = {}
    for name, theirs in names_in_published(state, lambda name: published_name(name, split=split)).items():
        if name.rpartition(".")[0] in conditional:
            base, _, part = theirs.rpartition(".")
            for number, expert in enumerate(state[name].unbind(0)):
                published[f"{base}.experts.deepspeed_experts.{number}.{part}"] = expert.clone()
        else:
            published[theirs] = state[name]
    if "model.visual.norm.weight" not in state and "model.text.norm.weight" in state:
        for part in ("weight", "bias"):
            published[f"video_embed.embeddings_norm.{part}"] = state[f"model.text.norm.{part}"]
    return published


def published_name(name: str, *, split: bool = False) -> str | None:
    """Undo `our_name`; `split`: the model has experts, whose layers call their maps otherwise."""
    if not name.startswith("model."):
        return None
    name = name.removeprefix("model.")
    for theirs, ours in _TOP.items():
        if name == ours:
            return theirs
    if name.startswith(_OUR_SCALE):
        return f"{_SCALE}{name.removeprefix(_OUR_SCALE)}"
    found = _OUR_LAYER.fullmatch(name)
    if found is None:
        return None
    number, rest = found.groups()
    theirs_layer = _layer_original(rest, split=split)
    return None if theirs_layer is None else f"fused_encoder.layers.{number}.{theirs_layer}"


def _layer_original(rest: str, *, split: bool) -> str | None:
    packed = {ours: theirs for theirs, ours in _WHOLE.items() if not (split and ours.startswith("qkv."))}
    if rest in packed:
        return packed[rest]
    module, _, part = rest.partition(".")
    names = {"norm1": "norm1", "norm2": "norm2", "fc1": "linear1", "fc2": "linear2"}
    names |= {"qkv": "self_attn.qkv_proj", "out": "self_attn.dense" if split else "self_attn.out_proj"}
    if module not in names:
        return None
    gates = {ours: theirs for theirs, ours in _GATE.items()}
    if part in ("weight", "bias"):
        return f"{names[module]}.{part}"
    return f"{names[module]}.{gates[part]}" if part in gates else None


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Return our name -> published name, for those that have one (of experts that of the whole map)."""
    asked = list(names)
    split = any(".gate." in name for name in asked)
    return {name: theirs for name in asked if (theirs := published_name(name, split=split)) is not None}

"""Names of weights: VideoChat2's stage 1 (and BLIP-2's first stage) and ours, both ways."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.blocks.qformer import our_qformer_name, published_qformer_name
from diptych.blocks.video_vit import our_video_name, published_video_name
from diptych.errors import CheckpointError
from diptych.systems.importing import names_in_published

_WHOLE = {
    "vision_temp_embed": "model.temporal",
    "query_tokens": "model.qformer.query_tokens",
    "temp": "temperature",
}
_PARTS = {
    "vision_layernorm": "model.visual_norm",
    "vision_proj": "model.visual_projection",
    "text_proj": "model.text_projection",
    "itm_head": "itm.classifier",
}
_CAPTION = {
    "transform.dense.weight": "dense.weight",
    "transform.dense.bias": "dense.bias",
    "transform.LayerNorm.weight": "norm.weight",
    "transform.LayerNorm.bias": "norm.bias",
    "bias": "bias",
}
_BLIP2 = {"Qformer.": "qformer.", "ln_vision.": "vision_layernorm."}
"""How BLIP-2 calls them."""
_WORDS = "model.qformer.words.weight"
_TIED = {"decoder.weight": _WORDS, "decoder.bias": "caption.bias"}
"""Names of tensors that the published layout has twice."""


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that have no place with us, sorted."""


def our_name(name: str) -> str | None:
    """Return our name of a published key; None: it has none."""
    for theirs, ours in _BLIP2.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    if name in _WHOLE:
        return _WHOLE[name]
    module, _, kind = name.rpartition(".")
    if module in _PARTS:
        return f"{_PARTS[module]}.{kind}"
    if name.startswith("qformer.cls.predictions."):
        rest = name.removeprefix("qformer.cls.predictions.")
        return f"caption.{_CAPTION[rest]}" if rest in _CAPTION else _TIED.get(rest)
    for prefix, find, where in (
        ("vision_encoder.encoder.", our_video_name, "model.visual."),
        ("qformer.bert.", our_qformer_name, "model.qformer."),
    ):
        if name.startswith(prefix):
            found = find(name.removeprefix(prefix))
            return None if found is None else where + found
    return None


def published_name(name: str) -> str | None:
    """Return the published key of one of our weights; None: it has none."""
    for table in (_WHOLE, _PARTS):
        for theirs, ours in table.items():
            if name == ours:
                return theirs
            if table is _PARTS and name.startswith(f"{ours}."):
                return f"{theirs}.{name.removeprefix(f'{ours}.')}"
    for theirs, ours in _CAPTION.items():
        if name == f"caption.{ours}":
            return f"qformer.cls.predictions.{theirs}"
    for prefix, find, where in (
        ("model.visual.", published_video_name, "vision_encoder.encoder."),
        ("model.qformer.", published_qformer_name, "qformer.bert."),
    ):
        if name.startswith(prefix):
            found = find(name.removeprefix(prefix))
            return None if found is None else where + found
    return None


def from_published(state: Mapping[str, Tensor]) -> Imported:
    """Turn a published state dict into ours.

    Raises:
        CheckpointError: it is no such checkpoint, or tensors that are one and the same differ.
    """
    ours: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    ignored = []
    for name, tensor in state.items():
        found = our_name(name)
        if found is None:
            if not name.endswith("position_ids"):
                ignored.append(name)
            continue
        value = tensor.float() if tensor.is_floating_point() else tensor
        if found in ours and not torch.equal(ours[found], value):
            raise CheckpointError(f"{name} and {origin[found]} are one tensor, but their values differ")
        ours[found], origin[found] = value, name
    if "model.qformer.query_tokens" not in ours:
        raise CheckpointError(
            f"no query_tokens: expected a checkpoint of VideoChat2's stage 1, got {sorted(state)[:3]}"
        )
    return Imported(ours, sorted(ignored))


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn our state dict into published keys.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    names = names_in_published(state, published_name)
    published = {names[name]: tensor for name, tensor in state.items()}
    for theirs, ours in _TIED.items():
        if ours in state and "caption.bias" in state:
            published[f"qformer.cls.predictions.{theirs}"] = state[ours]
    return published


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Return parameter name -> published name, where there is one."""
    found = {name: published_name(name) for name in names}
    return {name: theirs for name, theirs in found.items() if theirs is not None}

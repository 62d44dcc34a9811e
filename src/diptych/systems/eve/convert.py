"""Published EVE checkpoints to our weights and back: heads, load rules, position tables.

A published state dict holds the backbone under `backbone.` and the heads beside it; ours holds the model
under `model.` and the heads of a task under their own names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diptych.blocks.positions import resize_positions
from diptych.errors import CheckpointError
from diptych.systems.eve.keys import backbone_from_published, backbone_to_published

HEADS = {
    "itc_temp": "itc.temperature",
    "itc_vision_proj_head.weight": "itc.visual.weight",
    "itc_text_proj_head.weight": "itc.text.weight",
    "itm_head.weight": "itm.classifier.weight",
    "itm_head.bias": "itm.classifier.bias",
}
"""Retrieval heads: published name -> ours."""

# Where a pre-training checkpoint keeps heads that retrieval can start from; later lines win.
_PRETRAINED = (
    ("mitc_temp", "itc_temp"),
    ("mitc_vision_proj_head.weight", "itc_vision_proj_head.weight"),
    ("mitc_text_proj_head.weight", "itc_text_proj_head.weight"),
    ("mitm_head.weight", "itm_head.weight"),
    ("mitm_head.bias", "itm_head.bias"),
    ("itc_vl_vision_proj_head.weight", "itc_vision_proj_head.weight"),
    ("itc_vl_text_proj_head.weight", "itc_text_proj_head.weight"),
)
_PREFIX = "backbone."
_MASK_VECTOR = "mask_embed_vision"


@dataclass(frozen=True)
class LoadRules:
    """What to take from a published checkpoint."""

    heads: Literal["best", "own", "none"] = "best"
    """best: heads of masked pre-training (`mitc_*`, `mitm_*`, then `itc_vl_*`) take the place of the plain
    ones, as the published code does with `load_head`. own: the plain ones only. none: fresh heads
    (`load_head` off)."""
    grid: int | None = None
    """Patches a side that the position table is resized to; None keeps it."""


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that were left out, sorted."""


def from_published(state: Mapping[str, Tensor], rules: LoadRules = LoadRules()) -> Imported:
    """Turn a published state dict (keys `backbone.*` and heads) into ours (`model.*`, `itc.*`, `itm.*`).

    Position counters are dropped silently; heads of other tasks and of pre-training come back in `ignored`.

    Raises:
        CheckpointError: no backbone, or backbone keys without a place in the model.
    """
    backbone = {n[len(_PREFIX) :]: t for n, t in state.items() if n.startswith(_PREFIX)}
    if not backbone:
        raise CheckpointError(
            f"no keys under '{_PREFIX}': expected a published EVE checkpoint, got {sorted(state)[:3]}"
        )
    ignored = {f"{_PREFIX}{_MASK_VECTOR}"} if backbone.pop(_MASK_VECTOR, None) is not None else set()
    if rules.grid is not None and "pos_embed_vision" in backbone:
        backbone["pos_embed_vision"] = resize_positions(backbone["pos_embed_vision"], rules.grid)
    ours = {f"model.{n}": t for n, t in backbone_from_published(backbone).items()}
    heads, used = choose_heads(state, rules)
    ours |= {HEADS[name]: tensor for name, tensor in heads.items()}
    ignored |= {name for name in state if not name.startswith(_PREFIX)} - used
    return Imported(ours, sorted(ignored))


def choose_heads(state: Mapping[str, Tensor], rules: LoadRules) -> tuple[dict[str, Tensor], set[str]]:
    """Return the retrieval heads under their published names, and the checkpoint's keys they come from."""
    if rules.heads == "none":
        return {}, set()
    source = {name: name for name in HEADS if name in state}
    if rules.heads == "best":
        source |= {head: name for name, head in _PRETRAINED if name in state}
    return {head: state[name] for head, name in source.items()}, set(source.values())


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn our state dict of a task (`model.*`, `itc.*`, `itm.*`) into the published keys.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    model = {n[len("model.") :]: t for n, t in state.items() if n.startswith("model.")}
    published = {f"{_PREFIX}{n}": t for n, t in backbone_to_published(model).items()}
    back = {ours: name for name, ours in HEADS.items()}
    unknown = []
    for name, tensor in state.items():
        if name in back:
            published[back[name]] = tensor
        elif not name.startswith("model."):
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"weights without a name in published checkpoints: {', '.join(sorted(unknown))}"
        )
    return published

"""Published EVE checkpoints to our weights and back: heads, load rules, position tables.

A published state dict holds the backbone under `backbone.` and the heads beside it; ours holds the model
under `model.` and the heads of a task under their own names.
"""

from collections.abc import Iterable, Mapping
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


def _both(table: Mapping[str, str]) -> dict[str, str]:
    """Return the renames of a module's weight and bias for each rename of a module."""
    return {f"{old}.{part}": f"{new}.{part}" for old, new in table.items() for part in ("weight", "bias")}


_PACKED_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
VQA_HEADS = _both({"output.0": "vqa.hidden", "output.1": "vqa.norm", "output.3": "vqa.classifier"})
"""Heads of question answering."""
PLAIN_HEADS = _both({"output.0": "nlvr.hidden", "output.1": "nlvr.norm", "output.3": "nlvr.classifier"})
"""Heads of NLVR2 without attention between the two pictures."""
BIATTN_HEADS = {
    **{f"attn1.{part}": f"nlvr.first_attention.{part}" for part in _PACKED_ATTENTION},
    **{f"attn2.{part}": f"nlvr.second_attention.{part}" for part in _PACKED_ATTENTION},
    **_both({"fc.0": "nlvr.joint", "attn_pool.fc.0": "nlvr.pool", "nlvr2_output": "nlvr.classifier"}),
}
"""Heads of NLVR2 with attention between the two pictures."""
TASK_HEADS: dict[str, Mapping[str, str]] = {
    "retrieval": HEADS,
    "vqa": VQA_HEADS,
    "nlvr_plain": PLAIN_HEADS,
    "nlvr_biattn": BIATTN_HEADS,
}
"""Every set of heads by its kind: published name -> ours."""
_OUR_HEADS = {ours: name for table in TASK_HEADS.values() for name, ours in table.items()}
# The classifier of NLVR2 has two published names; which one it is shows in what lies beside it.
_BIATTN_SIGN = "nlvr.pool.weight"

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
    """Retrieval heads. best: those of masked pre-training (`mitc_*`, `mitm_*`, then `itc_vl_*`) take the
    place of the plain ones, as the published code does with `load_head`. own: the plain ones only. none:
    fresh heads (`load_head` off). Heads of VQA and NLVR2 are taken by name always, as published."""
    grid: int | None = None
    """Patches a side that the position table is resized to; None keeps it."""


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that were left out, sorted."""


def from_published(state: Mapping[str, Tensor], rules: LoadRules = LoadRules()) -> Imported:
    """Turn a published state dict (keys `backbone.*` and heads) into ours (`model.*`, `itc.*`, `vqa.*`, ...).

    Position counters are dropped silently; decoders and unused heads of pre-training come back in `ignored`.

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
    for kind in answer_kinds(state, ours):
        found = {name: new for name, new in TASK_HEADS[kind].items() if name in state}
        ours |= {new: state[name] for name, new in found.items()}
        used |= found.keys()
    ignored |= {name for name in state if not name.startswith(_PREFIX)} - used
    return Imported(ours, sorted(ignored))


def answer_kinds(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """Return which heads of TASK_HEADS, retrieval's aside, a published state dict holds.

    The heads of VQA and of plain NLVR2 have equal names: the latter read two fused tokens instead of one.
    """
    kinds = ["nlvr_biattn"] if "nlvr2_output.weight" in state else []
    first, norm = state.get("output.0.weight"), ours.get("model.norm.weight")
    if first is not None and norm is not None and first.dim() == 2:
        kinds.append("vqa" if first.shape[1] == norm.shape[0] else "nlvr_plain")
    return kinds


def choose_heads(state: Mapping[str, Tensor], rules: LoadRules) -> tuple[dict[str, Tensor], set[str]]:
    """Return the retrieval heads under their published names, and the checkpoint's keys they come from."""
    if rules.heads == "none":
        return {}, set()
    source = {name: name for name in HEADS if name in state}
    if rules.heads == "best":
        source |= {head: name for name, head in _PRETRAINED if name in state}
    return {head: state[name] for head, name in source.items()}, set(source.values())


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn our state dict of a task (`model.*` and heads) into the published keys.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    model = {n[len("model.") :]: t for n, t in state.items() if n.startswith("model.")}
    published = {f"{_PREFIX}{n}": t for n, t in backbone_to_published(model).items()}
    names = head_names(state)
    unknown = sorted(n for n in state if not n.startswith("model.") and n not in names)
    if unknown:
        raise CheckpointError(f"weights without a name in published checkpoints: {', '.join(unknown)}")
    return published | {names[n]: t for n, t in state.items() if n in names}


def head_names(state: Iterable[str]) -> dict[str, str]:
    """Return our name -> published name of all heads; `state` tells the two kinds of NLVR2 apart."""
    kind = BIATTN_HEADS if _BIATTN_SIGN in state else PLAIN_HEADS
    return _OUR_HEADS | {ours: name for name, ours in kind.items()}


def publishable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a task's weights that published checkpoints have a place for."""
    return {n: t for n, t in state.items() if n.startswith("model.") or n in _OUR_HEADS}

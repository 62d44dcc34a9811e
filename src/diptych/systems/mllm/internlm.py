"""InternLM2 as a Llama: names of weights, and the fused projection of queries, keys and values.

InternLM2 computes what Llama does; its `wqkv` holds for each key-value head the rows of the query heads that
share it, then those of the key, then those of the value. Partial LoRA on it becomes three branches with one
`down`, which is kept at `q_proj`.

Legend: G key-value heads, R query heads that share one, d width of a head.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.errors import CheckpointError

SHARED = (("q_proj", "k_proj", "v_proj"),)
"""What `blocks.plora.add_plora` is to share for weights that come from a fused projection."""
PLORA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers of a decoder block that have partial LoRA in InternLM-XComposer2."""

_TOP = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
_NORMS = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_FUSED = "attention.wqkv"
_PARTS = ("q_proj", "k_proj", "v_proj")
_FOLLOWERS = ("self_attn.k_proj", "self_attn.v_proj")
_PLACES = re.compile(r"self_attn\.[kv]_proj\.")
_BLOCK = "model.layers."
_DOWN, _UP = "Plora_A.weight", "Plora_B.weight"


@dataclass(frozen=True)
class Heads:
    """Attention heads of a model."""

    queries: int
    keys: int
    """Key-value heads, a divisor of `queries`."""


def split_fused(rows: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Cut rows [(queries + 2 keys) d, ...] of a fused projection into those of queries, keys and values.

    Raises:
        CheckpointError: the number of rows does not go with the heads.
    """
    each, G = heads.queries // heads.keys, heads.keys
    if heads.queries % G or len(rows) % ((each + 2) * G):
        raise CheckpointError(
            f"wqkv has {len(rows)} rows, which {heads.queries} query heads and {G} key-value heads do not "
            "make; expected a multiple of queries + 2 keys"
        )
    grouped = rows.view(G, each + 2, -1, *rows.shape[1:])  # [G, R + 2, d, ...]
    parts = grouped[:, :each], grouped[:, each], grouped[:, each + 1]
    queries, keys, values = (part.reshape(-1, *rows.shape[1:]) for part in parts)
    return queries, keys, values


def join_fused(queries: Tensor, keys: Tensor, values: Tensor, heads: Heads) -> Tensor:
    """Undo `split_fused`."""
    G, rest = heads.keys, queries.shape[1:]
    q = queries.view(G, heads.queries // G, -1, *rest)
    k, v = (rows.view(G, 1, -1, *rest) for rows in (keys, values))
    return torch.cat([q, k, v], dim=1).reshape(-1, *rest)


def to_llama(state: Mapping[str, Tensor], heads: Heads) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the language part of an InternLM2 or InternLM-XComposer2 checkpoint to transformers' Llama.

    Layers with partial LoRA get the names of `blocks.plora.PartialLora` (`base`, `down`, `up`).

    Returns:
        The weights, and the names that are no part of InternLM2, sorted.

    Raises:
        CheckpointError: a fused projection that does not go with the heads.
    """
    wrapped = {name.removesuffix(f".{_DOWN}") for name in state if name.endswith(_DOWN)}
    found: dict[str, Tensor] = {}
    left = []
    for name, tensor in state.items():
        named = _llama_names(name, tensor, heads, wrapped)
        if named is None:
            left.append(name)
        else:
            found |= named
    return found, sorted(left)


def _llama_names(name: str, tensor: Tensor, heads: Heads, wrapped: set[str]) -> dict[str, Tensor] | None:
    """Return one tensor under its names in a Llama; None: it has no place there."""
    if name in _TOP:
        return {_TOP[name]: tensor}
    if not name.startswith(_BLOCK):
        return None
    number, _, rest = name.removeprefix(_BLOCK).partition(".")
    block = f"{_BLOCK}{number}."
    layer, _, part = rest.partition(".")
    if layer in _NORMS:
        return {f"{block}{_NORMS[layer]}.{part}": tensor}
    second, _, part = part.partition(".")
    module = f"{layer}.{second}"
    own = {_DOWN: "down.weight", _UP: "up.weight"}.get(part)
    if own is None:
        own = f"base.{part}" if f"{block}{module}" in wrapped else part
    if module in _LAYER:
        return {f"{block}{_LAYER[module]}.{own}": tensor}
    if module != _FUSED:
        return None
    if own == "down.weight":
        return {f"{block}self_attn.q_proj.{own}": tensor}
    pieces = zip(_PARTS, split_fused(tensor, heads), strict=True)
    return {f"{block}self_attn.{which}.{own}": piece.contiguous() for which, piece in pieces}


def from_llama(state: Mapping[str, Tensor], heads: Heads) -> tuple[dict[str, Tensor], list[str]]:
    """Undo `to_llama`.

    Returns:
        The weights under InternLM2's names, and our names that have no place there, sorted: those of layers
        whose queries, keys and values are not all there, too.

    Raises:
        CheckpointError: queries, keys and values have a `down` each, and these differ.
    """
    top = {ours: theirs for theirs, ours in _TOP.items()}
    layers = {ours: theirs for theirs, ours in _LAYER.items()}
    norms = {ours: theirs for theirs, ours in _NORMS.items()}
    found: dict[str, Tensor] = {}
    left = []
    for name, tensor in state.items():
        if name in top:
            found[top[name]] = tensor
            continue
        number, _, rest = name.removeprefix(_BLOCK).partition(".")
        block, first = f"{_BLOCK}{number}.", rest.partition(".")[0]
        if first in norms:
            found[f"{block}{norms[first]}.{rest.partition('.')[2]}"] = tensor
            continue
        module, own = _split_own(rest)
        if module in layers:
            found[f"{block}{layers[module]}.{own}"] = tensor
        elif module == "self_attn.q_proj" and own == _DOWN:
            found[f"{block}{_FUSED}.{own}"] = tensor
        elif module == "self_attn.q_proj" and _has_all(state, name):
            pieces = [state[name.replace("q_proj", which)] for which in _PARTS]
            found[f"{block}{_FUSED}.{own}"] = join_fused(pieces[0], pieces[1], pieces[2], heads)
        elif module in _FOLLOWERS and own == _DOWN:
            _check_shared(state, name)
        elif module not in _FOLLOWERS or not _has_all(state, name):
            left.append(name)
    return found, sorted(left)


def _check_shared(state: Mapping[str, Tensor], name: str) -> None:
    first = _PLACES.sub("self_attn.q_proj.", name)
    if first not in state or not torch.equal(state[first], state[name]):
        raise CheckpointError(
            f"{name} differs from {first}: InternLM2's fused projection has one for both; only models whose "
            "partial LoRA shares `down` over queries, keys and values can be published"
        )


def _has_all(state: Mapping[str, Tensor], name: str) -> bool:
    """Tell whether queries, keys and values of a layer are all there."""
    start, _, end = name.partition("self_attn.")
    last = end.partition(".")[2]
    return all(f"{start}self_attn.{which}.{last}" in state for which in _PARTS)


def _split_own(rest: str) -> tuple[str, str]:
    """Split `self_attn.q_proj.base.weight` into the module and the published name of its tensor."""
    module, _, part = rest.partition(".")
    second, _, part = part.partition(".")
    own = {"down.weight": _DOWN, "up.weight": _UP}.get(part, part.removeprefix("base."))
    return f"{module}.{second}", own

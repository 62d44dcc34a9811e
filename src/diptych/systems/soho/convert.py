"""Names of weights: the published SOHO checkpoints' keys and ours, both ways.

A published state dict holds `backbone.*`, `neck.*`, `language.bert.*` and heads; ours holds the model under
`model.` and the heads of a task under their own names. The matrix of the word scores is the word table
itself: it is written twice and read once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.blocks.bert import bert_name, bert_original
from diptych.errors import CheckpointError
from diptych.systems.importing import names_in_published

_NECK = {
    "neck.conv.conv": "model.neck.conv",
    "neck.conv.bn": "model.neck.bn",
    "neck.ln": "model.neck.norm",
    "neck.begin_line": "model.neck.align_before",
    "neck.pos_line": "model.neck.align",
    "neck.gate_fc.conv": "model.neck.gate",
    "neck.gate_fc.bn": "model.neck.gate_bn",
}
DICTIONARY = {"embed": "codes", "cluster_size": "sizes", "cluster_sum": "totals", "embed_avg": "sums"}
"""Buffers of the dictionary: published name -> ours."""
HEADS = {
    "head.match_class.weight": "itm.weight",
    "head.vqa.0.weight": "vqa.hidden.weight",
    "head.vqa.0.bias": "vqa.hidden.bias",
    "head.vqa.3.weight": "vqa.classifier.weight",
    "head.vqa.3.bias": "vqa.classifier.bias",
}
"""Heads: published name -> ours."""
WORD_SCORES = "mask_l_fc.weight"
"""Published name of the word table as the last layer of the word scores."""
_WORDS = "model.text.words.weight"
_HIDDEN = "neck.mask_emb.weight"
_BERT = "language.bert."
_COUNTERS = ("num_batches_tracked", "position_ids")


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that have no place with us, sorted."""


def our_name(name: str) -> str | None:
    """Return our name of a published key; None: it has none."""
    if name.startswith("backbone."):
        return f"model.{name}"
    if name in HEADS:
        return HEADS[name]
    if name == _HIDDEN:
        return "model.neck.hidden_token"
    if name.startswith("neck.vq."):
        own = DICTIONARY.get(name.removeprefix("neck.vq."))
        return None if own is None else f"model.neck.dictionary.{own}"
    if name.startswith(_BERT):
        found = bert_name(name.removeprefix(_BERT))
        return None if found is None else f"model.{found}"
    module, _, part = name.rpartition(".")
    return f"{_NECK[module]}.{part}" if module in _NECK else None


def published_name(name: str) -> str | None:
    """Undo `our_name`."""
    if name.startswith("model.backbone."):
        return name.removeprefix("model.")
    if name == "model.neck.hidden_token":
        return _HIDDEN
    if name.startswith("model.neck.dictionary."):
        back = {ours: theirs for theirs, ours in DICTIONARY.items()}
        theirs = back.get(name.removeprefix("model.neck.dictionary."))
        return None if theirs is None else f"neck.vq.{theirs}"
    heads = {ours: theirs for theirs, ours in HEADS.items()}
    if name in heads:
        return heads[name]
    module, _, part = name.rpartition(".")
    neck = {ours: theirs for theirs, ours in _NECK.items()}
    if module in neck:
        return f"{neck[module]}.{part}"
    found = bert_original(name.removeprefix("model.")) if name.startswith("model.") else None
    return None if found is None else f"{_BERT}{found}"


def from_published(state: Mapping[str, Tensor]) -> Imported:
    """Turn a published state dict into ours; half precision becomes float32.

    A leading `module.` is dropped. Counters of batches are kept where they are there, and made where not.

    Raises:
        CheckpointError: it is no SOHO checkpoint, or its word scores are not its word table.
    """
    stripped = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not any(name.startswith((_BERT, "backbone.")) for name in stripped):
        raise CheckpointError(
            f"no keys under '{_BERT}' or 'backbone.': expected a published SOHO checkpoint, "
            f"got {sorted(state)[:3]}"
        )
    ours: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in stripped.items():
        found = our_name(name)
        if found is None:
            if name != WORD_SCORES and not name.endswith(_COUNTERS):
                ignored.append(name)
            continue
        value = tensor.float() if tensor.is_floating_point() else tensor
        ours[found] = value.squeeze(0) if name == _HIDDEN and value.dim() == 2 else value
    _check_tied(stripped, ours)
    for name in [n for n in ours if n.endswith("running_var")]:
        ours.setdefault(
            name.replace("running_var", "num_batches_tracked"), torch.zeros((), dtype=torch.int64)
        )
    return Imported(ours, sorted(ignored))


def _check_tied(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    scores, words = state.get(WORD_SCORES), ours.get(_WORDS)
    if scores is not None and words is not None and not torch.equal(scores.float(), words):
        raise CheckpointError(
            f"{WORD_SCORES} differs from {_BERT}embeddings.word_embeddings.weight; "
            "expected one and the same table"
        )


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn our state dict of a task into the published keys.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    names = names_in_published(state, published_name)
    published = {
        names[name]: tensor[None] if names[name] == _HIDDEN else tensor for name, tensor in state.items()
    }
    if _HIDDEN in published and _WORDS in state:
        published[WORD_SCORES] = state[_WORDS]  # pre-training scores words with the table
    return published


def publishable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a task's weights that published checkpoints have a place for."""
    return {name: tensor for name, tensor in state.items() if published_name(name) is not None}


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Return our name -> published name, for those that have one."""
    return {name: theirs for name in names if (theirs := published_name(name)) is not None}

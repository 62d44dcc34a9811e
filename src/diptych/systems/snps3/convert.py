"""Names of weights: the published SNP-S3 checkpoints' keys and ours, both ways.

Published checkpoints nest a model in `model.` once (fine-tuning) or twice (pre-training), with `module.`
for the network itself and, where training was distributed, around everything; and they name the same tensor
up to five times. Any one name of a tensor is enough here, and all that are there must be equal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.blocks.bert import bert_name, bert_original
from diptych.errors import CheckpointError
from diptych.systems.importing import names_in_published

_WRAPPERS = ("model.", "module.")
_ENCODERS = ("swin.", "model.")
"""Where the visual encoder lies below `img_encoder.`: Video Swin, and the others."""
_HEADS = {
    "similarity_dense.0": "match.hidden",
    "similarity_dense.2": "match.score",
    "clf": "vqa.classifier",
    "itm_head.cls.seq_relationship": "itm.classifier",
}
_WORD_HEADS = {"transformer_mlm": "mlm", "text_encoder_mlm": "text_mlm"}
_WORD_HEAD = {
    "transform.dense.weight": "dense.weight",
    "transform.dense.bias": "dense.bias",
    "transform.LayerNorm.weight": "norm.weight",
    "transform.LayerNorm.bias": "norm.bias",
    "bias": "bias",
    "decoder.bias": "bias",
}
_TEXT = {"text_encoder.pooler.dense": "text_pooler", "cross_pooler.dense": "cross_pooler"}
_QUEUES = {"img_queue": "moco.visual_queue.features", "txt_queue": "moco.text_queue.features"}
_POINTERS = {"img_queue_ptr": "moco.visual_queue.pointer", "txt_queue_ptr": "moco.text_queue.pointer"}
_WORDS = "model.text.words.weight"
_REPEATED = (
    "moco_utils.img_encoder_q.",
    "moco_utils.txt_encoder_q.",
    "moco_utils.img_encoder_k.model.head.",
    "img_encoder.model.head.",
)
_DERIVED = ("relative_position_index", "position_ids", "num_batches_tracked")


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in our names."""

    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that have no place with us, sorted."""


def bare(name: str) -> str:
    """Return a key without what wraps the network."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def our_name(name: str) -> str | None:
    """Return our name of a published key (wrapped or not); None: it has none."""
    name = bare(name)
    if name.startswith("moco_utils."):
        return _momentum_name(name.removeprefix("moco_utils."))
    if name.startswith("mlm_head."):
        return _word_head_name(name.removeprefix("mlm_head."))
    module, _, part = name.rpartition(".")
    if module in _HEADS:
        return f"{_HEADS[module]}.{part}"
    found = _network_name(name)
    return None if found is None else f"model.{found}"


def _network_name(name: str) -> str | None:
    """Return our name of a key of the network, without `model.`."""
    name = name.replace("text_encoder.module.", "text_encoder.", 1)
    module, _, part = name.rpartition(".")
    if module in _TEXT:
        return f"{_TEXT[module]}.{part}"
    # The joint encoder is the text encoder.
    for alias, real in (("cross_embeddings.", "embeddings."), ("cross_encoder.", "encoder.")):
        if name.startswith(alias):
            name = f"text_encoder.{real}{name.removeprefix(alias)}"
    if name.startswith("text_encoder."):
        return bert_name(name.removeprefix("text_encoder."))
    if name.startswith("img_encoder."):
        return _visual_name(name.removeprefix("img_encoder."))
    return None


def _visual_name(name: str) -> str | None:
    """Return our name of a key of the visual tower."""
    for ours, theirs in (("fc1", "img_fc.0"), ("fc2", "img_fc.2"), ("projection", "output_proj")):
        if name.startswith(f"{theirs}."):
            return f"visual.{ours}.{name.removeprefix(f'{theirs}.')}"
    for prefix in _ENCODERS:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            # The classifier of ImageNet, and what follows from the window's size.
            unused = rest.startswith("head.") or rest.endswith("relative_position_index")
            return None if unused else f"visual.encoder.{rest}"
    return None


def _word_head_name(name: str) -> str | None:
    which, _, rest = name.partition(".cls.predictions.")
    if which not in _WORD_HEADS:
        return None
    if rest == "decoder.weight":
        return _WORDS
    return f"{_WORD_HEADS[which]}.{_WORD_HEAD[rest]}" if rest in _WORD_HEAD else None


def _momentum_name(name: str) -> str | None:
    """Return our name of a key of the momentum copies; those of the live encoders are found elsewhere."""
    if name in _QUEUES:
        return _QUEUES[name]
    if name in _POINTERS:
        return _POINTERS[name]
    part, _, rest = name.partition(".")
    if part == "img_encoder_k":
        found = _visual_name(rest)
    elif part == "txt_encoder_k":
        found = _network_name(f"text_encoder.{rest}")
    else:
        return None
    return None if found is None else f"moco.keys.{found}"


def from_published(state: Mapping[str, Tensor]) -> Imported:
    """Turn a published state dict into ours.

    Raises:
        CheckpointError: it is no SNP-S3 checkpoint, or tensors that are one and the same differ.
    """
    ours: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    ignored = []
    for name, tensor in state.items():
        found = our_name(name)
        if found is None:
            if not _is_known(bare(name)):
                ignored.append(name)
            continue
        value = _value(found, tensor)
        if found in ours and not torch.equal(ours[found], value):
            raise CheckpointError(f"{name} and {origin[found]} are one tensor, but their values differ")
        if found not in ours:
            ours[found], origin[found] = value, name
    if not any(name.startswith(("model.text.", "model.visual.")) for name in ours):
        raise CheckpointError(
            "no text_encoder.* or img_encoder.*: expected a published SNP-S3 checkpoint, "
            f"got {sorted(state)[:3]}"
        )
    return Imported(ours, sorted(ignored))


def _value(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("_queue.features"):
        return tensor.float().t().contiguous()
    if name.endswith("_queue.pointer"):
        return tensor.reshape(())
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_known(name: str) -> bool:
    """Tell whether a key without a place of its own is one that need not be told of."""
    return name == "img_proj" or name.startswith(_REPEATED) or name.endswith(_DERIVED)


def published_name(name: str, encoder: str = "swin") -> str | None:
    """Return the published key of one of our weights, without what wraps the network.

    `encoder` is `system.encoder`: Video Swin lies elsewhere than the others.
    """
    if name.startswith("moco.keys."):
        rest = name.removeprefix("moco.keys.")
        kind = "img_encoder_k" if rest.startswith("visual.") else "txt_encoder_k"
        found = _network_original(rest, encoder)
        return None if found is None else f"moco_utils.{kind}.{found.partition('.')[2]}"
    for theirs, ours in {**_QUEUES, **_POINTERS}.items():
        if name == ours:
            return f"moco_utils.{theirs}"
    for which, ours in _WORD_HEADS.items():
        for theirs, part in _WORD_HEAD.items():
            if name == f"{ours}.{part}" and theirs != "decoder.bias":
                return f"mlm_head.{which}.cls.predictions.{theirs}"
    module, _, part = name.rpartition(".")
    heads = {ours: theirs for theirs, ours in _HEADS.items()}
    if module in heads:
        return f"{heads[module]}.{part}"
    return _network_original(name.removeprefix("model."), encoder) if name.startswith("model.") else None


def _network_original(name: str, encoder: str) -> str | None:
    for ours, theirs in (("fc1", "img_fc.0"), ("fc2", "img_fc.2"), ("projection", "output_proj")):
        if name.startswith(f"visual.{ours}."):
            return f"img_encoder.{theirs}.{name.removeprefix(f'visual.{ours}.')}"
    if name.startswith("visual.encoder."):
        inside = "swin" if encoder == "swin" else "model"
        return f"img_encoder.{inside}.{name.removeprefix('visual.encoder.')}"
    module, _, part = name.rpartition(".")
    text = {ours: theirs for theirs, ours in _TEXT.items()}
    if module in text:
        return f"{text[module]}.{part}"
    found = bert_original(name)
    return None if found is None else f"text_encoder.{found}"


def to_published(state: Mapping[str, Tensor], encoder: str = "swin") -> dict[str, Tensor]:
    """Turn our state dict into published keys, each tensor once, without what wraps the network.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    published: dict[str, Tensor] = {}
    for name, theirs in names_in_published(state, lambda name: published_name(name, encoder)).items():
        tensor = state[name]
        if name.endswith("_queue.features"):
            tensor = tensor.t().contiguous()
        published[theirs] = tensor.reshape(1) if name.endswith("_queue.pointer") else tensor
    return published


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Return our name -> published name, for those that have one."""
    return {name: theirs for name in names if (theirs := published_name(name)) is not None}

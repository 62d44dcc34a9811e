"""Reading published SNP-S3 checkpoint files, and the parts that pre-training starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.blocks.bert import bert_name
from diptych.errors import CheckpointError
from diptych.systems.files import read_state_dict
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.convert import from_published
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.shapes import Shapes, read_config, read_text, read_visual

_KINDS = ("model", "state_dict", "state_dict_ema")
"""Keys under which files hold their weights."""
_BERT_PREFIXES = ("bert.", "")
_BACKBONE_PREFIXES = ("module.", "backbone.", "model.")
_UNUSED = ("fc.", "head.", "cls_head.")
"""Classifiers of backbones."""
_DERIVED = ("relative_position_index", "num_batches_tracked")
_OLD_NORMS = {"gamma": "weight", "beta": "bias"}
"""Names of a norm's weights in the first BERT files."""
MOMENTUM = "moco."


def import_checkpoint(
    path: Path, heads: int | None = None
) -> tuple[SnpS3Config, dict[str, Tensor], list[str]]:
    """Read a published checkpoint; return its configuration, our state dict, and the keys that were left out.

    Momentum copies and queues are taken if they are complete; files from before the first step have none.

    Args:
        path: the file: `{"model": ..., ...}` or the state dict itself, of any floating type.
        heads: attention heads of the text network; None: one per 64 of width.

    Raises:
        CheckpointError: not readable, not SNP-S3, or tensors that do not fit together.
    """
    published = read_state_dict(path, _KINDS)
    imported = from_published(published)
    state = dict(imported.state)
    positions = [len(t) for name, t in published.items() if name.endswith("relative_position_index")]
    config = read_config(_shapes(state), heads, positions[0] if positions else None)
    with torch.device("meta"):
        own = {n: t.shape for n, t in SnpS3Model(config).state_dict().items()}
    expected = {f"model.{n}": shape for n, shape in own.items()}
    found = {n: t.shape for n, t in state.items() if n.startswith("model.")}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors missing, too many or of the wrong shape: {', '.join(wrong[:6])}"
        )
    dropped = _complete_momentum(state, own)
    return config, state, sorted([*imported.ignored, *dropped])


def _complete_momentum(state: dict[str, Tensor], own: Mapping[str, Any]) -> list[str]:
    """Add what our queues know besides; drop copies and queues that are not whole, and return their names."""
    given = [name for name in state if name.startswith(MOMENTUM)]
    queues = ("visual_queue", "text_queue")
    needed = {f"{MOMENTUM}keys.{n}" for n in own if not n.startswith("cross_pooler.")}
    needed |= {f"{MOMENTUM}{queue}.{part}" for queue in queues for part in ("features", "pointer")}
    if set(given) != needed:
        for name in given:
            del state[name]
        return given
    for queue in queues:
        places = len(state[f"{MOMENTUM}{queue}.features"])
        state[f"{MOMENTUM}{queue}.ids"] = torch.zeros(places, dtype=torch.int64)
        # How far it was filled is not told; all places count in any case.
        state[f"{MOMENTUM}{queue}.filled"] = torch.tensor(places)
    return []


def import_parts(
    backbone: Path | None, bert: Path | None, layers: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read what pre-training starts from: a visual encoder trained on classes, and a BERT.

    Args:
        backbone: state dict of a Video Swin (its authors' names), a PVT v2 or a ResNet (torchvision's names),
            wrapped or not; its classifier is left out.
        bert: state dict of a BERT; its heads are left out.
        layers: layers to take of it; None: all.

    Returns:
        Fields of `SnpS3Config` that the shapes tell, weights in our names, and the keys that were left out.

    Raises:
        CheckpointError: a file that is not readable, or not what it should be.
    """
    fields: dict[str, Any] = {}
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    if backbone is not None:
        found, positions, left = _read_backbone(backbone)
        fields |= read_visual(_shapes(found), positions)
        state |= found
        ignored += left
    if bert is not None:
        found, left = _read_bert(bert, layers)
        fields |= read_text(_shapes(found), None)
        state |= found
        ignored += left
    return fields, state, ignored


def _read_backbone(path: Path) -> tuple[dict[str, Tensor], int | None, list[str]]:
    state: dict[str, Tensor] = {}
    ignored, positions = [], None
    for name, tensor in read_state_dict(path, _KINDS).items():
        own = name
        while own.startswith(_BACKBONE_PREFIXES):
            own = own.partition(".")[2]
        if own.endswith("relative_position_index"):
            positions = len(tensor)
        if own.startswith(_UNUSED):
            ignored.append(name)
        elif not own.endswith(_DERIVED):
            state[f"model.visual.encoder.{own}"] = _single(tensor)
    return state, positions, sorted(ignored)


def _read_bert(path: Path, layers: int | None) -> tuple[dict[str, Tensor], list[str]]:
    given = read_state_dict(path, _KINDS)
    prefix = next((p for p in _BERT_PREFIXES if f"{p}embeddings.word_embeddings.weight" in given), None)
    if prefix is None:
        raise CheckpointError(
            f"{path}: expected a BERT checkpoint (embeddings.word_embeddings.weight, with or without 'bert.' "
            f"before it), got {', '.join(sorted(given)[:3])}"
        )
    state: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in given.items():
        stem, _, kind = name.rpartition(".")
        theirs = f"{stem}.{_OLD_NORMS.get(kind, kind)}".removeprefix(prefix)
        ours = bert_name(theirs)
        if theirs.startswith("pooler.dense."):
            # Published: the joint encoder's pooler starts as a copy of the text's.
            for pooler in ("text_pooler", "cross_pooler"):
                state[f"model.{pooler}.{kind}"] = _single(tensor).clone()
        elif ours is None or _is_beyond(ours, layers):
            ignored.append(name)
        else:
            state[f"model.{ours}"] = _single(tensor)
    if layers is not None and f"model.layers.{layers - 1}.fc1.weight" not in state:
        raise CheckpointError(f"{path}: has no {layers} layers (encoder.layer.{layers - 1} is missing)")
    return state, sorted(name for name in ignored if not name.endswith("position_ids"))


def _is_beyond(name: str, layers: int | None) -> bool:
    return layers is not None and name.startswith("layers.") and int(name.split(".")[1]) >= layers


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}

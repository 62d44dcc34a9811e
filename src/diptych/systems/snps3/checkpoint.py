"""Reading published SNP-S3 checkpoint files, and the parts that pre-training starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.bert_file import read_bert
from diptych.systems.files import as_single, read_state_dict, shapes_of
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.convert import from_published
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.shapes import read_config, read_text, read_visual

_KINDS = ("model", "state_dict", "state_dict_ema")
"""Keys under which files hold their weights."""
_BACKBONE_PREFIXES = ("module.", "backbone.", "model.")
_UNUSED = ("fc.", "head.", "cls_head.")
"""Classifiers of backbones."""
_DERIVED = ("relative_position_index", "num_batches_tracked")
_POOLERS = ("text_pooler", "cross_pooler")
"""What BERT's pooler becomes; published: the joint encoder's starts as a copy of the text's."""
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
    config = read_config(shapes_of(state), heads, positions[0] if positions else None)
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
        fields |= read_visual(shapes_of(found), positions)
        state |= found
        ignored += left
    if bert is not None:
        found, left = read_bert(bert, _KINDS, layers, _POOLERS)
        fields |= read_text(shapes_of(found), None)
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
            state[f"model.visual.encoder.{own}"] = as_single(tensor)
    return state, positions, sorted(ignored)

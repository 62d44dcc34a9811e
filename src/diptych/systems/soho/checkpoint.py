"""Reading published SOHO checkpoint files, and the parts that pre-training starts from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.bert_file import read_bert
from diptych.systems.files import as_single, read_state_dict, shapes_of
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import from_published
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.shapes import FROZEN_STAGES, read_backbone, read_config, read_transformer

LAYERS = 3
"""Layers that the released configurations take from BERT."""
_KINDS = ("state_dict", "model")
"""Keys under which files hold their weights."""


def import_checkpoint(
    path: Path, heads: int | None = None
) -> tuple[SohoConfig, dict[str, Tensor], list[str]]:
    """Read a published checkpoint; return its configuration, our state dict, and the keys that were left out.

    Args:
        path: the file: `{"state_dict": ..., ...}` or the state dict itself, of any floating type.
        heads: attention heads; None: one per 64 of width.

    Raises:
        CheckpointError: not readable, not SOHO, or tensors that do not fit together.
    """
    imported = from_published(read_state_dict(path, _KINDS))
    config = read_config(shapes_of(imported.state), heads)
    with torch.device("meta"):
        expected = {f"model.{n}": t.shape for n, t in SohoModel(config).state_dict().items()}
    found = {n: t.shape for n, t in imported.state.items() if n.startswith("model.")}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors missing, too many or of the wrong shape: {', '.join(wrong[:6])}"
        )
    return config, imported.state, imported.ignored


def import_parts(
    backbone: Path | None, bert: Path | None, layers: int = LAYERS
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read what pre-training starts from: a CNN trained on classes, and the first layers of a BERT.

    Args:
        backbone: state dict of a ResNet with torchvision's names; its classifier is left out.
        bert: state dict of a BERT; later layers, pooler and heads are left out.
        layers: layers to take of it.

    Returns:
        Fields of `SohoConfig` that the shapes tell, weights in our names, and the keys that were left out.

    Raises:
        CheckpointError: a file that is not readable, or not what it should be.
    """
    fields: dict[str, Any] = {}
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    if backbone is not None:
        found, left = _read_backbone(backbone)
        fields["backbone"] = read_backbone(shapes_of(found)).with_(frozen_stages=FROZEN_STAGES)
        state |= found
        ignored += left
    if bert is not None:
        found, left = read_bert(bert, _KINDS, layers)
        fields |= read_transformer(shapes_of(found))
        state |= found
        ignored += left
    return fields, state, ignored


def _read_backbone(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    given = {n.removeprefix("module."): t for n, t in read_state_dict(path, _KINDS).items()}
    if "conv1.weight" not in given or "layer1.0.conv1.weight" not in given:
        raise CheckpointError(
            f"{path}: expected a ResNet with torchvision's names (conv1.weight, layer1.0.conv1.weight, ...), "
            f"got {', '.join(sorted(given)[:3])}"
        )
    state = {f"model.backbone.{n}": as_single(t) for n, t in given.items() if not n.startswith("fc.")}
    for name in [n for n in state if n.endswith("running_var")]:
        state.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return state, sorted(n for n in given if n.startswith("fc."))

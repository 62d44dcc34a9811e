"""Reading published checkpoints of VideoChat2's stage 1, and the parts that training it starts from."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.blocks.qformer import our_qformer_name
from diptych.blocks.video_vit import our_video_name
from diptych.errors import CheckpointError
from diptych.systems.bert_file import bert_tensors
from diptych.systems.files import read_state_dict
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.convert import from_published
from diptych.systems.qformer.model import QFormerModel

_KINDS = ("model", "state_dict", "module")
"""Keys under which files hold their weights."""
_VIDEO = "model.visual."
_QFORMER = "model.qformer."
_BLOCK = re.compile(r"model\.visual\.blocks\.(\d+)\.")
_LAYER = re.compile(r"model\.qformer\.layers\.(\d+)\.")
_VIDEO_PREFIXES = ("vision_encoder.encoder.", "vision_encoder.", "encoder.", "module.", "")


def import_checkpoint(
    path: Path, heads: int | None = None, image_size: int | None = None
) -> tuple[QFormerSystemConfig, dict[str, Tensor], list[str]]:
    """Read a published checkpoint; return its configuration, our weights, and the keys that were left out.

    Args:
        path: the file: the state dict, or a dictionary that holds it.
        heads: attention heads of the Q-Former; None: one per 64 of width.
        image_size: side of the pictures; None: 224. Positions are computed, so no weight depends on it.

    Raises:
        CheckpointError: not readable, not such a checkpoint, or tensors that do not fit together.
    """
    imported = from_published(read_state_dict(path, _KINDS))
    state = imported.state
    config = read_config(state, heads, image_size)
    with torch.device("meta"):
        own = {f"model.{n}": t.shape for n, t in QFormerModel(config).state_dict().items()}
    found = {n: t.shape for n, t in state.items() if n.startswith("model.")}
    wrong = sorted(n for n in own.keys() | found.keys() if own.get(n) != found.get(n))
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors missing, too many or of the wrong shape: {', '.join(wrong[:6])}"
        )
    return config, state, imported.ignored


def read_config(
    state: Mapping[str, Tensor], heads: int | None = None, image_size: int | None = None
) -> QFormerSystemConfig:
    """Return the configuration that the shapes of weights (in our names) imply.

    Raises:
        CheckpointError: weights are missing.
    """
    needed = (
        f"{_VIDEO}patch_embed.weight",
        f"{_VIDEO}blocks.0.fc1.weight",
        f"{_QFORMER}words.weight",
        f"{_QFORMER}layers.0.query_ffn.fc1.weight",
        "model.temporal",
        "model.visual_projection.weight",
    )
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(f"not VideoChat2's stage 1: {', '.join(missing)} missing (our names)")
    patch = state[needed[0]]
    seen, width = len(patch), state[f"{_QFORMER}query_tokens"].shape[2]
    return QFormerSystemConfig.model_validate(
        {
            "frames": state["model.temporal"].shape[1],
            "embed_dim": len(state["model.visual_projection.weight"]),
            **({} if image_size is None else {"image_size": image_size}),
            "video": {
                "width": seen,
                "layers": _count(state, _BLOCK),
                "heads": _heads(seen, None),
                "hidden": len(state[needed[1]]),
                "patch_size": patch.shape[-1],
            },
            "qformer": {
                "queries": state[f"{_QFORMER}query_tokens"].shape[1],
                "extra_queries": 0,
                "width": width,
                "layers": _count(state, _LAYER),
                "heads": _heads(width, heads),
                "hidden": len(state[needed[3]]),
                "cross_every": _cross_every(state),
                "vocab_size": len(state[needed[2]]),
                "max_text_tokens": len(state[f"{_QFORMER}positions.weight"]),
            },
        }
    )


def _count(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int:
    return 1 + max(int(found.group(1)) for found in map(pattern.match, state) if found)


def _heads(width: int, heads: int | None) -> int:
    if heads is None and width % 64:
        raise CheckpointError(
            f"width {width} is no multiple of 64: the number of attention heads must be given"
        )
    return heads or width // 64


def _cross_every(state: Mapping[str, Tensor]) -> int:
    """Return the distance between layers that look at the picture."""
    crossed = sorted(
        int(found.group(1)) for name in state if "cross.key.w" in name and (found := _LAYER.match(name))
    )
    return crossed[1] - crossed[0] if len(crossed) > 1 else _count(state, _LAYER)


def import_parts(
    backbone: Path | None, bert: Path | None, layers: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read what stage 1 starts from: a UMT video encoder, and a BERT.

    The query feed-forward networks start as copies of BERT's, as published; queries and cross-attention are
    fresh. BERT's types of tokens are left out, and so is the last layer of a UMT encoder (published).

    Args:
        backbone: state dict of a UMT encoder (`l16_25m.pth`).
        bert: state dict of a BERT; its word table gets one row more, for the token that starts captions.
        layers: layers to take of the encoder; None: all but the last.

    Returns:
        Fields of `QFormerSystemConfig` that the shapes tell, weights in our names, and keys left out.

    Raises:
        CheckpointError: a file that is not readable, or not what it should be.
    """
    fields: dict[str, Any] = {}
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    if backbone is not None:
        video, left = _read_video(backbone, layers)
        patch = video[f"{_VIDEO}patch_embed.weight"]
        fields["video"] = {
            "width": len(patch),
            "layers": _count(video, _BLOCK),
            "heads": _heads(len(patch), None),
            "hidden": len(video[f"{_VIDEO}blocks.0.fc1.weight"]),
            "patch_size": patch.shape[-1],
        }
        state, ignored = state | video, ignored + left
    if bert is not None:
        texts, left = _read_bert(bert)
        words = texts[f"{_QFORMER}words.weight"]
        fields["qformer"] = {
            "extra_queries": 0,
            "width": words.shape[1],
            "layers": _count(texts, _LAYER),
            "heads": _heads(words.shape[1], None),
            "hidden": len(texts[f"{_QFORMER}layers.0.text_ffn.fc1.weight"]),
            "vocab_size": len(words),
            "max_text_tokens": len(texts[f"{_QFORMER}positions.weight"]),
        }
        state, ignored = state | texts, ignored + left
    return fields, state, ignored


def _read_video(path: Path, layers: int | None) -> tuple[dict[str, Tensor], list[str]]:
    found: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in read_state_dict(path, _KINDS).items():
        bare = next(name.removeprefix(p) for p in _VIDEO_PREFIXES if name.startswith(p))
        ours = our_video_name(bare)
        if ours is None:
            ignored.append(name)
        else:
            found[_VIDEO + ours] = tensor.float()
    if f"{_VIDEO}patch_embed.weight" not in found or f"{_VIDEO}blocks.0.fc1.weight" not in found:
        raise CheckpointError(f"{path}: expected a UMT encoder (patch_embed.proj.*, blocks.*), found none")
    kept = layers or _count(found, _BLOCK) - 1
    beyond = [n for n in found if (m := _BLOCK.match(n)) and int(m.group(1)) >= kept]
    for name in beyond:
        del found[name]
    return found, sorted(ignored + beyond)


def _read_bert(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    found: dict[str, Tensor] = {}
    ignored = []
    for name, theirs, tensor in bert_tensors(path, _KINDS):
        ours = our_qformer_name(theirs)
        if ours is None:
            ignored.append(name)
            continue
        found[_QFORMER + ours] = tensor
        if ".text_ffn." in ours:
            found[_QFORMER + ours.replace(".text_ffn.", ".query_ffn.")] = tensor.clone()
    words = found[f"{_QFORMER}words.weight"]
    start = words.mean(0, keepdim=True)  # of captions; a fresh token, near the others
    found[f"{_QFORMER}words.weight"] = torch.cat([words, start])
    return found, sorted(name for name in ignored if not name.endswith("position_ids"))

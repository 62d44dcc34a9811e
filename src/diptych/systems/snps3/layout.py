"""Whole state dicts as the published code writes them: wrapped, and each tensor under all of its names."""

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from diptych.systems.snps3.convert import published_name
from diptych.systems.snps3.shapes import window_of

_PRETRAINING = ("mlm.", "text_mlm.", "itm.")
_OUTSIDE = ("mlm_head.", "itm_head.")
_INSIDE = ("similarity_dense.", "clf.", "moco_utils.")
_TABLE = "attn.relative_position_bias_table"
_WORD_BIAS = re.compile(r"mlm_head\.(\w+)\.cls\.predictions\.bias")
_WORDS = "text_encoder.embeddings.word_embeddings.weight"


def publishable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that the published layout has a place for."""
    encoder = _encoder(state)
    return {name: tensor for name, tensor in state.items() if published_name(name, encoder) is not None}


def to_layout(state: Mapping[str, Tensor], window: tuple[int, int, int] | None = None) -> dict[str, Tensor]:
    """Return a published state dict of a task's weights; those without a place are left out.

    Pre-training nests the network once more than fine-tuning. Tensors that are one have the same memory.

    Args:
        state: our weights, `model.*` and heads.
        window: of Video Swin, for the tables of positions that the published code stores as well; None: as
            the tables of biases tell.
    """
    encoder = _encoder(state)
    nested = any(name.startswith(_PRETRAINING) for name in state)
    inner = "model.model." if nested else "model."
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = published_name(name, encoder)
        if theirs is None:
            continue
        value = tensor
        if name.endswith("_queue.features"):
            value = tensor.t().contiguous()
        elif name.endswith("_queue.pointer"):
            value = tensor.reshape(1)
        names = _names(theirs, state)
        found |= {_wrapped(each, inner): value for each in names}
        if theirs.endswith(_TABLE):
            index = _index(window or window_of(len(value)))
            places = [each.replace(_TABLE, "attn.relative_position_index") for each in names]
            found |= {_wrapped(each, inner): index for each in places}
    return found


def _encoder(state: Mapping[str, Tensor]) -> str:
    """Return `swin` or another encoder: all of them lie in one place."""
    return "swin" if any(n.startswith("model.visual.encoder.patch_embed.") for n in state) else "pvt"


def _wrapped(name: str, inner: str) -> str:
    if name.startswith(_OUTSIDE):
        return f"model.{name}"
    return inner + name if name.startswith(_INSIDE) else f"{inner}module.{name}"


def _names(name: str, state: Mapping[str, Tensor]) -> list[str]:
    """Return all published names of a tensor: those of `state` say which modules there are."""
    found, momentum = [name], "moco.text_queue.pointer" in state
    if _WORD_BIAS.fullmatch(name):
        found.append(name.removesuffix("bias") + "decoder.bias")
    if name == _WORDS:
        heads = {"mlm.bias": "transformer_mlm", "text_mlm.bias": "text_encoder_mlm"}
        found += [
            f"mlm_head.{head}.cls.predictions.decoder.weight" for ours, head in heads.items() if ours in state
        ]
    if name.startswith("text_encoder."):
        rest = name.removeprefix("text_encoder.")
        found.append(f"text_encoder.module.{rest}")
        for part, alias in (("embeddings.", "cross_embeddings."), ("encoder.", "cross_encoder.")):
            if rest.startswith(part):
                found.append(alias + rest.removeprefix(part))
        if momentum:
            found += [f"moco_utils.txt_encoder_q.{module}{rest}" for module in ("", "module.")]
    elif name.startswith("img_encoder.") and momentum:
        found.append(f"moco_utils.img_encoder_q.{name.removeprefix('img_encoder.')}")
    elif name.startswith("moco_utils.txt_encoder_k."):
        rest = name.removeprefix("moco_utils.txt_encoder_k.")
        found.append(f"moco_utils.txt_encoder_k.module.{rest}")
    return found


@cache
def _index(window: tuple[int, int, int]) -> Tensor:
    """Return [N, N] int64: the row of the table of biases for each pair of positions of a window."""
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")
    places = torch.stack(axes).flatten(1)  # [3, N]
    apart = places[:, :, None] - places[:, None] + torch.tensor(window)[:, None, None] - 1
    scale = torch.tensor([(2 * window[1] - 1) * (2 * window[2] - 1), 2 * window[2] - 1, 1])
    return (apart * scale[:, None, None]).sum(0)
